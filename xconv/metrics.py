"""Metrics, computed where the arrays are; nothing comes to the host until someone asks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from xconv.backend import Array, Backend
from xconv.errors import ConfigError, ShapeError, described
from xconv.losses import Loss
from xconv.shapes import positive


class Metric:
    """Parent of the metrics: a mean over the examples, gathered as one sum per batch.

    A metric of your own needs a `name` and `each`. `loss` is the model's, once a model has the metric: it knows what
    turns logits into probabilities, and how the targets were given.
    """

    name: str = "metric"
    loss: Loss | None = None

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        """The values [N,...] of outputs y[N, *out_shape], as `predict` gives them, and targets t, as the user gave."""
        raise NotImplementedError(f"{self.name}: no each")

    def total(self, backend: Backend, y: Array, t: Array, from_logits: bool) -> Array:
        """The sum over the N examples of their values (where one has several, of their mean): an array of shape ().

        t as the loss's `targets` gave them; `from_logits`: y went not yet through the loss's softmax or sigmoid.
        """
        xp = backend.xp
        if self.loss is not None and type(self) not in _BY_ORDER:
            t = self.loss.as_given(xp, y, t)
            if from_logits and not self.loss.logits:  # else the outputs are logits, and `predict` gives these
                y = self.loss.probabilities(xp, y)
        return _sum(self.each(xp, y, t), y.shape[0])

    def _same_shape(self, y: Array, t: Array) -> None:
        if t.shape != y.shape:
            raise ShapeError(
                f"{self.name}: expected targets of the outputs' shape {tuple(y.shape)}. Received: {described(t)}"
            )


class CategoricalAccuracy(Metric):
    """1 where the first largest entry of y[N,...,K] is at the label t[N,...], or at the largest of t[N,...,K]."""

    name = "categorical_accuracy"

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        return y.argmax(axis=-1) == _labels(y, t, self.name)


class TopKAccuracy(Metric):
    """1 where fewer than k entries of y[N,...,K] exceed the label's; t as for CategoricalAccuracy."""

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        self.k = positive(k, "TopKAccuracy: k")
        self.name = name or f"top_{self.k}_accuracy"

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        at_label = _labels(y, t, self.name)[..., None] == xp.arange(y.shape[-1])
        value = xp.where(at_label, y, -xp.inf).max(axis=-1, keepdims=True)
        return (~(y <= value)).sum(axis=-1) < self.k  # `~(<=)`: NaN counts against it


class BinaryAccuracy(Metric):
    """1 where t is 1 and y > 1/2, or t is 0 and y <= 1/2 (of logits: > 0), at every entry of y[N,...]."""

    name = "binary_accuracy"

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        self._same_shape(y, t)
        return (y > 0.5) == t

    def total(self, backend: Backend, y: Array, t: Array, from_logits: bool) -> Array:
        loss = self.loss
        if loss is not None and loss.activation != "sigmoid":
            return super().total(backend, y, t, from_logits)
        self._same_shape(y, t)
        logits = from_logits or (loss is not None and loss.logits)
        return _sum((y > (0.0 if logits else 0.5)) == t, y.shape[0])  # sigmoid(z) > 1/2 where z > 0


class MeanSquaredError(Metric):
    """(y - t)^2."""

    name = "mse"

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        self._same_shape(y, t)
        d = y - t
        return d * d


class MeanAbsoluteError(Metric):
    """|y - t|."""

    name = "mae"

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        self._same_shape(y, t)
        return xp.absolute(y - t)


