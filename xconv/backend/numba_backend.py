"""The Numba backend: compiled kernels on a team of threads, each with its own blocks of images and its own BLAS calls.

Convolution is in numba_conv.py, dense layers are in numba_dense.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv.backend.base import Array, argmax_dtype
from xconv.backend.numba_augment import NumbaAugment
from xconv.backend.numba_conv import NumbaConv
from xconv.backend.numba_dense import NumbaDense
from xconv.backend.numba_norm import NumbaNorm
from xconv.kernels.cpu import columns, elementwise, pooling
from xconv.shapes import Pads, Pair, window_output


class NumbaBackend(NumbaConv, NumbaDense, NumbaNorm, NumbaAugment):
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
        if kernel == (1, 1) and not any(pads):
            self._over(n * c, y.size, lambda first, last: _every(planes, first, last, stride))
        elif _side_by_side(kernel, stride, pads):
            self._over(n * c, x.size, pooling.max_pool_pairs, *planes)
        else:
            self._over(n * c, x.size, lambda first, last: pooling.max_pool(*planes, first, last, *window))
        return y, argmax

    def max_pool_backward(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads
    ) -> Array:
        n, c = x_shape[:2]
        dx = self.empty(x_shape, dy.dtype)
        planes = [a.reshape(n * c, *a.shape[2:]) for a in (dy, argmax, dx)]
        window = (kernel[1], *stride, pads[0], pads[2])
        if _side_by_side(kernel, stride, pads):
            self._over(n * c, dx.size, pooling.max_pool_pairs_backward, *planes)
        else:
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

    # ------------------------------------------------------------------ elementwise, loss, optimizers

    def relu(self, x: Array) -> Array:
        y = self.empty(x.shape, x.dtype)
        self._sliced(elementwise.relu, x.reshape(-1), y.reshape(-1))
        return y

    def relu_backward(self, dy: Array, y: Array) -> Array:
        dx = self.empty(dy.shape, dy.dtype)
        self._sliced(elementwise.relu_backward, dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
        return dx

    def add(self, a: Array, b: Array) -> Array:
        y = self.empty(a.shape, a.dtype)
        self._sliced(np.add, a.reshape(-1), b.reshape(-1), y.reshape(-1))
        return y

    def softmax_cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        loss, dlogits = np.empty(1, logits.dtype), self.empty(logits.shape, logits.dtype)
        elementwise.softmax_cross_entropy(logits, labels, loss, dlogits)
        return loss, dlogits

    def _squares(self, a: Array) -> Any:
        return sum(self._over(a.size, a.size / 100, lambda first, last: np.dot(a[first:last], a[first:last])))

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


def _every(planes: tuple[Array, Array, Array], first: int, last: int, stride: Pair) -> None:
    """Pooling by windows of one entry: y[P,OH,OW] is every so many of x[P,H,W], for planes first..last."""
    x, y, argmax = planes
    y[first:last] = x[first:last, :: stride[0], :: stride[1]]
    argmax[first:last] = 0


def _side_by_side(kernel: Pair, stride: Pair, pads: Pads) -> bool:
    """Whether pooling is the common one, for which there is vector code."""
    return kernel == stride == (2, 2) and not any(pads)


def _line(a: Array) -> Array:
    """A view of a contiguous array as one axis; an optimizer's arrays are changed in place, so a copy would be lost."""
    return a.reshape(-1, copy=False)
