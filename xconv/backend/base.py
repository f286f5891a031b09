"""The seam: what a backend is, and the plain definition of each operation over `self.xp`.

Columns, pooling, products and convolution are here; `base_norm`, `base_elementwise`, `base_gather`,
`base_augment`, `base_grouped` and `base_scratch` have the rest.
These definitions are the NumPy backend. Another backend overrides one only to make it faster, and must equal it within
the published tolerance (tests/tolerances.py). Names: N batch, C channels, H and W height and width, F filters,
OH and OW output size, KH and KW kernel; `pads` is (top, bottom, left, right); activations are NCHW, C-contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xconv.backend.arrays import most
from xconv.backend.base_augment import Augment
from xconv.backend.base_elementwise import Elementwise
from xconv.backend.base_gather import Gather
from xconv.backend.base_grouped import GroupedConv
from xconv.backend.base_norm import BatchNormAndDropout
from xconv.backend.precision import Precision
from xconv.backend.saved import (
    EVERYTHING,
    Array,
    BatchNormSaved,
    ConvMemory,
    ConvPoolSaved,
    ConvSaved,
    Need,
    argmax_dtype,
)
from xconv.shapes import Pads, Pair, window_output

__all__ = [
    "EVERYTHING",
    "Array",
    "Backend",
    "BatchNormSaved",
    "ConvMemory",
    "ConvPoolSaved",
    "ConvSaved",
    "Need",
    "argmax_dtype",
]


class Backend(Precision, GroupedConv, Elementwise, BatchNormAndDropout, Gather, Augment):
    """Where arrays live and how each operation is computed. `xp` is the array module.

    Where an operation needs more scratch memory than `workspace` for a whole batch, it goes through it in parts.
    """

    together: int | None = None  # examples that a prediction takes at a time at most, where more are no faster

    # ------------------------------------------------------------------ columns

    def im2col(self, x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> Array:
        """The window under each output as a row: x[N,C,H,W] -> col[N*OH*OW, C*KH*KW]."""
        n, c, h, w = x.shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        col = self.empty((n, oh, ow, c, *kernel), x.dtype)
        for part, xpad in self._padded(x, pads, 0):
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    col[part, ..., ky, kx] = _tap(xpad, ky, kx, oh, ow, stride, dilation).transpose(0, 2, 3, 1)
        return col.reshape(n * oh * ow, c * kernel[0] * kernel[1])

    def col2im(
        self,
        col: Array,
        x_shape: tuple[int, ...],
        kernel: Pair,
        stride: Pair,
        pads: Pads,
        dilation: Pair = (1, 1),
    ) -> Array:
        """The transpose of im2col: overlapping windows are summed. col[N*OH*OW, C*KH*KW] -> x[N,C,H,W]."""
        x = self.empty(x_shape, col.dtype)
        self._add_windows(col, x, kernel, stride, pads, dilation)
        return x

    def _add_windows(self, col: Array, x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair) -> None:
        """col2im into x[N,C,H,W]."""
        n, c, h, w = x.shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        col = col.reshape(n, oh, ow, c, *kernel)
        for part, xpad in self._unpadded(x, pads):
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    tap = _tap(xpad, ky, kx, oh, ow, stride, dilation)
                    tap += col[part, ..., ky, kx].transpose(0, 3, 1, 2)

    # ------------------------------------------------------------------ pooling

    def max_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> tuple[Array, Array]:
        """x[N,C,H,W] -> y[N,C,OH,OW] and argmax, the index ky*KW + kx in the window (uint8 where it fits, else int32).

        The first maximum wins, and so does the first NaN; padding is -inf and never wins.
        """
        shape = *x.shape[:2], *window_output(x.shape[2:], kernel, stride, pads)
        y, argmax = self.empty(shape, x.dtype), self.empty(shape, argmax_dtype(kernel))
        self._max_pool(x, y, argmax, kernel, stride, pads)
        return y, argmax

    def _max_pool(self, x: Array, y: Array, argmax: Array, kernel: Pair, stride: Pair, pads: Pads) -> None:
        """max_pool into y and argmax."""
        _, c, oh, ow = y.shape
        first = [self.xp.maximum(pads[2 * k] - self.xp.arange(y.shape[2 + k]) * stride[k], 0) for k in (0, 1)]
        argmax[...] = first[0][:, None] * kernel[1] + first[1]  # the first entry that lies inside the image
        for part, xpad in self._padded(x, pads, -np.inf, 4 * c * oh * ow):  # four masks of bytes
            best, where = y[part], argmax[part]
            best[...] = _tap(xpad, 0, 0, oh, ow, stride)
            for i in range(1, kernel[0] * kernel[1]):
                value = _tap(xpad, i // kernel[1], i % kernel[1], oh, ow, stride)
                better = ~(value <= best) & (best == best)  # `best == best`: not NaN yet
                self.xp.copyto(best, value, where=better)
                self.xp.copyto(where, argmax.dtype.type(i), where=better)

    def max_pool_backward(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads
    ) -> Array:
        """Each dy[N,C,OH,OW] goes to the input that was the maximum -> dx[N,C,H,W]."""
        _, c, oh, ow = dy.shape
        dx = self.empty(x_shape, dy.dtype)
        for part, dxpad in self._unpadded(dx, pads, c * oh * ow * (dy.itemsize + 1)):  # dy, and a mask of bytes
            for i in range(kernel[0] * kernel[1]):
                tap = _tap(dxpad, i // kernel[1], i % kernel[1], oh, ow, stride)
                tap += dy[part] * (argmax[part] == i)
        return dx

    def avg_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> Array:
        """x[N,C,H,W] -> y[N,C,OH,OW]: the sum of the window over KH*KW, padding counted as zeros."""
        oh, ow = window_output(x.shape[2:], kernel, stride, pads)
        y = self.xp.zeros((*x.shape[:2], oh, ow), x.dtype)
        for part, xpad in self._padded(x, pads, 0):
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    y[part] += _tap(xpad, ky, kx, oh, ow, stride)
        y *= 1.0 / (kernel[0] * kernel[1])
        return y

    def avg_pool_backward(self, dy: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads) -> Array:
        """Each dy[N,C,OH,OW] is shared equally by its window -> dx[N,C,H,W]."""
        _, c, oh, ow = dy.shape
        dx = self.empty(x_shape, dy.dtype)
        for part, dxpad in self._unpadded(dx, pads, 2 * c * oh * ow * dy.itemsize):
            share = dy[part] * (1.0 / (kernel[0] * kernel[1]))
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    tap = _tap(dxpad, ky, kx, oh, ow, stride)
                    tap += share
        return dx

    # ------------------------------------------------------------------ products

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """a[M,K] @ b[K,P] -> [M,P], in `out` where given; a and b may be transposed views."""
        return self.xp.matmul(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out)

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None) -> Array:
        """x[N,I] @ w[I,O] + b[O] -> y[N,O]; `activation` is None or "relu"."""
        y = self.matmul(x, w)
        y += b
        return self.xp.maximum(y, 0, out=y) if activation else y

    def dense_backward(
        self, dy: Array, x: Array, w: Array, need: Need = EVERYTHING, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """dy[N,O] -> dx[N,I] = dy w', dw[I,O] = x' dy, db[O] = sum of dy over the batch.

        Behind a ReLU `y` is what `dense` gave, and dy counts only where y > 0.
        """
        dy = dy if y is None else self.relu_backward(dy, y)
        dx = self.matmul(dy, w.T) if need.x else None
        dw = self.matmul(x.T, dy, need.dw) if need.params else None
        db = dy.sum(axis=0) if need.params else None
        return dx, dw, db

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
        """x[N,C,H,W], w[F,C/groups,KH,KW], b[F] -> y[N,F,OH,OW]; `activation` is None or "relu".

        im2col and one matrix product (Chellapilla et al. 2006; Deep Learning from Scratch, section 7.4). With `groups`,
        each F/groups filters see C/groups channels of their own (Krizhevsky et al. 2012): `_grouped_conv2d`.
        `normalized` says that batch normalisation comes next: then a backend may take an algorithm that leaves small
        residues where a window of zeros gives exactly zero, which a ReLU right behind would turn into gradients.
        """
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        n, f, kernel = x.shape[0], w.shape[0], w.shape[2:]
        oh, ow = window_output(x.shape[2:], kernel, stride, pads, dilation)
        y = self.empty((n, f, oh, ow), x.dtype)
        image = self._conv_image(x.shape, w.shape, stride, pads, dilation, activation, x.itemsize)
        for part in self._parts(n, image.most(0)):
            col = self.im2col(x[part], kernel, stride, pads, dilation)
            out = self.dense(col, w.reshape(f, -1).T, b)  # (N*OH*OW, C*KH*KW) @ (C*KH*KW, F)
            if activation == "relu":
                self.xp.maximum(out, 0, out=out)
            y[part] = out.reshape(-1, oh, ow, f).transpose(0, 3, 1, 2)
            del col, out  # before the next part's are made
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation)

    def conv2d_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy[N,F,OH,OW] -> dx[N,C,H,W], dw[F,C/groups,KH,KW], db[F]."""
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        x, w, y, stride, pads, dilation, _ = saved
        activation = None if y is None else "relu"
        image = self._conv_image(x.shape, w.shape, stride, pads, dilation, activation, x.itemsize)

        def dmaps(i: slice) -> Array:
            return dy[i] if y is None else dy[i] * (y[i] > 0)

        return self._gradients_in_parts(saved, dmaps, image.most(1), need)

    def _gradients_in_parts(
        self, saved: Any, dmaps: Callable[[slice], Array], image: int, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dx, dw, db, from a function that gives dy of some images, without ReLU; `image` is the scratch of one."""
        x, w, _, stride, pads, dilation, _ = saved
        f, kernel = w.shape[0], w.shape[2:]
        dx = self.empty(x.shape, x.dtype) if need.x else None
        dw = db = None
        for part in self._parts(len(x), image, w.nbytes):
            dout = self.contiguous(dmaps(part).transpose(0, 2, 3, 1)).reshape(-1, f)  # (N*OH*OW, F)
            if need.params:
                col = self.im2col(x[part], kernel, stride, pads, dilation)
                into = need.dw.reshape(f, -1) if dw is None and need.dw is not None else None
                dw = _plus(dw, self.matmul(dout.T, col, into))  # (F, N*OH*OW) @ (N*OH*OW, C*KH*KW)
                db = _plus(db, dout.sum(axis=0))
                del col
            if dx is not None:
                dcol = self.matmul(dout, w.reshape(f, -1))  # (N*OH*OW, F) @ (F, C*KH*KW)
                self._add_windows(dcol, dx[part], kernel, stride, pads, dilation)
                del dcol
            del dout
        if dw is not None:
            dw = dw.reshape(w.shape) if need.dw is None else need.dw
        return dx, dw, db

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
        """The name of the algorithm that conv2d takes for these, by a fixed rule on them.

        Behind ReLU, `pool` is the (kernel, stride) of a max-pooling in one with it, and `inference` means
        conv2d_relu_inference.
        """
        return "im2col"

    # ------------------------------------------------------------------ fusions

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        """Whether conv2d_relu_max_pool is faster here than its three parts; a fixed rule on shapes."""
        return False

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        """conv2d, ReLU and an unpadded max_pool in one: x[N,C,H,W] -> y[N,F,PH,PW]."""
        unpooled = window_output(x.shape[2:], w.shape[2:], stride, pads)
        shape = x.shape[0], w.shape[0], *window_output(unpooled, pool_kernel, pool_stride, (0, 0, 0, 0))
        y, argmax = self.empty(shape, x.dtype), self.empty(shape, argmax_dtype(pool_kernel))
        image = self._conv_pool_image(x.shape, w.shape, stride, pads, pool_kernel, pool_stride, x.itemsize)
        for part in self._parts(len(x), image.most(0)):
            conv = self.conv2d(x[part], w, b, stride, pads, activation="relu")[0]
            self._max_pool(conv, y[part], argmax[part], pool_kernel, pool_stride, (0, 0, 0, 0))
            del conv
        return y, ConvPoolSaved(x, w, y, argmax, stride, pads, pool_kernel, pool_stride)

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
        """conv2d and ReLU, and an unpadded max_pool of (kernel, stride) where given, when nothing is to go back.

        Then a backend may take an algorithm that leaves small residues where there should be exactly zero.
        """
        if pool is not None and dilation == (1, 1):
            return self.conv2d_relu_max_pool(x, w, b, stride, pads, *pool)[0]
        y = self.conv2d(x, w, b, stride, pads, dilation, activation="relu")[0]
        return y if pool is None else self.max_pool(y, *pool, (0, 0, 0, 0))[0]

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy[N,F,PH,PW] -> dx, dw, db, as conv2d_backward."""
        x, w, y, argmax, stride, pads, pool_kernel, pool_stride = saved
        unpooled = w.shape[0], *window_output(x.shape[2:], w.shape[2:], stride, pads)
        image = self._conv_pool_image(x.shape, w.shape, stride, pads, pool_kernel, pool_stride, x.itemsize)

        def dmaps(i: slice) -> Array:
            # The pooled value is positive exactly where the ReLU under its maximum was open.
            shape = (i.stop - i.start, *unpooled)
            return self.max_pool_backward(dy[i] * (y[i] > 0), argmax[i], shape, pool_kernel, pool_stride, (0, 0, 0, 0))

        return self._gradients_in_parts(ConvSaved(x, w, None, stride, pads, (1, 1)), dmaps, image.most(1), need)

    # ------------------------------------------------------------------ helpers

    def _padded(self, x: Array, pads: Pads, value: float, more: int = 0) -> Iterator[tuple[slice, Array]]:
        """Images of x with a border of `value`, as many at a time as the workspace holds.

        `more` is what else one image needs. All parts lie in the same memory, where the border is written once.
        """
        n, c, h, w = x.shape
        top, bottom, left, right = pads
        shape = (c, h + top + bottom, w + left + right)
        parts = self._parts(n, more + (math.prod(shape) * x.itemsize if any(pads) else 0))
        xpad = self.xp.full((most(parts), *shape), value, x.dtype) if any(pads) else None
        for part in parts:
            if xpad is None:
                yield part, x[part]
            else:
                inside = xpad[: part.stop - part.start]
                inside[:, :, top : top + h, left : left + w] = x[part]
                yield part, inside

    def _unpadded(self, dx: Array, pads: Pads, more: int = 0) -> Iterator[tuple[slice, Array]]:
        """The transpose of _padded: zeros to add to, border included, whose inside then becomes these images of dx."""
        n, c, h, w = dx.shape
        top, bottom, left, right = pads
        shape = (c, h + top + bottom, w + left + right)
        parts = self._parts(n, more + (math.prod(shape) * dx.itemsize if any(pads) else 0))
        dxpad = self.empty((most(parts), *shape), dx.dtype) if any(pads) else None
        for part in parts:
            inside = dx[part] if dxpad is None else dxpad[: part.stop - part.start]
            inside[...] = 0
            yield part, inside
            if dxpad is not None:
                dx[part] = inside[:, :, top : top + h, left : left + w]


def _plus(total: Array | None, part: Array) -> Array:
    """total + part in the memory of the total; the first part is the total."""
    if total is None:
        return part
    total += part
    return total


def _tap(x: Array, ky: int, kx: int, oh: int, ow: int, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """View [N,C,OH,OW] of what the kernel's entry (ky, kx) sees at each output."""
    y0, x0 = ky * dilation[0], kx * dilation[1]
    return x[:, :, y0 : y0 + (oh - 1) * stride[0] + 1 : stride[0], x0 : x0 + (ow - 1) * stride[1] + 1 : stride[1]]
