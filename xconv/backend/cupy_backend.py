"""The CuPy backend: our CUDA kernels and cuBLAS on one NVIDIA device.

Nothing in an operation waits for the device, moves data to or from the host, or rebinds a parameter: a whole training
step can be recorded in a CUDA graph and replayed.
"""

from __future__ import annotations

import numpy as np

from xconv import streams
from xconv.backend.base import Array
from xconv.backend.cuda_kernels import BLOCK, MOST_BLOCKS, SUFFIX
from xconv.backend.cupy_augment import CupyAugment
from xconv.backend.cupy_conv import CupyConv
from xconv.backend.cupy_gather import CupyGather
from xconv.backend.cupy_norm import CupyNorm
from xconv.errors import DTypeError, described
from xconv.shapes import same_shape

UPDATE_BLOCKS = 1 << 11  # of an optimizer: they fill a device, and each works out its rate but once


class CupyBackend(CupyConv, CupyNorm, CupyGather, CupyAugment):
    """NVIDIA GPUs. Raises BackendError, with reason and fix, where it cannot run."""

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

    def guard(self, state: Array, loss: Array) -> None:
        self._mine("guard", state, loss)
        if state.dtype != np.uint64 or state.size != 3:
            raise DTypeError(f"guard: state must be uint64[3]. Received: {described(state)}")
        if loss.dtype.name not in SUFFIX:
            loss = loss.astype(np.float64)
        self._kernels.blocks("optimizers", f"guard_{SUFFIX[loss.dtype.name]}", (1,), (1,), state, loss)

    def judged_loss(self, loss: Array, grads: Array) -> Array:
        suffix = self._suffix("judged_loss", grads)
        self._mine("judged_loss", loss)
        loss = loss.astype(loss.dtype if loss.dtype.name in SUFFIX else np.float64)
        kernel = f"spoil_{suffix}_{SUFFIX[loss.dtype.name]}"
        self._kernels.each("optimizers", kernel, grads.size, self._flat(grads), loss, grads.size)
        return loss

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
        self._in_place(name, p, *state)
        args = (p, self._flat(g), *state, hyper, *settings, p.size, self._going)
        blocks = (min(-(-p.size // BLOCK), UPDATE_BLOCKS),)
        self._kernels.blocks("optimizers", f"{name}_{suffix}", blocks, (BLOCK,), *args)
