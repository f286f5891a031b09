"""The seam: what a backend is, and the plain definition of each operation over `self.xp`.

These definitions are the NumPy backend. Another backend overrides one only to make it faster, and must equal it within
the published tolerance (tests/tolerances.py). Names: N batch, C channels, H and W height and width, F filters,
OH and OW output size, KH and KW kernel; `pads` is (top, bottom, left, right); activations are NCHW, C-contiguous.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xconv.backend.base_norm import BatchNormAndDropout
from xconv.backend.saved import EVERYTHING, Array, BatchNormSaved, ConvPoolSaved, ConvSaved, Need
from xconv.errors import ShapeError
from xconv.shapes import Pads, Pair, same_shape, window_output

__all__ = ["EVERYTHING", "Array", "Backend", "BatchNormSaved", "ConvPoolSaved", "ConvSaved", "Need", "argmax_dtype"]


class Backend(BatchNormAndDropout):
    """Where arrays live and how each operation is computed. `xp` is the array module."""

    # ------------------------------------------------------------------ columns

    def im2col(self, x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> Array:
        """The window under each output as a row: x[N,C,H,W] -> col[N*OH*OW, C*KH*KW]."""
        n, c, h, w = x.shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        xpad = self._pad(x, pads, 0)
        col = self.empty((n, oh, ow, c, *kernel), x.dtype)
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                col[..., ky, kx] = _tap(xpad, ky, kx, oh, ow, stride, dilation).transpose(0, 2, 3, 1)
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
        n, c, h, w = x_shape
        oh, ow = window_output((h, w), kernel, stride, pads, dilation)
        top, bottom, left, right = pads
        col = col.reshape(n, oh, ow, c, *kernel)
        xpad = self.xp.zeros((n, c, h + top + bottom, w + left + right), col.dtype)
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                tap = _tap(xpad, ky, kx, oh, ow, stride, dilation)
                tap += col[..., ky, kx].transpose(0, 3, 1, 2)
        return self.xp.ascontiguousarray(xpad[:, :, top : top + h, left : left + w])

    # ------------------------------------------------------------------ pooling

    def max_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> tuple[Array, Array]:
        """x[N,C,H,W] -> y[N,C,OH,OW] and argmax, the index ky*KW + kx in the window (uint8 where it fits, else int32).

        The first maximum wins, and so does the first NaN; padding is -inf and never wins.
        """
        oh, ow = window_output(x.shape[2:], kernel, stride, pads)
        xpad = self._pad(x, pads, -np.inf)
        y = self.empty((*x.shape[:2], oh, ow), x.dtype)
        y[...] = _tap(xpad, 0, 0, oh, ow, stride)
        first = [self.xp.maximum(pads[2 * k] - self.xp.arange(y.shape[2 + k]) * stride[k], 0) for k in (0, 1)]
        argmax = self.empty(y.shape, argmax_dtype(kernel))
        argmax[...] = first[0][:, None] * kernel[1] + first[1]  # the first entry that lies inside the image
        for i in range(1, kernel[0] * kernel[1]):
            value = _tap(xpad, i // kernel[1], i % kernel[1], oh, ow, stride)
            better = ~(value <= y) & (y == y)  # `y == y`: not NaN yet
            self.xp.copyto(y, value, where=better)
            self.xp.copyto(argmax, argmax.dtype.type(i), where=better)
        return y, argmax

    def max_pool_backward(
        self, dy: Array, argmax: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads
    ) -> Array:
        """Each dy[N,C,OH,OW] goes to the input that was the maximum -> dx[N,C,H,W]."""
        n, c, h, w = x_shape
        oh, ow = dy.shape[2:]
        top, bottom, left, right = pads
        dxpad = self.xp.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
        for i in range(kernel[0] * kernel[1]):
            tap = _tap(dxpad, i // kernel[1], i % kernel[1], oh, ow, stride)
            tap += dy * (argmax == i)
        return self.xp.ascontiguousarray(dxpad[:, :, top : top + h, left : left + w])

    def avg_pool(self, x: Array, kernel: Pair, stride: Pair, pads: Pads) -> Array:
        """x[N,C,H,W] -> y[N,C,OH,OW]: the sum of the window over KH*KW, padding counted as zeros."""
        oh, ow = window_output(x.shape[2:], kernel, stride, pads)
        xpad = self._pad(x, pads, 0)
        y = self.xp.zeros((*x.shape[:2], oh, ow), x.dtype)
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                y += _tap(xpad, ky, kx, oh, ow, stride)
        y *= 1.0 / (kernel[0] * kernel[1])
        return y

    def avg_pool_backward(self, dy: Array, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads) -> Array:
        """Each dy[N,C,OH,OW] is shared equally by its window -> dx[N,C,H,W]."""
        n, c, h, w = x_shape
        oh, ow = dy.shape[2:]
        top, bottom, left, right = pads
        share = dy * (1.0 / (kernel[0] * kernel[1]))
        dxpad = self.xp.zeros((n, c, h + top + bottom, w + left + right), dy.dtype)
        for ky in range(kernel[0]):
            for kx in range(kernel[1]):
                tap = _tap(dxpad, ky, kx, oh, ow, stride)
                tap += share
        return self.xp.ascontiguousarray(dxpad[:, :, top : top + h, left : left + w])

    # ------------------------------------------------------------------ products

    def matmul(self, a: Array, b: Array) -> Array:
        """a[M,K] @ b[K,P] -> [M,P]; either may be a transposed view."""
        return self.xp.matmul(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype))

    def dense(self, x: Array, w: Array, b: Array) -> Array:
        """x[N,I] @ w[I,O] + b[O] -> y[N,O]."""
        y = self.matmul(x, w)
        y += b
        return y

    def dense_backward(self, dy: Array, x: Array, w: Array, need: Need = EVERYTHING) -> tuple[Array, Array, Array]:
        """dy[N,O] -> dx[N,I] = dy w', dw[I,O] = x' dy, db[O] = sum of dy over the batch."""
        dx = self.matmul(dy, w.T) if need.x else None
        dw = self.matmul(x.T, dy) if need.params else None
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
    ) -> tuple[Array, Any]:
        """x[N,C,H,W], w[F,C/groups,KH,KW], b[F] -> y[N,F,OH,OW]; `activation` is None or "relu".

        im2col and one matrix product (Chellapilla et al. 2006; Deep Learning from Scratch, section 7.4). With `groups`,
        each F/groups filters see C/groups channels of their own (Krizhevsky et al. 2012): `_grouped_conv2d`.
        """
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        n, f, kernel = x.shape[0], w.shape[0], w.shape[2:]
        oh, ow = window_output(x.shape[2:], kernel, stride, pads, dilation)
        col = self.im2col(x, kernel, stride, pads, dilation)
        y = self.dense(col, w.reshape(f, -1).T, b)  # (N*OH*OW, C*KH*KW) @ (C*KH*KW, F)
        if activation == "relu":
            self.xp.maximum(y, 0, out=y)
        y = self.contiguous(y.reshape(n, oh, ow, f).transpose(0, 3, 1, 2))
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation)

    def conv2d_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy[N,F,OH,OW] -> dx[N,C,H,W], dw[F,C/groups,KH,KW], db[F]."""
        if saved.groups != 1:
            return self._grouped_conv2d_backward(dy, saved, need)
        x, w, y, stride, pads, dilation, _ = saved
        f, kernel = w.shape[0], w.shape[2:]
        if y is not None:
            dy = dy * (y > 0)
        dy = self.contiguous(dy.transpose(0, 2, 3, 1)).reshape(-1, f)  # (N*OH*OW, F)
        dx = dw = db = None
        if need.params:
            col = self.im2col(x, kernel, stride, pads, dilation)
            dw = self.matmul(dy.T, col).reshape(w.shape)  # (F, N*OH*OW) @ (N*OH*OW, C*KH*KW)
            db = dy.sum(axis=0)
        if need.x:
            dcol = self.matmul(dy, w.reshape(f, -1))  # (N*OH*OW, F) @ (F, C*KH*KW)
            dx = self.col2im(dcol, x.shape, kernel, stride, pads, dilation)
        return dx, dw, db

    def _grouped_conv2d(
        self,
        x: Array,
        w: Array,
        b: Array,
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        groups: int,
    ) -> tuple[Array, Any]:
        """conv2d group by group, on every backend. Right for any `groups`, C (depthwise) too, but one call a group is
        not the fast way to do that.
        """
        (n, c), f = x.shape[:2], w.shape[0]
        if c % groups or f % groups:
            raise ShapeError(f"conv2d: groups must divide channels and filters. Received: {groups}, of {c} and {f}")
        same_shape(w.shape[1:2], (c // groups,), "conv2d: channels of w, which sees one group")
        y = self.empty((n, f, *window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)), x.dtype)
        for channels, filters in _groups(c, f, groups):
            part = self.contiguous(x[:, channels])
            y[:, filters] = self.conv2d(part, w[filters], b[filters], stride, pads, dilation, activation)[0]
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation, groups)

    def _grouped_conv2d_backward(
        self, dy: Array, saved: Any, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, stride, pads, dilation, groups = saved
        dx = self.empty(x.shape, x.dtype) if need.x else None
        dw, db = (self.empty(s, w.dtype) if need.params else None for s in (w.shape, w.shape[:1]))
        for channels, filters in _groups(x.shape[1], w.shape[0], groups):
            opened = None if y is None else self.contiguous(y[:, filters])
            part = ConvSaved(self.contiguous(x[:, channels]), w[filters], opened, stride, pads, dilation)
            got = self.conv2d_backward(self.contiguous(dy[:, filters]), part, need)
            if dx is not None:
                dx[:, channels] = got[0]
            if dw is not None and db is not None:
                dw[filters], db[filters] = got[1:]
        return dx, dw, db

    def conv_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> tuple[list[int], list[int]]:
        """The arrays, in bytes, that conv2d and conv2d_backward need for a while, beside what they give."""
        places = x_shape[0] * out[0] * out[1]
        columns, product = (places * math.prod(sizes) * itemsize for sizes in (w_shape[1:], w_shape[:1]))
        padded = math.prod(x_shape) * itemsize
        return [columns, product, padded], [columns, columns, product, product, padded]

    def conv_pool_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        out: Pair,
        pool_kernel: Pair,
        itemsize: int,
    ) -> tuple[list[int], list[int]]:
        """The same of conv2d_relu_max_pool, `out` being the convolution's output: the unpooled map is scratch, too."""
        unpooled = x_shape[0] * w_shape[0] * out[0] * out[1] * itemsize
        forward, backward = self.conv_scratch(x_shape, w_shape, out, itemsize)
        return [*forward, unpooled], [*backward, unpooled]

    # ------------------------------------------------------------------ fusions

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        """Whether conv2d_relu_max_pool is faster here than its three parts; a fixed rule on shapes."""
        return False

    def conv2d_relu_max_pool(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool_kernel: Pair, pool_stride: Pair
    ) -> tuple[Array, Any]:
        """conv2d, ReLU and an unpadded max_pool in one: x[N,C,H,W] -> y[N,F,PH,PW]."""
        conv, _ = self.conv2d(x, w, b, stride, pads, activation="relu")
        y, argmax = self.max_pool(conv, pool_kernel, pool_stride, (0, 0, 0, 0))
        return y, ConvPoolSaved(x, w, y, argmax, stride, pads, pool_kernel, pool_stride)

    def conv2d_relu_max_pool_backward(
        self, dy: Array, saved: Any, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy[N,F,PH,PW] -> dx, dw, db, as conv2d_backward."""
        x, w, y, argmax, stride, pads, pool_kernel, pool_stride = saved
        oh, ow = window_output(x.shape[2:], w.shape[2:], stride, pads)
        conv_shape = (x.shape[0], w.shape[0], oh, ow)
        # The pooled value is positive exactly where the ReLU under its maximum was open.
        dconv = self.max_pool_backward(dy * (y > 0), argmax, conv_shape, pool_kernel, pool_stride, (0, 0, 0, 0))
        return self.conv2d_backward(dconv, ConvSaved(x, w, None, stride, pads, (1, 1)), need)

    # ------------------------------------------------------------------ elementwise and loss

    def relu(self, x: Array) -> Array:
        """max(x, 0), NaN kept."""
        return self.xp.maximum(x, 0, out=self.empty(x.shape, x.dtype))

    def relu_backward(self, dy: Array, y: Array) -> Array:
        """dy where y > 0, else 0; `y` is what relu gave."""
        return self.xp.multiply(dy, y > 0, out=self.empty(dy.shape, dy.dtype))

    def softmax_cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        """logits[N,K], labels int64[N] -> mean over N of -log softmax(logits)[label] as array[1], and its dlogits[N,K].

        log softmax(z)_k = z_k - max z - log sum exp(z - max z), which neither overflows nor takes log 0.
        """
        n, k = logits.shape
        onehot = labels[:, None] == self.xp.arange(k)
        z = logits - logits.max(axis=1, keepdims=True)
        e = self.xp.exp(z)
        total = e.sum(axis=1, keepdims=True)
        loss = ((self.xp.log(total) - z) * onehot).sum(axis=1).sum(keepdims=True) * (1.0 / n)
        dlogits = (e / total - onehot) * (1.0 / n)
        return loss.astype(logits.dtype, copy=False), dlogits.astype(logits.dtype, copy=False)

    # ------------------------------------------------------------------ optimizers: in place, one pass over p
    # `hyper` is float64[2] on the device, [learning rate, steps done with this one]: a recorded step reads it anew.

    def sgd(self, p: Array, g: Array, hyper: Array) -> None:
        """p -= lr g."""
        p -= hyper[:1].astype(p.dtype) * g

    def momentum(self, p: Array, g: Array, v: Array, hyper: Array, momentum: float, nesterov: bool) -> None:
        """v = m v - lr g; p += v (Polyak 1964), or p += m v - lr g (Nesterov 1983, as Sutskever et al. 2013)."""
        step = hyper[:1].astype(p.dtype) * g
        v *= momentum
        v -= step
        p += momentum * v - step if nesterov else v

    def adagrad(self, p: Array, g: Array, h: Array, hyper: Array, eps: float) -> None:
        """h += g^2; p -= lr g / (sqrt(h) + eps) (Duchi et al. 2011)."""
        h += g * g
        p -= hyper[:1].astype(p.dtype) * g / (self.xp.sqrt(h) + eps)

    def rmsprop(self, p: Array, g: Array, h: Array, hyper: Array, rho: float, eps: float) -> None:
        """h = rho h + (1 - rho) g^2; p -= lr g / (sqrt(h) + eps) (Tieleman and Hinton 2012)."""
        h *= rho
        h += (1.0 - rho) * (g * g)
        p -= hyper[:1].astype(p.dtype) * g / (self.xp.sqrt(h) + eps)

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
        """m += (1-b1)(g-m); v += (1-b2)(g^2-v); p -= lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps).

        Kingma and Ba 2015, in the order of the end of their section 2, as Keras and the book have it. With
        `weight_decay`, p -= lr weight_decay p comes first (Loshchilov and Hutter 2019: decay decoupled from m and v).
        """
        lr, t = hyper[:1], hyper[1:]
        if weight_decay:
            p -= (lr * weight_decay).astype(p.dtype) * p
        rate = (lr * self.xp.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)).astype(p.dtype)
        m += (1.0 - beta1) * (g - m)
        v += (1.0 - beta2) * (g * g - v)
        p -= rate * m / (self.xp.sqrt(v) + eps)

    # ------------------------------------------------------------------ helpers

    def _pad(self, x: Array, pads: Pads, value: float) -> Array:
        top, bottom, left, right = pads
        if not any(pads):
            return x
        n, c, h, w = x.shape
        out = self.xp.full((n, c, h + top + bottom, w + left + right), value, x.dtype)
        out[:, :, top : top + h, left : left + w] = x
        return out


def argmax_dtype(kernel: Pair) -> Any:
    """uint8 where every index of the window fits, else int32."""
    return np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32


def _groups(c: int, f: int, groups: int) -> list[tuple[slice, slice]]:
    """The channels and the filters of each group."""
    c, f = c // groups, f // groups
    return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(groups)]


def _tap(x: Array, ky: int, kx: int, oh: int, ow: int, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """View [N,C,OH,OW] of what the kernel's entry (ky, kx) sees at each output."""
    y0, x0 = ky * dilation[0], kx * dilation[1]
    return x[:, :, y0 : y0 + (oh - 1) * stride[0] + 1 : stride[0], x0 : x0 + (ow - 1) * stride[1] + 1 : stride[1]]
