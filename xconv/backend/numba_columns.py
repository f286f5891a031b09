"""Convolution by columns, for any stride, padding and dilation: block by block, a few images at a time.

The block's windows are gathered into columns that stay in cache, one matrix product gives all filters' maps, and the
kernel that follows writes them out with bias and ReLU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xconv.backend.base import Array, ConvSaved, Need
from xconv.backend.numba_team import NumbaTeam
from xconv.kernels.cpu import columns, elementwise
from xconv.shapes import Pads, Pair, window_output

BLOCK = 1 << 18  # bytes of columns in a block: with the maps beside them they stay in a core's second-level cache
PLACES = 512  # columns that a product should have at least: with few, it only reads filters and adds up their gradients


class NumbaColumns(NumbaTeam):
    """Part of NumbaBackend."""

    def _columns_conv2d(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, dilation: Pair, activation: str | None
    ) -> tuple[Array, ConvSaved]:
        (n, c), (f, _, *kernel) = x.shape[:2], w.shape
        out = window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)
        y, relu = self.empty((n, f, *out), x.dtype), activation == "relu"
        filters = w.reshape(f, -1)  # (F, C*KH*KW)
        size = _block_size(filters.shape[1], out, x.dtype)
        window = *stride, pads[0], pads[2], *dilation

        def images(start: int, stop: int) -> None:
            col = self.empty((c, *kernel, min(size, stop - start), *out), x.dtype)
            conv = self.empty((f, min(size, stop - start), *out), x.dtype)
            for first in range(start, stop, size):
                count = min(size, stop - first)
                if count < col.shape[3]:
                    col, conv = _first_part(col, (c, *kernel, count, *out)), _first_part(conv, (f, count, *out))
                columns.gather(x, col, first, count, *window)
                np.dot(filters, col.reshape(filters.shape[1], -1), out=conv.reshape(f, -1))
                elementwise.bias_activation(conv, b, y, first, relu)

        self._over(n, n * filters.size * out[0] * out[1], images)
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation)

    def _columns_conv2d_backward(
        self, dy: Array, saved: ConvSaved, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, stride, pads, dilation, _ = saved
        (n, c), (f, _, *kernel), out = x.shape[:2], w.shape, dy.shape[2:]
        opened, relu = (dy, False) if y is None else (y, True)
        filters = w.reshape(f, -1)
        taps = filters.shape[1]
        # BLAS is faster where the longer side is that of the rows, by up to a third with few filters.
        tall = taps > f <= 128
        size = _block_size(taps, out, x.dtype)
        window = *stride, pads[0], pads[2], *dilation
        dx = self.empty(x.shape, x.dtype) if need.x else None

        def images(start: int, stop: int) -> tuple[Array, Array]:
            col = self.empty((c, *kernel, min(size, stop - start), *out), x.dtype)
            dconv = self.empty((f, min(size, stop - start), *out), x.dtype)
            dw, db = np.zeros((taps, f) if tall else (f, taps), x.dtype), np.zeros(f, x.dtype)
            part = np.empty_like(dw)
            for first in range(start, stop, size):
                count = min(size, stop - first)
                if count < col.shape[3]:
                    col, dconv = _first_part(col, (c, *kernel, count, *out)), _first_part(dconv, (f, count, *out))
                elementwise.masked_gradient(dy, opened, dconv, db, first, relu)
                matrix, maps = col.reshape(taps, -1), dconv.reshape(f, -1)
                if need.params:
                    columns.gather(x, col, first, count, *window)
                    one, other = (matrix, maps) if tall else (maps, matrix)
                    np.dot(one, other.T, out=part)  # (C*KH*KW, count*OH*OW) @ (count*OH*OW, F), or its transpose
                    dw += part
                if dx is not None:
                    np.dot(filters.T, maps, out=matrix)  # (C*KH*KW, F) @ (F, count*OH*OW)
                    columns.scatter(col, dx, first, count, *window)
            return dw, db

        dw, db = self._summed(self._over(n, n * filters.size * out[0] * out[1], images))
        if not need.params:
            return dx, None, None
        return dx, self.contiguous(dw.T if tall else dw).reshape(w.shape), db

    def _columns_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> tuple[list[int], list[int]]:
        """A block of columns and of maps for each thread, and in backward its share of dw."""
        taps, filters = math.prod(w_shape[1:]), w_shape[0]
        images = min(_block_size(taps, out, f"f{itemsize}"), -(-x_shape[0] // self.team.threads))
        places = images * out[0] * out[1] * itemsize
        block = [taps * places, filters * places] * self.team.threads
        return block, [*block, *[taps * filters * itemsize] * 2 * self.team.threads]


def _block_size(taps: int, out: Pair, dtype: Any) -> int:
    """How many images' columns fill a block, or, where maps are small, make a product wide enough."""
    places = out[0] * out[1]
    return max(1, BLOCK // (taps * places * np.dtype(dtype).itemsize), -(-PLACES // places))


def _first_part(a: Array, shape: tuple[int, ...]) -> Array:
    """The start of the memory of `a` in a smaller shape."""
    return a.reshape(-1)[: int(np.prod(shape))].reshape(shape)
