"""What a layer is. A layer never knows where it runs, and keeps nothing between calls but its parameters."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from xconv.backend import Array, Backend, Need
from xconv.errors import ConfigError, ShapeError, described
from xconv.initializers import Initializer
from xconv.layers.symbolic import Tensor, connect
from xconv.regularizers import Regularizer
from xconv.shapes import as_given, data_format_name, positive

Shape = tuple[int, ...]  # of one example: no batch axis


class Context(NamedTuple):
    """What a forward pass is told besides its input."""

    train: bool = False
    seed: int = 0
    step: Array = None  # uint64[1] on the device: training steps done before this one
    node: int = 0  # which node of the graph runs; with seed and step it keys random numbers
    backward: bool = True  # whether backward may follow; without it nothing need be saved


@dataclass(frozen=True)
class ParamSpec:
    """Shape, first values and penalty of one parameter; `trainable=False` for what no gradient changes."""

    shape: Shape
    initializer: Initializer
    regularizer: Regularizer | None = None
    trainable: bool = True


class Layer:
    """One operation with its parameters.

    A layer of your own overrides `forward` and `backward`, `output_shape` where the shape changes, `param_specs` where
    it has parameters and `config` where it has arguments. `backend` and `params` (name -> array, live views of the
    model's one buffer) are there once a model is built. Images are [N,C,H,W] whatever the model's data format is.

    Args:
        name: in messages, summaries and files; by default the kind and a number.
        trainable: False keeps every parameter of this layer as it is.
        input_shape: of one example, for the first layer of a Sequential, in the model's data format.
        data_format: "channels_last" or "channels_first", where it should be checked against the model's.
    """

    backend: Backend
    params: dict[str, Array]
    store: Any = None  # where the parameters lie, once a model is built
    many_inputs: ClassVar[bool] = False  # True: forward gets a tuple of arrays, and backward gives a tuple of dx
    keeps: ClassVar[str] = "x"  # what `saved` holds on to: the input x, the output y, both, or neither ("")
    takes_pixels: ClassVar[bool] = False  # True: whole numbers above 1 are meant where they come in here
    activation: Layer | None = None  # applied to the output, as a node of its own
    output: Tensor | None = None  # what the last call of this layer gave
    changes: ClassVar[int] = 0  # how often an attribute of any layer was set: recorded steps hold settings fast

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        input_shape: Sequence[int] | None = None,
        data_format: str | None = None,
        **unknown: Any,
    ) -> None:
        self.name = name
        self.params = {}
        if unknown:
            known = arguments_of(type(self))
            near = [match for word in unknown for match in difflib.get_close_matches(word, known, 1)]
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            raise ConfigError(
                f"{self.label}: no such argument{hint}: expected {', '.join(known)}. Received: {', '.join(unknown)}"
            )
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"{type(self).__name__}: name must be a text. Received: {described(name)}")
        self.trainable = bool(trainable)
        self.input_shape: Shape | None = None
        if input_shape is not None:
            if not isinstance(input_shape, Sequence):
                raise ConfigError(
                    f"{self.label}: input_shape must be sizes, as (28, 28, 1). Received: {described(input_shape)}"
                )
            self.input_shape = tuple(positive(n, f"{self.label}: each size of input_shape") for n in input_shape)
        # Before a model is built, what was asked for; in a model, the model's: the axis order that the user sees.
        self.data_format = None if data_format is None else data_format_name(data_format, self.label)

    def __setattr__(self, name: str, value: Any) -> None:
        Layer.changes += 1
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # where it would let every name pass

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            if name in ("name", "params", "trainable", "input_shape", "data_format"):
                raise ConfigError(
                    f"{kind}: its __init__ must call super().__init__(**base) before it does anything else. "
                    f"Received: a layer without {name}"
                )
            raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)

    def __call__(self, inputs: Tensor | Sequence[Tensor], *more: Any, training: Any = None) -> Tensor:
        """This layer applied to what `xconv.Input` or another layer gave; a list of those for a layer that merges."""
        kind = type(self)
        if training is not None:
            raise ConfigError(
                f"{self.label}: whether it trains is not said at the call; layer.trainable = False also keeps "
                f"moving statistics. Received: training={described(training)}"
            )
        if more:
            cure = f"its tensors as one list, {kind.__name__}()([a, b])" if self.many_inputs else "one tensor"
            raise ConfigError(f"{self.label}: expected {cure}. Received: {1 + len(more)} arguments")
        if hasattr(kind, "call") and kind.forward is Layer.forward:
            raise ConfigError(
                f"{self.label}: xconv layers define forward(x, ctx) and backward(dy, saved, need), not call. "
                "Received: a layer with call and no forward"
            )
        return connect(self, inputs)

    @property
    def weights(self) -> list[Array]:
        """The parameters themselves, in the order of `param_specs`: changing one in place changes the model."""
        if not self.params:
            self._expect_store("weights")
        return list(self.params.values())

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the parameters, on the host, in the order of `param_specs`."""
        self._expect_store("get_weights")
        return [np.array(self.backend.to_numpy(array)) for array in self.params.values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """What `get_weights` gave, written back."""
        self._expect_store("set_weights")
        if len(weights) != len(self.params):
            raise ConfigError(
                f"{self.label}: set_weights: expected {len(self.params)} arrays. Received: {len(weights)}"
            )
        for name, array in zip(self.params, weights, strict=True):
            self.store.parameters[f"{self.name}.{name}"] = array

    def _expect_store(self, what: str) -> None:
        if self.store is None:
            raise ConfigError(
                f"{self.label}: {what}: a layer has its weights once its model is used: ask model.params or "
                "model.predict first. Received: a layer without weights"
            )

    @property
    def label(self) -> str:
        """How messages call this layer."""
        kind = type(self).__name__
        return f"{self.name} ({kind})" if self.name else kind

    def output_shape(self, in_shape: Any) -> Shape:
        """Shape of one output for one input of `in_shape`; ShapeError where that cannot be. Allocates nothing.

        Images are (C, H, W). With `many_inputs` a tuple of shapes comes.
        """
        return in_shape

    def param_specs(self, in_shape: Any) -> dict[str, ParamSpec]:
        """The parameters this layer needs for inputs of `in_shape`, in order. Allocates nothing."""
        return {}

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        """x[N, *in_shape] -> y[N, *out_shape] and whatever the backward pass will want to have kept."""
        raise NotImplementedError(f"{self.label}: no forward")

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        """dy[N, *out_shape] -> dx[N, *in_shape], None if not needed, and a gradient per trainable parameter.

        Never writes dy. With `need.params` False the gradients may be None.
        """
        raise NotImplementedError(f"{self.label}: no backward")

    def update(self, saved: Any) -> None:
        """What a training step changes besides the gradients' work, such as moving averages.

        Runs once the step's parameters are updated, with what `learnt` kept; where the step's loss is not finite, not
        at all, or what it did to this layer's `params` is undone. It changes no other arrays.
        """

    def learnt(self, saved: Any) -> Any:
        """What `update` takes, made of `saved`. It is held until the end of the step: the less, the better."""
        return saved

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        """Bytes for each example that y takes (0 where it is a view of x), and that `saved` takes beside x and y."""
        return math.prod(out_shape) * itemsize, 0

    def config(self) -> dict[str, Any]:
        """The arguments that make this layer again, as plain JSON values; name and trainable are added by the model."""
        return {}

    def images_last(self, x: Array) -> Array:
        """x[N,C,H,W] as the user sees it: [N,H,W,C] in a channels_last model. Other ranks as they are."""
        if self.data_format == "channels_last" and x.ndim == 4:
            return self.backend.contiguous(x.transpose(0, 2, 3, 1))
        return x

    def images_first(self, x: Array) -> Array:
        """The way back: from the user's axis order to [N,C,H,W]."""
        if self.data_format == "channels_last" and x.ndim == 4:
            return self.backend.contiguous(x.transpose(0, 3, 1, 2))
        return x

    def _seen(self, shape: Shape) -> Shape:
        """`shape` as the user sees it."""
        return as_given(shape, self.data_format or "channels_first")

    def _expect_images(self, in_shape: Shape) -> tuple[int, int, int]:
        if len(in_shape) != 3:
            axes = "height, width, channels" if self.data_format == "channels_last" else "channels, height, width"
            raise ShapeError(f"{self.label}: expected images, ({axes}). Received: shape {tuple(in_shape)}")
        return in_shape[0], in_shape[1], in_shape[2]


def arguments_of(kind: type) -> list[str]:
    """Names that a class takes as arguments, its own before those that it hands on to its parents."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    makers = [vars(parent)["__init__"] for parent in kind.__mro__[:-1] if "__init__" in vars(parent)]
    return list(
        dict.fromkeys(
            name
            for maker in makers
            for name, parameter in list(inspect.signature(maker).parameters.items())[1:]  # without self
            if parameter.kind in named
        )
    )


def forward_pair(layer: Layer, result: Any) -> tuple[Any, Any]:
    """What `forward` gave, which must be a pair; ConfigError that names the layer otherwise."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise ConfigError(
            f"{layer.label}: forward must give (y, what backward needs of this pass, or None). "
            f"Received: {described(result)}"
        )
    return result


def backward_pair(layer: Layer, result: Any) -> tuple[Any, dict[str, Array]]:
    """What `backward` gave, likewise."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise ConfigError(
            f"{layer.label}: backward must give (dx, gradients of the parameters by name, {{}} without any). "
            f"Received: {described(result)}"
        )
    return result
