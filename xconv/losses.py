"""Losses: each gives its mean over the batch and the gradient of that mean.

Targets are checked once, on the host, by `targets`, which also brings them into the form that the loss computes with.
Names: N examples, K classes (the last axis of an output), y what the model gave, t the targets, P the positions of one
output that are judged each by itself (all axes but the classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from xconv import checks
from xconv.backend import Array, Backend
from xconv.errors import ConfigError, DataError, ShapeError, described

EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON], as in Keras


class Loss:
    """Parent of the losses: loss = sum over n of w_n l_n / N, with l_n the mean over the positions of example n.

    A loss of your own needs a `name` and `each`; its targets have the shape of the outputs unless `targets` says
    otherwise.
    """

    name: str = "loss"
    activation: ClassVar[str | None] = None  # what makes its probabilities: "softmax", "sigmoid" or None
    logits: bool = False  # whether y is what goes into that activation

    @property
    def absorbs(self) -> str | None:
        """The kind of final layer that `from_logits` lets a model skip; None where y is not probabilities."""
        ours = CLASSES.get(type(self).__name__) is type(self)  # one of your own is asked with what it was written for
        return self.activation if ours and not self.logits else None

    def from_logits(self) -> Loss:
        """The same loss of what goes into the final activation: exact where probabilities are clipped, and faster."""
        if self.logits:
            return self
        if self.activation is None:
            raise ConfigError(f"{self.name}: this loss takes no final activation in. Received: from_logits()")
        return type(self)(**{**self._settings(), "from_logits": True})

    def targets(self, t: Any, n: int, out_shape: tuple[int, ...], what: str) -> np.ndarray:
        """Targets of n outputs of `out_shape`, checked, in the form that `__call__` takes; `what` begins messages.

        The last axis of `out_shape` is the classes, the others the axes as the user sees them.
        """
        t = checks.host_array(t, what)
        if out_shape[-1:] == (1,) and t.shape == (n, *out_shape[:-1]):
            t = t[..., None]
        if t.shape != (n, *out_shape):
            raise self._misshapen(t, (n, *out_shape), (n, *out_shape), what)
        checks.finite(t, what)
        return _floats(t)

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        """(l[N,...], the loss of each position; dy[N, *out_shape], the gradient of their sum)."""
        raise NotImplementedError(f"{self.name}: no each")

    def __call__(self, backend: Backend, y: Array, t: Array, weights: Array | None = None) -> tuple[Array, Array]:
        """(loss as array[1], dy[N, *out_shape]), both on the device in y's dtype; weights[N] of y's dtype."""
        values, dy = self.each(backend.xp, y, t)
        share = 1.0 / values.size  # N P
        if weights is None:
            return values.reshape(-1).sum(keepdims=True) * share, dy * share
        n = y.shape[0]
        shares = weights * share
        loss = (values.reshape(n, -1).sum(axis=1) * shares).sum(keepdims=True)
        return loss, dy * shares.reshape(n, *[1] * (y.ndim - 1))

    def probabilities(self, xp: Any, y: Array) -> Array:
        """What the final activation makes of logits."""
        if self.activation == "softmax":
            return softmax(xp, y)
        return sigmoid(xp, y) if self.activation == "sigmoid" else y

    def as_given(self, xp: Any, y: Array, t: Array) -> Array:
        """The targets as a user gave them, for metrics: rows in y's dtype, or integer labels."""
        return t.astype(y.dtype, copy=False)

    def config(self) -> dict[str, Any]:
        """Plain JSON from which `from_config` makes the loss again."""
        return {"kind": type(self).__name__, **self._settings()}

    def _settings(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._settings().items())})"

    def _misshapen(
        self, t: np.ndarray, expected: tuple[int, ...], outputs: tuple[int, ...], what: str, cure: str = ""
    ) -> ShapeError:
        if t.shape[1:] == expected[1:] and t.ndim == len(expected):
            return ShapeError(
                f"{what}: expected labels for {expected[0]} examples, as many as there are inputs. "
                f"Received: labels for {len(t)}"
            )
        return ShapeError(
            f"{what}: {self.name} expects targets of shape {expected} for outputs of shape {outputs}{cure}. "
            f"Received: {described(t)}"
        )


