"""Convolution on the Numba backend: which algorithm does which shape, and nothing else.

`direct` (numba_direct.py) for convolution + ReLU (+ max-pooling), `columns` (numba_columns.py) for every other one.
The rule looks at shapes alone, never at a clock: the same network gives the same bits every time.
"""

from __future__ import annotations

from typing import Any

from xconv.backend import numba_direct
from xconv.backend.base import EVERYTHING, Array, Need
from xconv.backend.numba_columns import NumbaColumns
from xconv.backend.numba_direct import DirectSaved, NumbaDirect
from xconv.shapes import Pads, Pair


class NumbaConv(NumbaColumns, NumbaDirect):
    """Part of NumbaBackend."""

    def conv_algorithm(
        self,
        w_shape: tuple[int, ...],
        stride: Pair,
        dilation: Pair = (1, 1),
        activation: str | None = None,
        groups: int = 1,
    ) -> str:
        """The name of the algorithm."""
        if activation == "relu" and numba_direct.suits(w_shape, stride, dilation, groups):
            return "direct"
        return "columns"

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
    ) -> tuple[Array, Any]:
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        if self.conv_algorithm(w.shape, stride, dilation, activation) == "direct":
            return self._direct_conv2d(x, w, b, stride, pads)
        return self._columns_conv2d(x, w, b, stride, pads, dilation, activation)

    def conv2d_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if isinstance(saved, DirectSaved):
            return self._direct_conv2d_backward(dy, saved, need)
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        return self._columns_conv2d_backward(dy, saved, need)

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        return numba_direct.suits(w_shape, conv_stride, (1, 1), 1, pool_kernel)

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        return self._direct_conv2d(x, w, b, stride, pads, (pool_kernel, pool_stride))

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        return self._direct_conv2d_backward(dy, saved, need)

    def conv_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> tuple[list[int], list[int]]:
        return self._columns_scratch(x_shape, w_shape, out, itemsize)

    def conv_pool_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        out: Pair,
        pool_kernel: Pair,
        itemsize: int,
    ) -> tuple[list[int], list[int]]:
        return self._direct_scratch(x_shape, w_shape, stride, (0, 0, 0, 0), (pool_kernel, pool_kernel), itemsize)
