"""Matrix products and dense layers for the Numba backend: BLAS, and its own where ReLUs have left many zeros."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from xconv.backend.base import EVERYTHING, Array, Need
from xconv.backend.numba_team import NumbaTeam
from xconv.kernels.cpu import dense
from xconv.kernels.cpu.vectors import BYTES, lanes

FEW = 0.75  # of the entries at most: beyond it BLAS is faster
MOST = 256  # outputs whose tile stays in the second cache
LEAST = 256  # inputs that make up for collecting
FAR = 1 << 23  # bytes of a matrix that comes from memory: the way is longer than what skipping zeros saves
EXAMPLES, ALONE = 8, 1 << 19  # at most, and weights: one thread has multiplied them before it could wake another


class NumbaDense(NumbaTeam):
    """Part of NumbaBackend."""

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        rows, columns, product = a.shape[0], b.shape[1], super().matmul
        out = self.empty((rows, columns), a.dtype) if out is None else out
        large, sums = max(a.nbytes, b.nbytes), out.nbytes * self.team.threads
        long = large > FAR and a.shape[1] > 4 * max(rows, columns) and sums <= min(large, self.workspace)
        ranges = self.team.ranges(a.shape[1] if long else max(rows, columns), out.size * a.shape[1] / 32)
        if len(ranges) == 1:
            return product(a, b, out)
        if long:  # each thread reads its part of both matrices, and nothing of the other's
            mine = [out, *self.empty((len(ranges) - 1, rows, columns), a.dtype)]
            ends = zip(ranges, mine, strict=True)
            self.team.each(product, [(a[:, first:last], b[first:last], part) for (first, last), part in ends])
            for more in mine[1:]:
                out += more
            return out

        def part(first: int, last: int) -> None:
            if rows >= columns:
                product(a[first:last], b, out[first:last])
            else:
                product(a, b[:, first:last], out[:, first:last])

        self.team.each(part, ranges)
        return out

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None) -> Array:
        """See Backend.dense. Zeros in x are skipped where there are many of them."""
        plain = x.flags.c_contiguous and w.flags.c_contiguous and x.dtype == w.dtype
        if plain and 0 < len(x) <= EXAMPLES and 0 < w.size <= ALONE:
            y = self.empty((len(x), w.shape[1]), x.dtype)
            dense.forward_few(x, w, b, y, *_places(w.shape[1], w.dtype), activation == "relu")
            return y
        if len(x) < 2 or not _suits(x, w) or w.nbytes > FAR or dense.share(x) > FEW:
            return super().dense(x, w, b, activation)
        y = self.empty((len(x), w.shape[1]), x.dtype)
        work = y.size * w.shape[0] / 64
        self._over(len(x), work, dense.forward, x, w, b, y, _chunks(w.shape[1], w.dtype), activation == "relu")
        return y

    def dense_backward(
        self, dy: Array, x: Array, w: Array, need: Need = EVERYTHING, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """See Backend.dense_backward; threads meet once. Zeros in dy are skipped where there are many of them."""
        (inputs, outputs), product = w.shape, super().matmul
        dy = dy if y is None else self.relu_backward(dy, y)
        if inputs < outputs or not (need.x and need.params):
            return super().dense_backward(dy, x, w, need)
        dx = self.empty(x.shape, dy.dtype)
        dw = self.empty(w.shape, dy.dtype) if need.dw is None else need.dw
        if self._skips(dy, x, w):
            tile = dense.TILE * lanes(w.dtype)
            arguments = x, dy, w, _chunks(tile, w.dtype), dx, dw
            self._over(inputs, dy.size * inputs / 64, dense.backward, *arguments, most=inputs // tile)
            return dx, dw, dy.sum(axis=0)

        def part(first: int, last: int) -> None:
            product(x[:, first:last].T, dy, dw[first:last])
            product(dy, w[first:last].T, dx[:, first:last])

        self._over(inputs, dy.size * inputs / 32, part)
        return dx, dw, dy.sum(axis=0)

    def _skips(self, dy: Array, x: Array, w: Array) -> bool:
        """Whether the way back skips the zeros in dy; its lists of the others are within the workspace."""
        lists = 2 * (len(dy) + dense.BLOCK) * (dy.shape[1] + lanes(w.dtype)) * (4 + dy.itemsize) * self.team.threads
        fits = dy.shape[1] <= MOST and lists <= self.workspace
        return fits and _suits(x, w) and dy.flags.c_contiguous and dense.share(dy) <= FEW


def _suits(x: Array, w: Array) -> bool:
    """Whether the shapes are such that skipping pays; only processors with vectors of 64 bytes collect quickly."""
    (n, k), o = x.shape, w.shape[1]
    if BYTES != 64 or not n or k < LEAST or o < lanes(w.dtype):
        return False
    return bool(x.flags.c_contiguous and w.flags.c_contiguous and x.dtype == w.dtype)


@functools.lru_cache(maxsize=256)
def _chunks(length: int, dtype: Any) -> Array:
    """Where each vector of a line begins."""
    return np.arange(0, length, lanes(dtype))


@functools.lru_cache(maxsize=256)
def _places(length: int, dtype: Any) -> tuple[Array, Array]:
    """Where each vector of a line begins, and each line of a panel."""
    return _chunks(length, dtype), np.arange(dense.PANEL, dtype=np.int32) * np.int32(length)
