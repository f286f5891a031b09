"""The plain definitions of what is done entry by entry, over `self.xp` as those in `base`: ReLU, loss, optimizers."""

from __future__ import annotations

import math
from typing import Any

from xconv.backend.arrays import Arrays
from xconv.backend.saved import Array


class Elementwise(Arrays):
    """Part of Backend."""

    # ------------------------------------------------------------------ elementwise and loss

    def relu(self, x: Array) -> Array:
        """max(x, 0), NaN kept."""
        return self.xp.maximum(x, 0, out=self.empty(x.shape, x.dtype))

    def relu_backward(self, dy: Array, y: Array) -> Array:
        """dy where y > 0, else 0; `y` is what relu gave."""
        return self.xp.multiply(dy, y > 0, out=self.empty(dy.shape, dy.dtype))

    def add(self, a: Array, b: Array) -> Array:
        """a + b, of one shape and dtype."""
        return self.xp.add(a, b, out=self.empty(a.shape, a.dtype))

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

    def guard(self, state: Array, loss: Array) -> None:
        """Decide whether a step of this loss[1] is done. state uint64[3] = [going, latched, undone], in place.

        `going`, which `when` takes, becomes 1 where the loss is finite and, if `latched`, `going` was 1 before; else it
        becomes 0, and `undone` counts the step.
        """
        finite = math.isfinite(self.to_numpy(loss).reshape(-1)[0])
        state[0] = finite and (state[0] or not state[1])
        state[2] += 1 - state[0]

    def judged_loss(self, loss: Array, grads: Array) -> Array:
        """loss[1], or NaN where that is finite and an entry of grads[...] is not; anew."""
        xp = self.xp
        # One pass that makes no array; squares may overflow where no entry does, and only then each is looked at.
        if xp.isfinite(self._squares(grads.reshape(-1))) or xp.isfinite(grads).all():
            return loss * 1
        return loss * xp.where(xp.isfinite(loss), xp.nan, 1).astype(loss.dtype)

    def _squares(self, a: Array) -> Any:
        """The sum of squares of a[n]."""
        return self.xp.dot(a, a)

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
