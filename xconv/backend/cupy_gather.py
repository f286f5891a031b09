"""A batch out of a data set on the device by one kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xconv.backend.base import Array
from xconv.backend.base_gather import check_gather
from xconv.backend.cuda_kernels import BLOCK
from xconv.backend.cupy_arrays import CupyArrays
from xconv.errors import BackendError, DTypeError, described

_NAMES = {"uint8": "u8", "int64": "i64", "float32": "f32", "float64": "f64"}
_PAIRS = {(a, b) for a in ("u8", "i64") for b in ("f32", "f64", "i64")} | {
    (a, b) for a in ("f32", "f64") for b in ("f32", "f64")
}
MOST_ROWS, MOST_CHANNELS, MOST_PARTS = 1 << 16, 1 << 10, 64  # of a grid; the kernel loops over the rest


class CupyGather(CupyArrays):
    """Part of CupyBackend."""

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
        """See Backend.gather. An example that is not there (a recorded step's own fault) is NaN, or -1 as int64."""
        at = None if isinstance(first, int) else first
        self._mine("gather", data, order, *(a for a in (at, out, shift, scale) if a is not None))
        check_gather(data, order, first, count, out, shift, scale)
        y = self.empty((count, *data.shape[1:]), dtype) if out is None else out
        pair = _NAMES.get(data.dtype.name, ""), _NAMES.get(np.dtype(dtype).name, "")
        if pair not in _PAIRS or y.dtype != dtype:
            raise DTypeError(
                "gather: expected uint8 or int64 to int64 or a float, or float32 or float64 to either, and out of that "
                f"dtype. Received: {data.dtype} to {np.dtype(dtype)}, out of {y.dtype}"
            )
        for array, kind, what in ((order, "int64", "order"), (at, "int64", "first"), (shift, "float64", "shift"),
                                  (scale, "float64", "scale")):  # fmt: skip
            if array is not None and array.dtype != kind:
                raise DTypeError(f"gather: {what} must be {kind}. Received: {array.dtype}")
        if not y.flags.c_contiguous:
            raise BackendError(f"gather: out must be C-contiguous. Received: {described(y)}")
        channels = 1 if shift is None else data.shape[1]
        plane = math.prod(data.shape[1:]) // max(1, channels)
        across = min(BLOCK, 1 << max(0, plane - 1).bit_length())
        grid = (
            min(-(-count * across // BLOCK), MOST_ROWS),
            min(channels, MOST_CHANNELS),
            min(-(-plane // (8 * across)), MOST_PARTS),
        )
        sizes = len(data), len(order), count, channels, plane
        given = self._flat(data), self._flat(order), at, 0 if at is not None else first
        norm = (None, None) if shift is None else (self._flat(shift), self._flat(scale))
        self._kernels.blocks(
            "gather", f"gather_{'_'.join(pair)}", grid, (across, BLOCK // across), *given, *norm, y, *sizes
        )
        return y
