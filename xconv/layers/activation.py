"""Activations, as layers and by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xconv import checks
from xconv.backend import Array, Need
from xconv.errors import ConfigError, described
from xconv.layers.axes import inside, whole
from xconv.layers.base import Context, Layer, Shape


class ReLU(Layer):
    """y = max(x, 0); dx = dy where y > 0, else 0 (Nair and Hinton 2010)."""

    keeps = "y"

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.relu(x)
        return y, y

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.relu_backward(dy, saved) if need.x else None, {}


class LeakyReLU(Layer):
    """y = x where x > 0, else negative_slope x; dx = dy, or negative_slope dy (Maas et al. 2013).

    `alpha` is another name of `negative_slope`.
    """

    def __init__(self, negative_slope: float = 0.3, *, alpha: float | None = None, **base: Any) -> None:
        super().__init__(**base)
        slope = negative_slope if alpha is None else alpha
        self.negative_slope = checks.number(slope, f"{self.label}: negative_slope", least=0.0)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self.backend.xp.where(x > 0, x, x * self.negative_slope), x

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.xp.where(saved > 0, dy, dy * self.negative_slope) if need.x else None, {}

    def config(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)); dx = dy y (1 - y).

    As max(e, [x >= 0]) / (1 + e) with e = exp(-|x|) <= 1, which overflows for no x and keeps small y exact.
    """

    keeps = "y"

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        e = self.backend.xp.exp(-abs(x))
        y = self.backend.xp.maximum(e, x >= 0) / (1.0 + e)
        return y, y

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return dy * (saved * (1.0 - saved)) if need.x else None, {}


class Tanh(Layer):
    """y = tanh(x); dx = dy (1 - y^2)."""

    keeps = "y"

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.xp.tanh(x)
        return y, y

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return dy * (1.0 - saved * saved) if need.x else None, {}


class Softmax(Layer):
    """y_k = exp(x_k - max x) / sum over j of exp(x_j - max x), along one axis; dx = y (dy - sum of dy y) (Bridle 1990).

    `axis` counts as the user sees the axes, the batch's being 0: the last is that of the classes in [N,K], and that of
    the channels of images in a channels_last model. Taking off the largest x changes nothing, and exp cannot overflow.
    """

    keeps = "y"

    def __init__(self, axis: int = -1, **base: Any) -> None:
        super().__init__(**base)
        self.axis = whole(axis, f"{self.label}: axis")

    def output_shape(self, in_shape: Shape) -> Shape:
        inside(self, self.axis, len(in_shape) + 1)
        return in_shape

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        axis = inside(self, self.axis, x.ndim)
        e = self.backend.xp.exp(x - x.max(axis=axis, keepdims=True))
        y = e / e.sum(axis=axis, keepdims=True)
        return y, y

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        along = (dy * saved).sum(axis=inside(self, self.axis, dy.ndim), keepdims=True)
        return saved * (dy - along), {}

    def config(self) -> dict[str, Any]:
        return {"axis": self.axis}


class Identity(Layer):
    """y = x, the activation "linear"."""

    keeps = ""

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        return 0, 0

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return x, None

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return dy if need.x else None, {}


KINDS: dict[str, type[Layer]] = {kind.__name__: kind for kind in (ReLU, LeakyReLU, Sigmoid, Tanh, Softmax, Identity)}
NAMED: dict[str, tuple[type[Layer], dict[str, Any]]] = {
    "relu": (ReLU, {}),
    "sigmoid": (Sigmoid, {}),
    "tanh": (Tanh, {}),
    "softmax": (Softmax, {}),
    "leaky_relu": (LeakyReLU, {"negative_slope": 0.2}),  # Keras's by that name; its layer LeakyReLU has 0.3
    "linear": (Identity, {}),
}


def Activation(activation: str, **base: Any) -> Layer:
    """The layer called "relu", "sigmoid", "tanh", "softmax", "leaky_relu" (slope 0.2, as Keras) or "linear".

    It is that layer itself, an xconv.layers.ReLU for "relu", and so looks and is saved like one.
    """
    kind, arguments = _named(activation)
    return kind(**arguments, **base)


def get(activation: Any) -> Layer | None:
    """A layer from its name, from what `config_of` gives, or itself; None for no activation."""
    if activation is None or isinstance(activation, Layer):
        return activation
    if isinstance(activation, Mapping):
        return checks.from_config(activation, KINDS, "activation")
    kind, arguments = _named(activation)
    return None if kind is Identity else kind(**arguments)


def config_of(activation: Layer | None) -> dict[str, Any] | None:
    """What `get` makes the same activation from, as plain JSON."""
    return None if activation is None else {"kind": type(activation).__name__, **activation.config()}


def _named(name: Any) -> tuple[type[Layer], dict[str, Any]]:
    if not isinstance(name, str) or name not in NAMED:
        raise ConfigError(
            f"unknown activation: expected {', '.join(map(repr, NAMED))}, a layer, or None. Received: {described(name)}"
        )
    return NAMED[name]
