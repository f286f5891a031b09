"""The CuPy backend: our CUDA kernels and cuBLAS on one NVIDIA device.

Nothing in an operation waits for the device, moves data to or from the host, or rebinds a parameter: a whole training
step can be recorded in a CUDA graph and replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xconv import streams
from xconv.backend.base import EVERYTHING, Array, ConvMemory, ConvPoolSaved, ConvSaved, Need, argmax_dtype
from xconv.backend.cuda_kernels import BLOCK, MOST_BLOCKS, SUFFIX, max_pool_name, pool, pool_of_product, window
from xconv.backend.cupy_gather import CupyGather
from xconv.errors import BackendError, DTypeError, described
from xconv.shapes import Pads, Pair, same_shape, window_output

ROW_PART = 8192  # entries that one block sums, up to MOST_PARTS blocks a row
MOST_PARTS = 64


class CupyBackend(CupyGather):
    """NVIDIA GPUs. Raises BackendError, with reason and fix, where it cannot run."""

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

    # ------------------------------------------------------------------ pooling

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

    # ------------------------------------------------------------------ products

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """See Backend.matmul; by cuBLAS, transposed views without a copy."""
        self._suffix("matmul", a, b)
        out = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        self._cublas.gemm(a, b, out)
        return out

    def dense(self, x: Array, w: Array, b: Array) -> Array:
        suffix = self._suffix("dense", x, w, b)
        same_shape(b.shape, w.shape[1:], "dense: b")
        y = self.matmul(x, w)
        self._kernels.each("elementwise", f"add_bias_{suffix}", y.size, y, self._flat(b), *y.shape)
        return y

    def dense_backward(self, dy: Array, x: Array, w: Array, need: Need = EVERYTHING) -> tuple[Array, Array, Array]:
        suffix = self._suffix("dense_backward", dy, x, w)
        dx = self.matmul(dy, w.T) if need.x else None
        if not need.params:
            return dx, None, None
        n, o = dy.shape
        db = self.empty((o,), dy.dtype)
        blocks = (-(-o // 32),)  # column_sums takes 32 columns a block, by 8 lanes
        self._kernels.blocks("reduce", f"column_sums_{suffix}", blocks, (32, 8), self._flat(dy), db, n, o)
        return dx, self.matmul(x.T, dy, need.dw), db

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
        """See Backend.conv2d. Bias and ReLU ride along when the product is put in order."""
        suffix = self._suffix("conv2d", x, w, b)
        if groups != 1:
            return self._grouped_conv2d(x, w, b, stride, pads, dilation, activation, groups)
        x, w, b, f = self._flat(x), self._flat(w), self._flat(b), w.shape[0]
        same_shape(b.shape, (f,), "conv2d: b")
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

    def fuses_conv_pool(self, w_shape: tuple[int, ...], conv_stride: Pair, pool_kernel: Pair) -> bool:
        """Always: the unpooled map is then written once and read once, straight from the matrix product."""
        return True

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
                self._cublas.gemm(dout, col.T, dw.reshape(matrix.shape), accumulate=part.start > 0)
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

    # ------------------------------------------------------------------ elementwise and loss

    def relu(self, x: Array) -> Array:
        suffix = self._suffix("relu", x)
        y = self.empty(x.shape, x.dtype)
        self._kernels.each("elementwise", f"relu_{suffix}", y.size, self._flat(x), y, y.size)
        return y

    def relu_backward(self, dy: Array, y: Array) -> Array:
        suffix = self._suffix("relu_backward", dy, y)
        same_shape(dy.shape, y.shape, "relu_backward: dy")
        dx = self.empty(dy.shape, dy.dtype)
        given = self._flat(dy), self._flat(y)
        self._kernels.each("elementwise", f"relu_backward_{suffix}", dx.size, *given, dx, dx.size)
        return dx

    def softmax_cross_entropy(self, logits: Array, labels: Array) -> tuple[Array, Array]:
        suffix = self._suffix("softmax_cross_entropy", logits)
        n, k = logits.shape
        self._mine("softmax_cross_entropy", labels)
        same_shape(labels.shape, (n,), "softmax_cross_entropy: labels")
        labels = self._flat(labels.astype(np.int64, copy=False))
        losses, dlogits = self.empty((n,), logits.dtype), self.empty((n, k), logits.dtype)
        loss = self.empty((1,), logits.dtype)
        threads = min(BLOCK, max(32, 1 << (k - 1).bit_length()))
        args = (self._flat(logits), labels, losses, dlogits, n, k)
        blocks = (min(n, MOST_BLOCKS),)
        self._kernels.blocks("softmax", f"softmax_cross_entropy_{suffix}", blocks, (threads,), *args)
        self._kernels.blocks("softmax", f"mean_loss_{suffix}", (1,), (BLOCK,), losses, loss, n)
        return loss, dlogits

    def dropout(self, x: Array, rate: float, seed: int, step: Array, node: int) -> Array:
        suffix = self._suffix("dropout", x)
        self._mine("dropout", step)
        if step.dtype != np.uint64 or step.size != 1:
            raise DTypeError(f"dropout: step must be uint64[1]. Received: {described(step)}")
        least, scale = streams.dropout_threshold(rate), 1.0 / (1.0 - float(rate))
        y = self.empty(x.shape, x.dtype)
        key = (seed if seed < 2**63 else seed - 2**64, int(streams.Purpose.DROPOUT))  # kernels take signed numbers
        args = (self._flat(x), y, step, *key, node, least, scale, y.size)
        self._kernels.each("dropout", f"dropout_{suffix}", -(-y.size // 8), *args)  # a thread draws for 8 entries
        return y

    # ------------------------------------------------------------------ optimizers

    def sgd(self, p: Array, g: Array, hyper: Array) -> None:
        self._update("sgd", p, g, (), hyper)

    def momentum(self, p: Array, g: Array, v: Array, hyper: Array, momentum: float, nesterov: bool) -> None:
        self._update("momentum", p, g, (v,), hyper, float(momentum), int(nesterov))

    def adagrad(self, p: Array, g: Array, h: Array, hyper: Array, eps: float) -> None:
        self._update("adagrad", p, g, (h,), hyper, float(eps))

    def rmsprop(self, p: Array, g: Array, h: Array, hyper: Array, rho: float, eps: float) -> None:
        self._update("rmsprop", p, g, (h,), hyper, float(rho), float(eps))

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
        self._update("adam", p, g, (m, v), hyper, float(beta1), float(beta2), float(eps), float(weight_decay))

    def _update(self, name: str, p: Array, g: Array, state: tuple[Array, ...], hyper: Array, *settings: float) -> None:
        suffix = self._suffix(name, p, g, *state)
        self._mine(name, hyper)
        if hyper.dtype != np.float64 or hyper.size != 2:
            raise DTypeError(f"{name}: hyper must be float64[2]. Received: {described(hyper)}")
        for array in (g, *state):
            same_shape(array.shape, p.shape, f"{name}: gradient and state")
        for array in (p, *state):
            if not array.flags.c_contiguous:
                raise BackendError(f"{name}: an array updated in place must be C-contiguous. {described(array)}")
        args = (p, self._flat(g), *state, hyper, *settings, p.size)
        self._kernels.each("optimizers", f"{name}_{suffix}", p.size, *args)