class _Crossentropy(Loss):
    """-sum_k t_k log p_k at each position, for t as integer labels [N,...] or as rows [N,...,K].

    Logits: log p_k = z_k - max z - log sum exp(z - max z), dz_k = p_k sum(t) - t_k. Probabilities y are divided by
    their sum and clipped, as in Keras 3: p = clip(q, 1e-7, 1 - 1e-7), q = y / sum(y). Where q is clipped its gradient
    is 0, else g_k = -t_k / q_k, and dy_k = (g_k - sum_j g_j q_j) / sum(y).
    """

    activation = "softmax"
    label_smoothing = 0.0

    def __call__(self, backend: Backend, y: Array, t: Array, weights: Array | None = None) -> tuple[Array, Array]:
        ours = CLASSES.get(type(self).__name__) is type(self)
        if not ours or not self.logits or self.label_smoothing or weights is not None or t.ndim == y.ndim:
            return super().__call__(backend, y, t, weights)
        loss, dy = backend.softmax_cross_entropy(y.reshape(-1, y.shape[-1]), t.reshape(-1))  # one pass; the mean: N P
        return loss, dy.reshape(y.shape)

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        rows = _rows(xp, y, t)
        if self.label_smoothing:
            rows = rows * (1.0 - self.label_smoothing) + self.label_smoothing / y.shape[-1]
        if self.logits:
            z = y - y.max(axis=-1, keepdims=True)
            e = xp.exp(z)
            total = e.sum(axis=-1, keepdims=True)
            values = ((xp.log(total) - z) * rows).sum(axis=-1)
            return values, e / total * rows.sum(axis=-1, keepdims=True) - rows
        total = y.sum(axis=-1, keepdims=True)
        q = y / total
        p = _clipped(xp, q)
        g = -rows / p * (p == q)
        return -(rows * xp.log(p)).sum(axis=-1), (g - (g * q).sum(axis=-1, keepdims=True)) / total


class CategoricalCrossentropy(_Crossentropy):
    """-sum_k t_k log p_k, for one-hot targets or rows of probabilities [N,...,K].

    `label_smoothing` s makes t_k (1 - s) + s / K of them (Szegedy et al. 2016). Strictly one-hot targets are kept as
    integer labels: they need a K-th of the memory, and no pass over zeros.
    """

    name = "categorical_crossentropy"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.logits = _flag(from_logits, self.name)
        self.label_smoothing = checks.number(label_smoothing, f"{self.name}: label_smoothing", least=0.0, most=1.0)

    def targets(self, t: Any, n: int, out_shape: tuple[int, ...], what: str) -> np.ndarray:
        t = checks.host_array(t, what)
        outputs = (n, *out_shape)
        if t.shape != outputs:
            labels = t.shape in (outputs[:-1], (*outputs[:-1], 1))
            cure = "; for integer labels use 'sparse_categorical_crossentropy'" if labels else ""
            raise self._misshapen(t, outputs, outputs, what, cure)
        checks.finite(t, what)
        negative = t < 0
        if negative.any():
            at = checks.first(negative)
            raise DataError(f"{what}: {self.name} expects probabilities >= 0. Received: {t[at]} at index {at}")
        sums = t.sum(axis=-1, dtype=np.float64)
        wrong = abs(sums - 1.0) > 1e-4
        if wrong.any():
            at = checks.first(wrong)
            raise DataError(
                f"{what}: {self.name} expects rows that sum to 1; where several classes hold at once use "
                f"'binary_crossentropy'. Received: a sum of {sums[at]:g} at index {at}"
            )
        if ((t == 0) | (t == 1)).all():
            return t.argmax(axis=-1).astype(np.int64)
        return _floats(t)

    def as_given(self, xp: Any, y: Array, t: Array) -> Array:
        return _rows(xp, y, t)

    def _settings(self) -> dict[str, Any]:
        return {"from_logits": self.logits, "label_smoothing": self.label_smoothing}


