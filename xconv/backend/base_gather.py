"""The plain definition of taking a batch out of a data set, over `self.xp` as those in `base`."""

from __future__ import annotations

from typing import Any

from xconv.backend.arrays import Arrays
from xconv.backend.saved import Array
from xconv.errors import ShapeError


class Gather(Arrays):
    """Part of Backend."""

    def gather(
        self,
        data: Array,
        order: Array,
        first: int | Array,
        count: int,
        dtype: Any,
        out: Array | None = None,
        shift: Array | None = None,
        scale: Array | None = None,
    ) -> Array:
        """Examples order[first : first + count] of data[n, ...], as `dtype` -> y[count, ...], in `out` where given.

        With `shift` and `scale`, float64[C] both, for data[n,C,...]: y = (x - shift[c]) * scale[c], computed in float64
        and rounded once. Of bytes, a shift of 0 and a scale of 1 / 255 give the very bits of x / 255 in float32.
        `data` is uint8, int64, float32 or float64, `order` int64 with entries 0 <= i < n. `first` is an int, or
        int64[1] on the backend, which a recorded step reads anew: then the caller sees to first + count <= len(order).
        """
        check_gather(data, order, first, count, out, shift, scale)
        rows = order[first : first + count] if isinstance(first, int) else order[self.xp.arange(count) + first]
        y = self.empty((count, *data.shape[1:]), dtype) if out is None else out
        if shift is None or scale is None:
            y[...] = data[rows]
        else:
            wide = (slice(None), *[None] * (data.ndim - 2))
            y[...] = (data[rows] - shift[wide]) * scale[wide]
        return y


def check_gather(
    data: Array,
    order: Array,
    first: int | Array,
    count: int,
    out: Array | None,
    shift: Array | None,
    scale: Array | None,
) -> None:
    """ShapeError where these do not fit together."""
    if order.ndim != 1 or (isinstance(first, int) and not 0 <= first <= first + count <= len(order)):
        raise ShapeError(
            f"gather: order[first : first + count] must lie within order[n]. Received: first {first}, count {count}, "
            f"order of shape {order.shape}"
        )
    if not isinstance(first, int) and first.shape != (1,):
        raise ShapeError(f"gather: first must be an int or an array of shape (1,). Received: shape {first.shape}")
    if out is not None and out.shape != (count, *data.shape[1:]):
        raise ShapeError(
            f"gather: out must have shape {(count, *data.shape[1:])} for data of shape {data.shape}. "
            f"Received: shape {out.shape}"
        )
    if (shift is None) != (scale is None):
        raise ShapeError("gather: shift and scale go together. Received: one of them")
    if (
        shift is not None
        and scale is not None
        and not (data.ndim > 1 and shift.shape == scale.shape == data.shape[1:2])
    ):
        raise ShapeError(
            f"gather: shift and scale must have one entry for each of the {data.shape[1:2]} channels of data. "
            f"Received: shapes {shift.shape} and {scale.shape}"
        )
