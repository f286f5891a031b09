"""Pooling on the CuPy backend."""

from __future__ import annotations

import numpy as np

from xconv.backend.base import Array, argmax_dtype
from xconv.backend.cuda_kernels import max_pool_name, pool
from xconv.backend.cupy_arrays import CupyArrays
from xconv.shapes import Pads, Pair, same_shape, window_output


class CupyPool(CupyArrays):
    """Part of CupyBackend."""

    def max_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> tuple[Array, Array]:
        self._suffix("max_pool", x)
        oh, ow = window_output(x.shape[2:], kernel, stride, pads)
        y = self.empty((*x.shape[:2], oh, ow), x.dtype)
        argmax = self.empty(y.shape, argmax_dtype(kernel))
        about = pool(x.shape, (oh, ow), kernel, stride, pads)
        name = max_pool_name("max_pool", y, argmax)
        self._kernels.each("pool", name, y.size, self._flat(x), None, y, argmax, about)
        return y, argmax

    def max_pool_backward(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads
    ) -> Array:
        self._suffix("max_pool_backward", dy)
        dx, (_, _, h, w) = self.empty(x_shape, dy.dtype), x_shape
        about = pool(x_shape, window_output((h, w), kernel, stride, pads), kernel, stride, pads)
        self._unpool(dy, None, argmax, dx, about)
        return dx

    def _unpool(self, dy: Array, y: Array | None, argmax: Array, dx: Array, about: np.ndarray) -> None:
        self._mine("max_pool_backward", argmax)
        pooled = tuple(int(about[f]) for f in ("n", "c", "oh", "ow"))
        same_shape(dy.shape, pooled, "max_pool_backward: dy")
        same_shape(argmax.shape, pooled, "max_pool_backward: argmax")
        name = max_pool_name("max_pool_backward", dy, argmax)
        self._kernels.each("pool", name, dx.size, self._flat(dy), y, self._flat(argmax), dx, about)

    def avg_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> Array:
        suffix = self._suffix("avg_pool", x)
        oh, ow = window_output(x.shape[2:], kernel, stride, pads)
        y = self.empty((*x.shape[:2], oh, ow), x.dtype)
        about = pool(x.shape, (oh, ow), kernel, stride, pads)
        self._kernels.each("pool", f"avg_pool_{suffix}", y.size, self._flat(x), y, about)
        return y

    def avg_pool_backward(self, dy: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads) -> Array:
        suffix = self._suffix("avg_pool_backward", dy)
        n, c, h, w = x_shape
        oh, ow = window_output((h, w), kernel, stride, pads)
        same_shape(dy.shape, (n, c, oh, ow), "avg_pool_backward: dy")
        dx = self.empty(x_shape, dy.dtype)
        about = pool(x_shape, (oh, ow), kernel, stride, pads)
        self._kernels.each("pool", f"avg_pool_backward_{suffix}", dx.size, self._flat(dy), dx, about)
        return dx
