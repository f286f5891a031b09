"""Convolution on the Numba backend: which algorithm does which shape, and nothing else.

`direct` (numba_direct.py) for convolution + ReLU (+ max-pooling), `winograd` (numba_winograd.py) for 3x3 where batch
normalisation follows, `columns` (numba_columns.py) for every other one. The rule looks at shapes alone, never at a
clock: the same network gives the same bits every time.
"""

from __future__ import annotations

from typing import Any

from xconv.backend import numba_direct, numba_winograd
from xconv.backend.base import EVERYTHING, Array, ConvMemory, Need
from xconv.backend.numba_columns import NumbaColumns
from xconv.backend.numba_direct import NO_POOL, DirectSaved, NumbaDirect
from xconv.backend.numba_winograd import NumbaWinograd, WinogradSaved
from xconv.shapes import Pads, Pair, window_output


class NumbaConv(NumbaColumns, NumbaDirect, NumbaWinograd):
    """Part of NumbaBackend."""

    algorithm: str | None = None  # one that is taken wherever it can be, whatever the rule says

    def conv_algorithm(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair = (1, 1),
        activation: str | None = None,
        groups: int = 1,
        normalized: bool = False,
        itemsize: int = 4,
    ) -> str:
        out = window_output((x_shape[-2], x_shape[-1]), (w_shape[2], w_shape[3]), stride, pads, dilation)

        def can(name: str | None) -> bool:
            if name == "direct":
                return activation == "relu" and numba_direct.suits(stride, dilation, groups)
            if name == "winograd":
                return numba_winograd.suits(w_shape, stride, dilation, groups) and self._winograd_fits(w_shape, out)
            return name == "columns"

        by_rule = "direct", "winograd" if normalized else "columns", "columns"
        name = next(name for name in (self.algorithm, *by_rule) if can(name))
        m = numba_winograd.tile_size(out)
        return f"winograd F({m}x{m})" if name == "winograd" else str(name)

    def conv2d(
        self,
        x: Array,
        w: Array,
        b: Array,
        stride: Pair,
        pads: Pads,
        dilation: Pair = (1, 1),
        activation: str | None = None,
        groups: int = 1,
        normalized: bool = False,
    ) -> tuple[Array, Any]:
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        name = self.conv_algorithm(x.shape, w.shape, stride, pads, dilation, activation, groups, normalized)
        if name == "direct":
            return self._direct_conv2d(x, w, b, stride, pads)
        if name == "columns":
            return self._columns_conv2d(x, w, b, stride, pads, dilation, activation)
        return self._winograd_conv2d(x, w, b, pads, activation)

    def conv2d_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if isinstance(saved, DirectSaved):
            return self._direct_conv2d_backward(dy, saved, need)
        if isinstance(saved, WinogradSaved):
            return self._winograd_conv2d_backward(dy, saved, need)
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        return self._columns_conv2d_backward(dy, saved, need)

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        return self.algorithm in (None, "direct") and numba_direct.suits(conv_stride, (1, 1), 1, pool_kernel)

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        if not self.fuses_conv_pool(w.shape, stride, pool_kernel):
            return super().conv2d_relu_max_pool(x, w, b, stride, pads, pool_kernel, pool_stride)
        return self._direct_conv2d(x, w, b, stride, pads, (pool_kernel, pool_stride))

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if not isinstance(saved, DirectSaved):
            return super().conv2d_relu_max_pool_backward(dy, saved, need)
        return self._direct_conv2d_backward(dy, saved, need)

    def conv_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        itemsize: int,
        normalized: bool = False,
    ) -> ConvMemory:
        if x_shape[1] != w_shape[1]:
            return self._grouped(x_shape, w_shape, stride, pads, dilation, activation, itemsize)[1]
        name = self.conv_algorithm(x_shape, w_shape, stride, pads, dilation, activation, 1, normalized)
        if name == "direct":
            return self._direct_scratch(x_shape, w_shape, stride, pads, NO_POOL, itemsize)
        out = window_output((x_shape[2], x_shape[3]), (w_shape[2], w_shape[3]), stride, pads, dilation)
        if name != "columns":
            return self._winograd_scratch(x_shape, w_shape, out, itemsize)._replace(keeps_y=bool(activation))
        return self._columns_scratch(x_shape, w_shape, out, itemsize)._replace(keeps_y=bool(activation))

    def conv_pool_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        pool_kernel: Pair,
        pool_stride: Pair,
        itemsize: int,
    ) -> ConvMemory:
        return self._direct_scratch(x_shape, w_shape, stride, pads, (pool_kernel, pool_stride), itemsize)