class SparseCategoricalCrossentropy(_Crossentropy):
    """-log p_t, for integer labels t from 0 to K-1: [N,...] or [N,...,1] for outputs [N,...,K]."""

    name = "sparse_categorical_crossentropy"

    def __init__(self, from_logits: bool = False) -> None:
        self.logits = _flag(from_logits, self.name)

    def targets(self, t: Any, n: int, out_shape: tuple[int, ...], what: str) -> np.ndarray:
        t = checks.host_array(t, what)
        outputs = (n, *out_shape)
        expected = outputs[:-1]
        if t.shape == (*expected, 1):
            t = t[..., 0]
        if t.shape != expected:
            cure = "; for one-hot labels use 'categorical_crossentropy'" if t.shape == outputs else ""
            raise self._misshapen(t, expected, outputs, what, cure)
        checks.integers(t, what)
        return checks.in_range(t, out_shape[-1], what)

    def as_given(self, xp: Any, y: Array, t: Array) -> Array:
        return t

    def _settings(self) -> dict[str, Any]:
        return {"from_logits": self.logits}


class SoftmaxCrossEntropy(_Crossentropy):
    """loss = mean over n of -log softmax(logits[n])[labels[n]], for logits[N,K] and integer or one-hot labels.

    dlogits = (softmax(logits) - onehot(labels)) / N. The layer `softmax` is part of it, as in the book.
    """

    name = "softmax_cross_entropy"
    logits = True

    def targets(self, t: Any, n: int, out_shape: tuple[int, ...], what: str) -> np.ndarray:
        if len(out_shape) != 1:
            raise ShapeError(
                f"{what}: labels need logits (N, classes); end the network with Flatten and Dense. "
                f"Received: a network whose output is (N, {', '.join(map(str, out_shape))})"
            )
        return checks.labels(t, n, out_shape[0], what)

    def as_given(self, xp: Any, y: Array, t: Array) -> Array:
        return t


class BinaryCrossentropy(Loss):
    """-t log p - (1 - t) log(1 - p) at each position, for targets from 0 to 1 of the outputs' shape.

    Logits: max(z, 0) - z t + log(1 + exp(-|z|)), dz = sigmoid(z) - t. Probabilities: p = clip(y, 1e-7, 1 - 1e-7), and
    dy = (p - t) / (p (1 - p)), 0 where y is clipped. `label_smoothing` s makes t (1 - s) + s / 2 of t. Targets (N,)
    will do for outputs (N, 1).
    """

    name = "binary_crossentropy"
    activation = "sigmoid"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0) -> None:
        self.logits = _flag(from_logits, self.name)
        self.label_smoothing = checks.number(label_smoothing, f"{self.name}: label_smoothing", least=0.0, most=1.0)

    def targets(self, t: Any, n: int, out_shape: tuple[int, ...], what: str) -> np.ndarray:
        t = super().targets(t, n, out_shape, what)
        outside = (t < 0) | (t > 1)
        if outside.any():
            at = checks.first(outside)
            raise DataError(f"{what}: {self.name} expects targets from 0 to 1. Received: {t[at]:g} at index {at}")
        return t

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        t = t.astype(y.dtype, copy=False)
        if self.label_smoothing:
            t = t * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.logits:
            return xp.maximum(y, 0.0) - y * t + xp.log1p(xp.exp(-xp.absolute(y))), sigmoid(xp, y) - t
        p, rest = _clipped(xp, y), _clipped(xp, 1.0 - y)  # of float32, 1 - clip(y) would never be as small as 1e-7
        return -(t * xp.log(p) + (1.0 - t) * xp.log(rest)), (p - t) / (p * rest) * (p == y)

    def _settings(self) -> dict[str, Any]:
        return {"from_logits": self.logits, "label_smoothing": self.label_smoothing}


