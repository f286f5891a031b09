"""A layer from a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xconv.backend import Array, Need
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.base import Context, Layer, Shape
from xconv.shapes import channels_first, positive

_FORMS = "f(x) or f(xp, x)"


class Lambda(Layer):
    """y = function(x), or function(xp, x), and dx = backward(xp, dy, x, y), in the order of axes that the user sees.

    `xp` is the array module (numpy or cupy), x[N,...] an array of the backend: of images [N,H,W,C] in a channels_last
    model. Neither function may write what it is given. Without `backward` the layer predicts, and may stand before all
    that is trained. A function cannot be put in a file: whoever loads the model gives the layer again.

    Args:
        function: x -> y[N,...], or (xp, x) -> y[N,...], told apart by how many arguments it must have.
        backward: (xp, dy, x, y) -> dx, in the shape of x.
        output_shape: of one example of y; found by calling `function` on zeros where it is not given.
    """

    portable = False  # no file holds it

    def __init__(
        self,
        function: Callable[..., Array],
        backward: Callable[[Any, Array, Array, Array], Array] | None = None,
        *,
        output_shape: Sequence[int] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if not callable(function):
            raise ConfigError(f"{self.label}: function must be callable as {_FORMS}. Received: {described(function)}")
        arguments = _required(function)
        if arguments not in (1, 2):
            raise ConfigError(
                f"{self.label}: function must be callable as {_FORMS}. Received: {described(function)}, "
                + ("whose arguments are not known" if arguments is None else f"with {arguments} arguments")
            )
        if backward is not None and not _takes(backward, 4):
            cure = "; sizes are output_shape=" if isinstance(backward, list | tuple) else ""
            raise ConfigError(
                f"{self.label}: backward must be callable as f(xp, dy, x, y){cure}. Received: {described(backward)}"
            )
        self.function, self.gradient = function, backward
        self._takes_xp = arguments == 2
        self.declared: Shape | None = None
        if output_shape is not None:
            if not isinstance(output_shape, Sequence):
                raise ConfigError(f"{self.label}: output_shape must be sizes. Received: {described(output_shape)}")
            self.declared = tuple(positive(n, f"{self.label}: each size of output_shape") for n in output_shape)

    def output_shape(self, in_shape: Shape) -> Shape:
        seen = self.declared
        if seen is None:
            y = self._call(np, np.zeros((1, *self._seen(in_shape)), np.float32))
            self._check_batch(y, 1)
            seen = tuple(y.shape[1:])
        return channels_first(seen, self.data_format or "channels_first")

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        x = self.images_last(x)
        y = self._call(self.backend.xp, x)
        self._check_batch(y, x.shape[0])
        return self._inside(y, x.dtype), (x, y)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        if self.gradient is None:
            raise ConfigError(
                f"{self.label}: training what lies before it needs its gradient; give Lambda(function, backward=...) "
                "with backward(xp, dy, x, y) -> dx. Received: no backward"
            )
        x, y = saved
        dx = self.gradient(self.backend.xp, self.images_last(dy), x, y)
        if getattr(dx, "shape", None) != x.shape:
            raise ShapeError(
                f"{self.label}: backward must give dx in the shape {x.shape} of x. Received: {described(dx)}"
            )
        return self._inside(dx, x.dtype), {}

    def _call(self, xp: Any, x: Array) -> Array:
        return self.function(xp, x) if self._takes_xp else self.function(x)

    def _inside(self, a: Array, dtype: Any) -> Array:
        """What a function gave as xconv holds it: C-contiguous, images channels first, in the model's dtype."""
        a = self.images_first(a.astype(dtype, copy=False))
        return a if a.flags.c_contiguous else self.backend.contiguous(a)

    def _check_batch(self, y: Any, n: int) -> None:
        shape = getattr(y, "shape", None)
        if not shape or shape[0] != n:
            raise ShapeError(
                f"{self.label}: function must give an array whose first axis is the batch's, of {n} here. "
                f"Received: {described(y)}"
            )


def _required(function: Any) -> int | None:
    """How many positional arguments a function must have; None where it needs others, or does not tell."""
    if isinstance(function, np.ufunc):
        return 1 if function.nin == 1 else None
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return None if any(p.kind is p.KEYWORD_ONLY for p in needed) else len(needed)


def _takes(function: Any, count: int) -> bool:
    """Whether it can be called with that many positional arguments; True where it does not tell."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # no signature
        return True
    return True
