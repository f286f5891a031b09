"""Layers that make one array of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

from xconv.backend import Array, Need
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.axes import inside, whole
from xconv.layers.base import Context, Layer, Shape
from xconv.layers.symbolic import Tensor


class _Merge(Layer):
    """Takes two or more arrays."""

    many_inputs = True

    def _refuse(self, given: Any) -> None:
        """Tensors where arguments belong."""
        raise ConfigError(
            f"{self.label}: tensors are given to the layer when it is called: {type(self).__name__}()([a, b]). "
            f"Received: {described(given)}"
        )

    def _shapes(self, in_shape: Any) -> list[Shape]:
        shapes = [tuple(shape) for shape in in_shape]
        if len(shapes) < 2:
            raise ShapeError(f"{self.label}: expected at least two inputs. Received: {len(shapes)}")
        return shapes

    def _mismatch(self, expected: str, shapes: list[Shape]) -> ShapeError:
        seen = ", ".join(str(self._seen(shape)) for shape in shapes)
        return ShapeError(f"{self.label}: expected {expected}. Received: shapes {seen}")


class _Elementwise(_Merge):
    """Arrays of one shape, number by number."""

    def __init__(self, *tensors: Any, **base: Any) -> None:
        super().__init__(**base)
        if tensors:
            self._refuse(tensors[0])

    def output_shape(self, in_shape: Any) -> Shape:
        shapes = self._shapes(in_shape)
        if len(set(shapes)) != 1:
            raise self._mismatch("inputs of the same shape", shapes)
        return shapes[0]


class Add(_Elementwise):
    """y = x1 + x2 + ...; each dx = dy (the shortcut of He et al. 2016)."""

    keeps = ""

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        return reduce(self.backend.add, x), len(x)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        return (dy,) * saved if need.x else None, {}


class Subtract(_Elementwise):
    """y = x1 - x2, of two; dx1 = dy and dx2 = -dy."""

    keeps = ""

    def output_shape(self, in_shape: Any) -> Shape:
        if len(in_shape) != 2:
            raise ShapeError(f"{self.label}: expected exactly two inputs. Received: {len(in_shape)}")
        return super().output_shape(in_shape)

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        return x[0] - x[1], None

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        return (dy, -dy) if need.x else None, {}


class Average(_Elementwise):
    """y = (x1 + x2 + ...) / k; each dx = dy / k."""

    keeps = ""

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        return reduce(self.backend.add, x) * (1.0 / len(x)), len(x)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        return (dy * (1.0 / saved),) * saved if need.x else None, {}


class Multiply(_Elementwise):
    """y = x1 x2 ...; dx_i = dy times all the others."""

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        return reduce(lambda a, b: a * b, x), x

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        if not need.x:
            return None, {}
        # Not dy y / x_i, which an x of 0 would spoil.
        others = [saved[:i] + saved[i + 1 :] for i in range(len(saved))]
        return tuple(reduce(lambda a, b: a * b, rest, dy) for rest in others), {}


class Maximum(_Elementwise):
    """y = max(x1, x2, ...); dy goes to the first input that is the largest."""

    keeps = "xy"

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        y = reduce(self.backend.xp.maximum, x)
        return y, (x, y)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        if not need.x:
            return None, {}
        (first, *rest), y = saved
        won = first == y
        dx = [dy * won]
        for x in rest:
            here = (x == y) & ~won
            dx.append(dy * here)
            won = won | here
        return tuple(dx), {}


class Concatenate(_Merge):
    """The inputs one after another along `axis`; each dx is its stretch of dy.

    `axis` counts as the user sees the axes, the batch's being 0: the last is the channels' of images in a channels_last
    model (channels: Szegedy et al. 2015; Huang et al. 2017). All other sizes must be equal.
    """

    keeps = ""

    def __init__(self, axis: int = -1, **base: Any) -> None:
        super().__init__(**base)
        if isinstance(axis, list | tuple | Tensor):
            self._refuse(axis)
        self.axis = whole(axis, f"{self.label}: axis")

    def output_shape(self, in_shape: Any) -> Shape:
        shapes = self._shapes(in_shape)
        at = inside(self, self.axis, len(shapes[0]) + 1) - 1
        if len({(len(shape), shape[:at], shape[at + 1 :]) for shape in shapes}) != 1:
            raise self._mismatch(f"inputs of the same shape but for axis {self.axis}", shapes)
        return *shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :]

    def forward(self, x: Any, ctx: Context) -> tuple[Array, Any]:
        at = inside(self, self.axis, x[0].ndim)
        return self.backend.xp.concatenate(x, axis=at), [part.shape[at] for part in x]

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Any, dict[str, Array]]:
        if not need.x:
            return None, {}
        before = (slice(None),) * inside(self, self.axis, dy.ndim)
        ends = [sum(saved[: i + 1]) for i in range(len(saved))]
        stretches = [slice(end - size, end) for end, size in zip(ends, saved, strict=True)]
        return tuple(self.backend.contiguous(dy[(*before, stretch)]) for stretch in stretches), {}

    def config(self) -> dict[str, Any]:
        return {"axis": self.axis}


# Keras's functional names: a layer made and called in one go, with its arguments, such as name.


def add(inputs: Sequence[Tensor], **base: Any) -> Tensor:
    """``Add()(inputs)``."""
    return Add(**base)(inputs)


def subtract(inputs: Sequence[Tensor], **base: Any) -> Tensor:
    """``Subtract()(inputs)``."""
    return Subtract(**base)(inputs)


def multiply(inputs: Sequence[Tensor], **base: Any) -> Tensor:
    """``Multiply()(inputs)``."""
    return Multiply(**base)(inputs)


def average(inputs: Sequence[Tensor], **base: Any) -> Tensor:
    """``Average()(inputs)``."""
    return Average(**base)(inputs)


def maximum(inputs: Sequence[Tensor], **base: Any) -> Tensor:
    """``Maximum()(inputs)``."""
    return Maximum(**base)(inputs)


def concatenate(inputs: Sequence[Tensor], axis: int = -1, **base: Any) -> Tensor:
    """``Concatenate(axis)(inputs)``."""
    return Concatenate(axis, **base)(inputs)
