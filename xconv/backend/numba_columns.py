"""Convolution by columns, for any stride, padding and dilation: block by block, a few images at a time.

The block's windows are gathered into columns that stay in cache, one matrix product gives all filters' maps, and the
kernel that follows writes them out with bias and ReLU. Each thread has a block of its own; where all of them would take
more than the workspace, blocks are smaller, and where those of one image would, fewer threads work.
"""

from __future__ import annotations

import math

import numpy as np

from xconv.backend.base import Array, ConvMemory, ConvSaved, Need
from xconv.backend.numba_team import PRODUCTS, NumbaTeam
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
        size, threads = self._block(x.shape, w.shape, out, x.itemsize, 0)
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

        self._over(n, n * filters.size * out[0] * out[1] / PRODUCTS, images, most=threads)
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
        size, threads = self._block(x.shape, w.shape, out, x.itemsize, 2 * w.nbytes)
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

        dw, db = self._summed(self._over(n, n * filters.size * out[0] * out[1] / PRODUCTS, images, most=threads))
        if not need.params:
            return dx, None, None
        dw = dw.T if tall else dw
        if need.dw is None:
            return dx, self.contiguous(dw).reshape(w.shape), db
        need.dw.reshape(f, -1)[...] = dw
        return dx, need.dw, db

    def _block(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int, own: int
    ) -> tuple[int, int]:
        """Images in a block, and how many threads may each have one, and `own` bytes besides, in the workspace."""
        image = (math.prod(w_shape[1:]) + w_shape[0]) * out[0] * out[1] * itemsize
        threads = max(1, min(self.team.threads, x_shape[0], self.workspace // (image + own)))
        size = _block_size(math.prod(w_shape[1:]), out, itemsize)
        return max(1, min(size, (self.workspace // threads - own) // image)), threads

    def _columns_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> ConvMemory:
        """A block of columns and of maps for each thread, and in backward its dw and what is added to that."""
        blocks: list[list[int]] = []
        own = 2 * math.prod(w_shape) * itemsize
        for beside in (0, own):
            size, threads = self._block(x_shape, w_shape, out, itemsize, beside)
            places = min(size, -(-x_shape[0] // threads)) * out[0] * out[1] * itemsize
            blocks.append([math.prod(w_shape[1:]) * places, w_shape[0] * places] * threads)
        return ConvMemory(blocks[0], blocks[1], (0, own * threads))


def _block_size(taps: int, out: Pair, itemsize: int) -> int:
    """How many images' columns fill a block, or, where maps are small, make a product wide enough."""
    places = out[0] * out[1]
    return max(1, BLOCK // (taps * places * itemsize), -(-PLACES // places))


def _first_part(a: Array, shape: tuple[int, ...]) -> Array:
    """The start of the memory of `a` in a smaller shape."""
    return a.reshape(-1)[: int(np.prod(shape))].reshape(shape)
