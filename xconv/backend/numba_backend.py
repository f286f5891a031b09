"""The Numba backend: compiled kernels on a team of threads, each with its own blocks of images and its own BLAS calls.

Convolution goes block by block, a few images at a time: their windows are gathered into columns that stay in cache,
one matrix product gives all filters' maps, and the kernel that follows writes them out with bias and ReLU, or pooled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xconv.backend.base import EVERYTHING, Array, ConvPoolSaved, ConvSaved, Need, argmax_dtype
from xconv.backend.numba_norm import NumbaNorm
from xconv.kernels.cpu import columns, elementwise, pooling
from xconv.shapes import Pads, Pair, window_output

FUSED_TAPS = 64  # the most inputs to one shifted filter for which convolution and pooling are done in one go
BLOCK = 1 << 18  # bytes of columns in a block: with the maps beside them they stay in a core's second-level cache
PLACES = 512  # columns that a product should have at least: with few, it only reads filters and adds up their gradients


class NumbaBackend(NumbaNorm):
    """Compiled, on all cores the process may use ($XCONV_NUM_THREADS sets how many)."""

    # ------------------------------------------------------------------ columns and pooling

    def im2col(self, x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> Array:
        n, c = x.shape[:2]
        oh, ow = window_output(x.shape[2:], kernel, stride, pads, dilation)
        col = self.empty((n, oh, ow, c, *kernel), x.dtype)
        window = (*kernel, *stride, pads[0], pads[2], *dilation)
        self._over(n, col.size, lambda first, last: columns.im2col(x, col, first, last, *window))
        return col.reshape(n * oh * ow, c * kernel[0] * kernel[1])

    def col2im(
        self, col: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)
    ) -> Array:
        n, c = x_shape[:2]
        oh, ow = window_output((x_shape[2], x_shape[3]), kernel, stride, pads, dilation)
        col = col.reshape(n, oh, ow, c, *kernel)
        x = self.empty(x_shape, col.dtype)
        window = (*kernel, *stride, pads[0], pads[2], *dilation)
        self._over(n, col.size, lambda first, last: columns.col2im(col, x, first, last, *window))
        return x

    def max_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> tuple[Array, Array]:
        n, c, h, w = x.shape
        shape = (n, c, *window_output((h, w), kernel, stride, pads))
        y, argmax = self.empty(shape, x.dtype), self.empty(shape, argmax_dtype(kernel))
        planes = x.reshape(n * c, h, w), y.reshape(n * c, *shape[2:]), argmax.reshape(n * c, *shape[2:])
        window = (*kernel, *stride, pads[0], pads[2])
        self._over(n * c, x.size, lambda first, last: pooling.max_pool(*planes, first, last, *window))
        return y, argmax

    def max_pool_backward(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads
    ) -> Array:
        n, c = x_shape[:2]
        dx = self.empty(x_shape, dy.dtype)
        planes = [a.reshape(n * c, *a.shape[2:]) for a in (dy, argmax, dx)]
        window = (kernel[1], *stride, pads[0], pads[2])
        self._over(n * c, dx.size, lambda first, last: pooling.max_pool_backward(*planes, first, last, *window))
        return dx

    def avg_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> Array:
        n, c, h, w = x.shape
        y = self.empty((n, c, *window_output((h, w), kernel, stride, pads)), x.dtype)
        planes = x.reshape(n * c, h, w), y.reshape(n * c, *y.shape[2:])
        window = (*kernel, *stride, pads[0], pads[2])
        self._over(n * c, x.size, lambda first, last: pooling.avg_pool(*planes, first, last, *window))
        return y

    def avg_pool_backward(self, dy: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads) -> Array:
        n, c, h, w = x_shape
        dx = self.empty(x_shape, dy.dtype)
        planes = dy.reshape(n * c, *dy.shape[2:]), dx.reshape(n * c, h, w)
        window = (*kernel, *stride, pads[0], pads[2])
        self._over(n * c, dx.size, lambda first, last: pooling.avg_pool_backward(*planes, first, last, *window))
        return dx

    # ------------------------------------------------------------------ products

    def matmul(self, a: Array, b: Array) -> Array:
        rows, columns = a.shape[0], b.shape[1]
        out = self.empty((rows, columns), a.dtype)

        def part(first: int, last: int) -> None:
            if rows >= columns:
                np.matmul(a[first:last], b, out=out[first:last])
            else:
                np.matmul(a, b[:, first:last], out=out[:, first:last])

        self._over(max(rows, columns), out.size * a.shape[1] / 32, part)
        return out

    # ------------------------------------------------------------------ convolution

    def _convolve(
        self,
        x: Array,
        w: Array,
        out: Pair,
        window: tuple[int, ...],
        epilogue: Callable[[Array, int], None],
    ) -> None:
        """epilogue(conv[F,count,OH,OW], first) for each block of images first..first+count, on all threads."""
        n, c = x.shape[:2]
        f, kernel = w.shape[0], w.shape[2:]
        filters = w.reshape(f, -1)  # (F, C*KH*KW)
        size = _block_size(filters.shape[1], out, x.dtype)

        def images(start: int, stop: int) -> None:
            col = self.empty((c, *kernel, min(size, stop - start), *out), x.dtype)
            conv = self.empty((f, min(size, stop - start), *out), x.dtype)
            for first in range(start, stop, size):
                count = min(size, stop - first)
                if count < col.shape[3]:
                    col, conv = _first_part(col, (c, *kernel, count, *out)), _first_part(conv, (f, count, *out))
                columns.gather(x, col, first, count, *window)
                np.dot(filters, col.reshape(filters.shape[1], -1), out=conv.reshape(f, -1))
                epilogue(conv, first)

        self._over(n, n * filters.size * out[0] * out[1], images)

    def _convolve_backward(
        self,
        x: Array,
        w: Array,
        out: Pair,
        window: tuple[int, ...],
        need: Need,
        prologue: Callable[[Array, Array, int], None],
    ) -> tuple[Array | None, Array | None, Array | None]:
        """prologue(dconv[F,count,OH,OW], db[F], first) fills dconv and adds to db for each block; -> dx, dw, db."""
        n, c = x.shape[:2]
        f, kernel = w.shape[0], w.shape[2:]
        filters = w.reshape(f, -1)
        taps = filters.shape[1]
        tall = (
            taps > f <= 128
        )  # BLAS is faster where the longer side is that of the rows, by up to a third with few filters
        size = _block_size(taps, out, x.dtype)
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
                prologue(dconv, db, first)
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

        parts = self._over(n, n * filters.size * out[0] * out[1], images)
        if not need.params:
            return dx, None, None
        dw, db = parts[0]
        for more_dw, more_db in parts[1:]:
            dw += more_dw
            db += more_db
        return dx, self.contiguous(dw.T if tall else dw).reshape(w.shape), db

    def conv_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> tuple[list[int], list[int]]:
        """A block of columns and of maps for each thread, and in backward its share of dw."""
        taps, filters = math.prod(w_shape[1:]), w_shape[0]
        images = min(_block_size(taps, out, f"f{itemsize}"), -(-x_shape[0] // self.team.threads))
        places = images * out[0] * out[1] * itemsize
        block = [taps * places, filters * places] * self.team.threads
        return block, [*block, *[taps * filters * itemsize] * 2 * self.team.threads]

    def conv_pool_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        out: Pair,
        pool_kernel: Pair,
        itemsize: int,
    ) -> tuple[list[int], list[int]]:
        """As conv_scratch, with the shifted filters and the pooled map."""
        reach = [k + (p - 1) * s for k, p, s in zip(w_shape[2:], pool_kernel, stride, strict=True)]
        shifted = (w_shape[0] * math.prod(pool_kernel), w_shape[1], *reach)
        pooled = out[0] // pool_kernel[0], out[1] // pool_kernel[1]
        return self.conv_scratch(x_shape, shifted, pooled, itemsize)

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
    ) -> tuple[Array, ConvSaved]:
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        out = window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)
        y = self.empty((x.shape[0], w.shape[0], *out), x.dtype)
        relu = activation == "relu"
        self._convolve(
            x,
            w,
            out,
            (*stride, pads[0], pads[2], *dilation),
            lambda conv, first: elementwise.bias_activation(conv, b, y, first, relu),
        )
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation)

    def conv2d_backward(
        self, dy: Array, saved: ConvSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        x, w, y, stride, pads, dilation, _ = saved
        relu = y is not None
        opened = y if relu else dy
        return self._convolve_backward(
            x,
            w,
            dy.shape[2:],
            (*stride, pads[0], pads[2], *dilation),
            need,
            lambda dconv, db, first: elementwise.masked_gradient(dy, opened, dconv, db, first, relu),
        )

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        """Where the filters are small: there the memory the maps move costs more than the arithmetic added below."""
        _, c, kh, kw = w_shape
        return (
            c * (kh + (pool_kernel[0] - 1) * conv_stride[0]) * (kw + (pool_kernel[1] - 1) * conv_stride[1])
            <= FUSED_TAPS
        )

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, ConvPoolSaved]:
        """Each entry (a, b) of the pooling window has its own filters, the given ones shifted by (a, b), which slide
        over the image by the pooling's stride. One product gives all T = PKH*PKW candidates of each pooled entry, side
        by side; their maximum is then taken entry by entry, in vector code.
        """
        out = window_output(x.shape[2:], w.shape[2:], stride, pads)
        shape = x.shape[0], w.shape[0], *window_output(out, pool_kernel, pool_stride, (0, 0, 0, 0))
        y, argmax = self.empty(shape, x.dtype), self.empty(shape, argmax_dtype(pool_kernel))
        shifted = _shifted_filters(w, stride, pool_kernel)
        flat = y.reshape(*shape[:2], -1), argmax.reshape(*shape[:2], -1)

        def pool(conv: Array, first: int) -> None:
            pooling.bias_relu_max_pool(conv.reshape(-1, shape[1], conv.shape[1], shape[2] * shape[3]), b, *flat, first)

        self._convolve(x, shifted, shape[2:], _pooled_window(stride, pads, pool_stride), pool)
        return y, ConvPoolSaved(x, w, y, argmax, stride, pads, pool_kernel, pool_stride)

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: ConvPoolSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, argmax, stride, pads, pool_kernel, pool_stride = saved
        n, f = dy.shape[:2]
        shifted = _shifted_filters(w, stride, pool_kernel)
        flat = dy.reshape(n, f, -1), y.reshape(n, f, -1), argmax.reshape(n, f, -1)

        def unpool(dconv: Array, db: Array, first: int) -> None:
            pooling.unpool_relu(*flat, dconv.reshape(-1, f, dconv.shape[1], flat[0].shape[2]), db[:f], first)

        window = _pooled_window(stride, pads, pool_stride)
        dx, dshifted, db = self._convolve_backward(x, shifted, dy.shape[2:], window, need, unpool)
        if dshifted is None or db is None:
            return dx, None, None
        dw = np.zeros_like(w)
        for t, where in enumerate(_shifts(w, stride, pool_kernel)):
            dw += dshifted[t * f : (t + 1) * f][where]
        return dx, dw, db[:f]

    # ------------------------------------------------------------------ elementwise, loss, optimizers

    def relu(self, x: Array) -> Array:
        y = self.empty(x.shape, x.dtype)
        self._sliced(elementwise.relu, x.reshape(-1), y.reshape(-1))
        return y

    def relu_backward(self, dy: Array, y: Array) -> Array:
        dx = self.empty(dy.shape, dy.dtype)
        self._sliced(elementwise.relu_backward, dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
        return dx

    def softmax_cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        loss, dlogits = np.empty(1, logits.dtype), self.empty(logits.shape, logits.dtype)
        elementwise.softmax_cross_entropy(logits, labels, loss, dlogits)
        return loss, dlogits

    def sgd(self, p: Array, g: Array, hyper: Array) -> None:
        self._sliced(elementwise.sgd, _line(p), _line(g), then=(hyper,))

    def momentum(self, p: Array, g: Array, v: Array, hyper: Array, momentum: float, nesterov: bool) -> None:
        self._sliced(elementwise.momentum, _line(p), _line(g), _line(v), then=(hyper, momentum, nesterov))

    def adagrad(self, p: Array, g: Array, h: Array, hyper: Array, eps: float) -> None:
        self._sliced(elementwise.adagrad, _line(p), _line(g), _line(h), then=(hyper, eps))

    def rmsprop(self, p: Array, g: Array, h: Array, hyper: Array, rho: float, eps: float) -> None:
        self._sliced(elementwise.rmsprop, _line(p), _line(g), _line(h), then=(hyper, rho, eps))

    def adam(
        self,
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        hyper: Array,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        settings = hyper, beta1, beta2, eps, weight_decay
        self._sliced(elementwise.adam, _line(p), _line(g), _line(m), _line(v), then=settings)


def _shifts(w: Array, stride: Pair, pool_kernel: Pair) -> list[tuple[slice, ...]]:
    """Where w lies in the shifted filters of each entry of the pooling window."""
    return [
        np.s_[:, :, a * stride[0] : a * stride[0] + w.shape[2], b * stride[1] : b * stride[1] + w.shape[3]]
        for a in range(pool_kernel[0])
        for b in range(pool_kernel[1])
    ]


def _shifted_filters(w: Array, stride: Pair, pool_kernel: Pair) -> Array:
    """w[F,C,KH,KW] -> [T*F, C, KH+(PKH-1)*SH, KW+(PKW-1)*SW], zero around."""
    f, c, kh, kw = w.shape
    shifts = _shifts(w, stride, pool_kernel)
    size = kh + (pool_kernel[0] - 1) * stride[0], kw + (pool_kernel[1] - 1) * stride[1]
    shifted = np.zeros((len(shifts) * f, c, *size), w.dtype)
    for t, where in enumerate(shifts):
        shifted[t * f : (t + 1) * f][where] = w
    return shifted


def _pooled_window(stride: Pair, pads: Pads, pool_stride: Pair) -> tuple[int, ...]:
    """How the shifted filters slide: stride, top and left padding, dilation."""
    return stride[0] * pool_stride[0], stride[1] * pool_stride[1], pads[0], pads[2], 1, 1


def _block_size(taps: int, out: Pair, dtype: Any) -> int:
    """How many images' columns fill a block, or, where maps are small, make a product wide enough."""
    places = out[0] * out[1]
    return max(1, BLOCK // (taps * places * np.dtype(dtype).itemsize), -(-PLACES // places))


def _first_part(a: Array, shape: tuple[int, ...]) -> Array:
    """The start of the memory of `a` in a smaller shape."""
    return a.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _line(a: Array) -> Array:
    """A view of a contiguous array as one axis; an optimizer's arrays are changed in place, so a copy would be lost."""
    return a.reshape(-1, copy=False)