class FunctionMetric(Metric):
    """A function f(xp, y, t) that gives one value per example, [N]; named as the function is."""

    def __init__(self, function: Callable[..., Array]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        values = self.function(xp, y, t)
        if getattr(values, "shape", None) != (y.shape[0],):
            raise ShapeError(
                f"metric {self.name!r}: expected one value per example, an array of shape ({y.shape[0]},). "
                f"Received: {described(values)}"
            )
        return values


class KerasFunction(FunctionMetric):
    """A function f(y_true, y_pred) as Keras has it: values [N,...], or one of the whole batch; their mean counts."""

    def each(self, xp: Any, y: Array, t: Array) -> Array:
        values = self.function(t, y)
        shape = getattr(values, "shape", None)
        if shape == ():
            return values + xp.zeros(y.shape[0], y.dtype)
        if not shape or shape[0] != y.shape[0]:
            raise ShapeError(
                f"metric {self.name!r}: expected an array of shape ({y.shape[0]}, ...) or (). "
                f"Received: {described(values)}"
            )
        return values


def _of_function(function: Callable[..., Array]) -> FunctionMetric:
    """By the number of arguments that it needs: 2 as Keras has it, 3 for ours."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # as for some that are written in C
        raise ConfigError(
            f"metric: expected {_FUNCTIONS}. Received: {described(function)}, which does not tell its arguments"
        ) from None
    arguments = signature.parameters.values()
    needed = [a for a in arguments if a.default is a.empty and a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
    kinds: dict[int, type[FunctionMetric]] = {2: KerasFunction, 3: FunctionMetric}
    kind = kinds.get(len(needed))
    if kind is None or any(a.kind is a.KEYWORD_ONLY for a in needed):
        raise ConfigError(f"metric: expected {_FUNCTIONS}. Received: {described(function)}, of arguments {signature}")
    return kind(function)


def _sum(values: Array, n: int) -> Array:
    positions = values.size // n
    return values.sum() if positions == 1 else values.sum() * (1.0 / positions)


def _labels(y: Array, t: Array, name: str) -> Array:
    """Labels [N,...] from labels or rows."""
    if t.shape == y.shape:
        return t.argmax(axis=-1)
    if t.shape != y.shape[:-1]:
        raise ShapeError(
            f"{name}: expected labels of shape {tuple(y.shape[:-1])} or rows of {tuple(y.shape)}. "
            f"Received: {described(t)}"
        )
    return t


NAMED: dict[str, Callable[[], Metric]] = {
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": CategoricalAccuracy,
    "binary_accuracy": BinaryAccuracy,
    "top_k": TopKAccuracy,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
}
ACCURACY = ("accuracy", "acc")
# What depends on the order of y alone needs no softmax, and takes targets as the loss holds them. Exactly these: what
# a subclass computes may well depend on more.
_BY_ORDER = (CategoricalAccuracy, TopKAccuracy)
_CLASSES = {**{name.replace("_", ""): name for name in NAMED}, "topkaccuracy": "top_k"}  # of lower-case class names
_FUNCTIONS = "a function f(xp, y, t), or f(y_true, y_pred) as in Keras"


def get(spec: Any, loss: Loss | None, out_shape: tuple[int, ...]) -> Metric:
    """A metric from a name, a function or a Metric, for a model of this loss (the user's) and outputs.

    "accuracy" is categorical for losses on a softmax, binary for losses on a sigmoid; for others, binary where there
    is one output. A named metric keeps the name it was asked for by, except that "MeanSquaredError", as a class is
    called, is named as in Keras, "mean_squared_error"; either in any case. A function is f(xp, y, t), or Keras's
    f(y_true, y_pred). A Metric is copied, never changed.
    """
    if isinstance(spec, Metric):
        found = copy.copy(spec)
    elif isinstance(spec, str) and spec.lower() in (*ACCURACY, *NAMED):
        found = _accuracy(loss, out_shape) if spec.lower() in ACCURACY else NAMED[spec.lower()]()
        found.name = spec
    elif isinstance(spec, str) and spec.lower() in _CLASSES:
        found = NAMED[_CLASSES[spec.lower()]]()
        found.name = _CLASSES[spec.lower()]
    elif isinstance(spec, type) and issubclass(spec, Metric):
        raise ConfigError(
            f"metric: expected an instance, as {spec.__name__}(), not the class. Received: {described(spec)}"
        )
    elif callable(spec):
        found = _of_function(spec)
    else:
        raise ConfigError(
            f"metric: expected {', '.join(map(repr, (*ACCURACY, *NAMED)))}, an instance of xconv.metrics.Metric or "
            f"{_FUNCTIONS}. Received: {described(spec)}"
        )
    found.loss = loss
    return found


def _accuracy(loss: Loss | None, out_shape: tuple[int, ...]) -> Metric:
    activation = None if loss is None else loss.activation
    if activation is None:
        activation = "sigmoid" if out_shape[-1:] == (1,) else "softmax"
    return BinaryAccuracy() if activation == "sigmoid" else CategoricalAccuracy()