class MeanSquaredError(Loss):
    """(y - t)^2, dy = 2 (y - t), for targets of the outputs' shape; (N,) will do for outputs (N, 1)."""

    name = "mean_squared_error"

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        d = y - t.astype(y.dtype, copy=False)
        return d * d, 2.0 * d


class MeanAbsoluteError(Loss):
    """|y - t|, dy = sign(y - t), which is 0 where they are equal; targets as for MeanSquaredError."""

    name = "mean_absolute_error"

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        d = y - t.astype(y.dtype, copy=False)
        return xp.absolute(d), xp.sign(d)


class Huber(Loss):
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), of d = y - t; dy = d cut to [-delta, delta].

    Huber 1964. Targets as for MeanSquaredError. Both branches are q (|d| - q / 2), with q = min(|d|, delta).
    """

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = checks.number(delta, f"{self.name}: delta", least=0.0)
        if not self.delta:
            raise ConfigError(f"{self.name}: delta must be above 0. Received: {described(delta)}")

    def each(self, xp: Any, y: Array, t: Array) -> tuple[Array, Array]:
        d = y - t.astype(y.dtype, copy=False)
        size = xp.absolute(d)
        q = xp.minimum(size, self.delta)
        return q * (size - 0.5 * q), xp.clip(d, -self.delta, self.delta)

    def _settings(self) -> dict[str, Any]:
        return {"delta": self.delta}


def softmax(xp: Any, z: Array) -> Array:
    """exp(z_k - max z) / sum over k of the same, along the last axis."""
    e = xp.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(xp: Any, z: Array) -> Array:
    """1 / (1 + exp(-z)), written as exp(min(z, 0)) / (1 + exp(-|z|)), which never overflows."""
    return xp.exp(xp.minimum(z, 0.0)) / (1.0 + xp.exp(-xp.absolute(z)))


def _clipped(xp: Any, y: Array) -> Array:
    return xp.minimum(xp.maximum(y, EPSILON), 1.0 - EPSILON)


def _rows(xp: Any, y: Array, t: Array) -> Array:
    """t as rows in y's dtype, from labels [N,...] or from rows."""
    if t.ndim < y.ndim:
        t = t[..., None] == xp.arange(y.shape[-1])
    return t.astype(y.dtype, copy=False)


def _floats(t: np.ndarray) -> np.ndarray:
    """As float32 where that holds every value of the dtype, else as float64."""
    return np.asarray(t, np.float32 if np.result_type(t.dtype, np.float32).itemsize == 4 else np.float64)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name}: from_logits must be True or False. Received: {described(value)}")
    return bool(value)


_ALL = (
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    BinaryCrossentropy,
    MeanSquaredError,
    MeanAbsoluteError,
    Huber,
    SoftmaxCrossEntropy,
)
CLASSES: dict[str, type[Loss]] = {kind.__name__: kind for kind in _ALL}
NAMED: dict[str, type[Loss]] = {
    **{kind.name: kind for kind in _ALL},
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
}
_BY_NAME = {**NAMED, **{name.lower(): kind for name, kind in CLASSES.items()}}


def get(spec: str | Loss) -> Loss:
    """A loss from its name or that of its class, in any case ("mse", "MeanSquaredError"), or itself."""
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str) and spec.lower() in _BY_NAME:
        return _BY_NAME[spec.lower()]()
    if isinstance(spec, type) and issubclass(spec, Loss):
        raise ConfigError(
            f"loss: expected an instance, as {spec.__name__}(), not the class. Received: {described(spec)}"
        )
    raise ConfigError(
        f"loss: expected {', '.join(map(repr, NAMED))} or an instance of xconv.losses.Loss. Received: {described(spec)}"
    )


def from_config(config: Mapping[str, Any]) -> Loss:
    """The loss whose `config` this is."""
    return checks.from_config(config, CLASSES, "loss")
