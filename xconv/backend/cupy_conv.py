"""Convolution on the CuPy backend: by cuDNN where it has plans (cupy_cudnn.py), else by our im2col and cuBLAS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from xconv.backend.base import EVERYTHING, Array, ConvMemory, ConvPoolSaved, ConvSaved, Need, argmax_dtype
from xconv.backend.cuda_kernels import BLOCK, SUFFIX, max_pool_name, pool_of_product, window
from xconv.backend.cupy_cudnn import CudnnSaved, CupyCudnn
from xconv.backend.cupy_pool import CupyPool
from xconv.shapes import Pads, Pair, same_shape, window_output

ROW_PART = 8192  # entries that one block sums, up to MOST_PARTS blocks a row
MOST_PARTS = 64


class CupyConv(CupyCudnn, CupyPool):
    """Part of CupyBackend."""

    # ------------------------------------------------------------------ columns

    def im2col(self, x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> Array:
        self._suffix("im2col", x)
        n, c, h, w = x.shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        places, taps = n * oh * ow, c * kernel[0] * kernel[1]
        col = self.empty((places, taps), x.dtype)
        self._columns("im2col", x, col, x.shape, kernel, stride, pads, dilation, (taps, 1))
        return col

    def col2im(
        self, col: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)
    ) -> Array:
        self._suffix("col2im", col)
        n, c, h, w = x_shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        places, taps = n * oh * ow, c * kernel[0] * kernel[1]
        same_shape(col.shape, (places, taps), "col2im: col")
        x = self.empty(x_shape, col.dtype)
        self._columns("col2im", col, x, x_shape, kernel, stride, pads, dilation, (taps, 1))
        return x

    def _columns(
        self, name: str, source: Array, out: Array, x_shape: tuple[int, ...],
        kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, strides: Pair,
    ) -> None:  # fmt: skip
        """im2col or col2im, with col(place, tap) at the given strides."""
        n, c, h, w = x_shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        about = window(x_shape, (oh, ow), kernel, stride, pads, dilation, strides)
        size = n * oh * ow * c if name == "im2col" else n * c * h * w
        suffix = SUFFIX[out.dtype.name]
        self._kernels.each("columns", f"{name}_{suffix}", size, self._flat(source), out, about)

    # ------------------------------------------------------------------ convolution
    # The columns are kept transposed, [C*KH*KW, N*OH*OW]: reading and writing them then runs along memory.

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
        """See Backend.conv2d. By im2col, bias and ReLU ride along when the product is put in order."""
        suffix = self._suffix("conv2d", x, w, b)
        f, fits = w.shape[0], x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0
        route = self._route(x.shape, w.shape, stride, pads, dilation, x.itemsize) if fits else None
        if groups != 1 and route is None:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        x, w, b = self._flat(x), self._flat(w), self._flat(b)
        same_shape(b.shape, (f,), "conv2d: b")
        if route is not None:
            return self._cudnn_conv2d(x, w, b, route, activation)
        oh, ow = window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)
        y = self.empty((x.shape[0], f, oh, ow), x.dtype)
        for part in self._conv_parts(x, w, oh * ow):
            product, out = self._conv_product(x[part], w, stride, pads, dilation), y[part]
            sizes = (out.shape[0], f, oh * ow, int(activation == "relu"))
            self._kernels.each("elementwise", f"product_to_maps_{suffix}", out.size, product, b, out, *sizes)
            del product  # before the next part's is made
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation)

    def conv2d_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if isinstance(saved, CudnnSaved):
            self._suffix("conv2d_backward", dy)
            return self._cudnn_conv2d_backward(dy, saved, need)
        suffix = self._suffix("conv2d_backward", dy, saved.x, saved.w)
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        n, f = saved.x.shape[0], saved.w.shape[0]
        oh, ow = window_output(saved.x.shape[2:], saved.w.shape[2:], saved.stride, saved.pads, saved.dilation)
        same_shape(dy.shape, (n, f, oh, ow), "conv2d_backward: dy")
        dy = self._flat(dy)

        def dproduct(part: slice, out: Array) -> None:
            y = None if saved.y is None else saved.y[part]
            sizes = (dy[part].shape[0], f, oh * ow)
            self._kernels.each("elementwise", f"maps_to_product_{suffix}", out.size, dy[part], y, out, *sizes)

        return self._conv_gradients(saved, oh * ow, dproduct, need)

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
        route = self._route(x_shape, w_shape, stride, pads, dilation, itemsize)
        if route is not None:
            return f"cuDNN {route.conv.precision}, {'NHWC' if route.conv.nhwc else 'NCHW'}"
        if groups != 1:
            image, filters = (x_shape[0], w_shape[1], *x_shape[2:]), (w_shape[0] // groups, *w_shape[1:])
            one = self.conv_algorithm(image, filters, stride, pads, dilation, activation, 1, normalized, itemsize)
            return f"{one}, group by group"
        why = self._cudnn is not None and self.algorithm is None and itemsize == 4
        return "im2col (cuDNN has no plan)" if why else "im2col"

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
        route = self._route(x_shape, w_shape, stride, pads, dilation, itemsize)
        if route is not None:
            return self._route_memory(route, activation)
        return super().conv_scratch(x_shape, w_shape, stride, pads, dilation, activation, itemsize, normalized)

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        """By im2col: the unpooled map is then written once and read once, straight from the matrix product."""
        return self._cudnn is None or self.algorithm == "im2col"

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        self._suffix("conv2d_relu_max_pool", x, w, b)
        x, w, b, f = self._flat(x), self._flat(w), self._flat(b), w.shape[0]
        same_shape(b.shape, (f,), "conv2d_relu_max_pool: b")
        unpooled = window_output(x.shape[2:], w.shape[2:], stride, pads)
        pooled = window_output(unpooled, pool_kernel, pool_stride, (0, 0, 0, 0))
        y = self.empty((x.shape[0], f, *pooled), x.dtype)
        argmax = self.empty(y.shape, argmax_dtype(pool_kernel))
        name = max_pool_name("max_pool", y, argmax)
        for part in self._conv_parts(x, w, unpooled[0] * unpooled[1]):
            product, out = self._conv_product(x[part], w, stride, pads, (1, 1)), y[part]
            about = pool_of_product((out.shape[0], f, *unpooled), pooled, pool_kernel, pool_stride)
            self._kernels.each("pool", name, out.size, product, b, out, argmax[part], about)
            del product
        return y, ConvPoolSaved(x, w, y, argmax, stride, pads, pool_kernel, pool_stride)

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, argmax, stride, pads, pool_kernel, pool_stride = saved
        self._suffix("conv2d_relu_max_pool_backward", dy, x, w)
        unpooled = window_output(x.shape[2:], w.shape[2:], stride, pads)
        dy = self._flat(dy)
        same_shape(dy.shape, y.shape, "conv2d_relu_max_pool_backward: dy")

        def dproduct(part: slice, out: Array) -> None:
            maps = (dy[part].shape[0], w.shape[0], *unpooled)
            about = pool_of_product(maps, y.shape[2:], pool_kernel, pool_stride)
            self._unpool(dy[part], y[part], argmax[part], out, about)

        geometry = ConvSaved(x, w, None, stride, pads, (1, 1))
        return self._conv_gradients(geometry, unpooled[0] * unpooled[1], dproduct, need)

    def _conv_parts(self, x: Array, w: Array, places: int) -> list[slice]:
        """The batch cut so that columns and product of one part fit the workspace: a fixed rule on shapes."""
        return self._parts(len(x), places * (math.prod(w.shape[1:]) + w.shape[0]) * x.itemsize)

    def _conv_image(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        itemsize: int,
    ) -> ConvMemory:
        size = window_output((x_shape[2], x_shape[3]), (w_shape[2], w_shape[3]), stride, pads, dilation)
        arrays = [math.prod(size) * entries * itemsize for entries in (math.prod(w_shape[1:]), w_shape[0])]
        return ConvMemory(arrays, arrays)

    def _conv_pool_image(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        pool_kernel: Pair,
        pool_stride: Pair,
        itemsize: int,
    ) -> ConvMemory:
        return self._conv_image(x_shape, w_shape, stride, pads, (1, 1), "relu", itemsize)

    def _transposed_columns(self, x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair) -> Array:
        oh, ow = window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)
        places = x.shape[0] * oh * ow
        col = self.empty((w.size // w.shape[0], places), x.dtype)
        self._columns("im2col", x, col, x.shape, w.shape[2:], stride, pads, dilation, (1, places))
        return col

    def _conv_product(self, x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair) -> Array:
        """x[N,C,H,W], w[F,C,KH,KW] -> [F, N*OH*OW]."""
        same_shape(x.shape[1:2], w.shape[1:2], "conv2d: channels of x and of w")
        col = self._transposed_columns(x, w, stride, pads, dilation)
        return self.matmul(w.reshape(w.shape[0], -1), col)  # (F, C*KH*KW) @ (C*KH*KW, N*OH*OW)

    def _conv_gradients(
        self, saved: ConvSaved, places: int, dproduct: Callable[[slice, Array], None], need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dx, dw, db, from a function that fills in the gradient [F, N*OH*OW] of the product of one part."""
        x, w, _, stride, pads, dilation, _ = saved
        f, matrix = w.shape[0], w.reshape(w.shape[0], -1)
        dx = self.empty(x.shape, x.dtype) if need.x else None
        dw = db = None
        if need.params:
            dw = self.empty(w.shape, w.dtype) if need.dw is None else need.dw
        for part in self._conv_parts(x, w, places):
            dout = self.empty((f, x[part].shape[0] * places), x.dtype)
            dproduct(part, dout)
            if dw is not None:
                col = self._transposed_columns(x[part], w, stride, pads, dilation)
                self._gemm(dout, col.T, dw.reshape(matrix.shape), accumulate=part.start > 0)
                sums = self._row_sums(dout)
                db = sums if db is None else db + sums
                del col
            if dx is not None:
                dcol = self.matmul(matrix.T, dout)  # (C*KH*KW, F) @ (F, N*OH*OW)
                strides = (1, dcol.shape[1])
                out = dx[part]
                self._columns("col2im", dcol, out, out.shape, w.shape[2:], stride, pads, dilation, strides)
                del dcol
            del dout
        return dx, dw, db

    def _row_sums(self, x: Array) -> Array:
        """x[R,L] -> [R]. A row is cut into parts by its length alone, so that a sum never changes its order."""
        rows, length = x.shape
        suffix, parts = SUFFIX[x.dtype.name], max(1, min(MOST_PARTS, length // ROW_PART))
        sums = self.empty((rows, parts), x.dtype)
        self._kernels.blocks("reduce", f"row_sums_{suffix}", (rows, parts), (BLOCK,), x, sums, length)
        return sums.reshape(rows) if parts == 1 else self._row_sums(sums)
