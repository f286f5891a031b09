"""Convolution on the Numba backend: which algorithm does which shape, and nothing else.

`direct` (numba_direct.py) for convolution + ReLU (+ max-pooling); `rows` (numba_rows.py) for the same by 3x3 or 5x5 of
few channels, as where images come in, and of any in predictions; `winograd` (numba_winograd.py) for 3x3 where batch
normalisation follows; `columns` (numba_columns.py) for every other one. The rule looks at shapes alone, never at a
clock: the same network gives the same bits every time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv.backend import numba_direct, numba_rows, numba_winograd
from xconv.backend.base import EVERYTHING, Array, ConvMemory, Need
from xconv.backend.numba_columns import NumbaColumns
from xconv.backend.numba_direct import NO_POOL, DirectSaved, NumbaDirect
from xconv.backend.numba_rows import Geometry, NumbaRows
from xconv.backend.numba_winograd import NumbaWinograd, WinogradSaved
from xconv.shapes import Pads, Pair, window_output


class NumbaConv(NumbaColumns, NumbaDirect, NumbaRows, NumbaWinograd):
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
        pool: tuple[Pair, Pair] | None = None,
        inference: bool = False,
    ) -> str:
        out = window_output((x_shape[-2], x_shape[-1]), (w_shape[2], w_shape[3]), stride, pads, dilation)

        def can(name: str | None) -> bool:
            if name == "direct":
                return activation == "relu" and numba_direct.suits(stride, dilation, groups)
            if name == "winograd":
                return numba_winograd.suits(w_shape, stride, dilation, groups) and self._winograd_fits(w_shape, out)
            return name == "columns"

        # "rows" is a way forward for "direct", which has the way back.
        by_rule = "direct", "winograd" if normalized else "columns", "columns"
        name = next(name for name in (self.algorithm, *by_rule) if can(name))
        if name == "direct":
            window = stride, pads, dilation, pool, np.dtype("float32")
            rows = self._along_rows(x_shape, w_shape, *window, inference)
            return "direct" if rows is None else f"rows F({numba_rows.M},{w_shape[3]})"
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
        if name == "columns":
            return self._columns_conv2d(x, w, b, stride, pads, dilation, activation)
        if name.startswith("winograd"):
            return self._winograd_conv2d(x, w, b, pads, activation)
        return self._relu_conv2d(x, w, b, stride, pads, None)

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
        return self.algorithm in (None, "direct", "rows") and numba_direct.suits(conv_stride, (1, 1), 1, pool_kernel)

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        if not self.fuses_conv_pool(w.shape, stride, pool_kernel):
            return super().conv2d_relu_max_pool(x, w, b, stride, pads, pool_kernel, pool_stride)
        return self._relu_conv2d(x, w, b, stride, pads, (pool_kernel, pool_stride))

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if not isinstance(saved, DirectSaved):
            return super().conv2d_relu_max_pool_backward(dy, saved, need)
        return self._direct_conv2d_backward(dy, saved, need)

    def conv2d_relu_inference(
        self,
        x: Array,
        w: Array,
        b: Array,
        stride: Pair,
        pads: Pads,
        dilation: Pair = (1, 1),
        pool: tuple[Pair, Pair] | None = None,
    ) -> Array:
        at = self._along_rows(x.shape, w.shape, stride, pads, dilation, pool, x.dtype, inference=True)
        if at is None:
            return super().conv2d_relu_inference(x, w, b, stride, pads, dilation, pool)
        return self._rows_conv2d(x, w, b, pads, pool, at, False)[0]

    def _relu_conv2d(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool: tuple[Pair, Pair] | None
    ) -> tuple[Array, Any]:
        """Directly, or along rows with the same way back."""
        at = self._along_rows(x.shape, w.shape, stride, pads, (1, 1), pool, x.dtype)
        if at is None:
            return self._direct_conv2d(x, w, b, stride, pads, pool or NO_POOL)
        y, chosen = self._rows_conv2d(x, w, b, pads, pool, at, True)
        return y, self._direct_saved(x, w, chosen, stride, pads, pool or NO_POOL)

    def _along_rows(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        pool: tuple[Pair, Pair] | None,
        dtype: Any,
        inference: bool = False,
    ) -> Geometry | None:
        """How a convolution + ReLU is cut that goes along rows; None where it does not.

        In training only where channels are few, as where images come in. Two windows that see the same, as in a plain
        background, may differ by rounding, and dx then goes through another than the first: there nobody asks for it.
        """
        if self.algorithm not in (None, "rows") or not (inference or w_shape[1] <= numba_rows.FEW):
            return None
        image, forced = tuple(x_shape[1:]), self.algorithm is not None
        return numba_rows.fitting(self.workspace, image, tuple(w_shape), stride, pads, dilation, pool, dtype, forced)

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
        if name == "direct" or name.startswith("rows"):
            return self._relu_scratch(x_shape, w_shape, stride, pads, None, itemsize)
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
        return self._relu_scratch(x_shape, w_shape, stride, pads, (pool_kernel, pool_stride), itemsize)

    def _relu_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        pool: tuple[Pair, Pair] | None,
        itemsize: int,
    ) -> ConvMemory:
        """What _relu_conv2d takes, and its way back."""
        found = self._direct_scratch(x_shape, w_shape, stride, pads, pool or NO_POOL, itemsize)
        at = self._along_rows(x_shape, w_shape, stride, pads, (1, 1), pool, np.dtype(f"f{itemsize}"))
        if at is None:
            return found
        return found._replace(beside=(self._rows_scratch(at, itemsize), found.beside[1]))
