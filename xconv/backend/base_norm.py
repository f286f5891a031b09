"""The plain definitions of batch normalisation and dropout, over `self.xp` as those in `base`."""

from __future__ import annotations

from xconv import streams
from xconv.backend.arrays import Arrays
from xconv.backend.saved import EVERYTHING, Array, BatchNormSaved, Need, NormReLUSaved


class BatchNormAndDropout(Arrays):
    """Part of Backend."""

    # ------------------------------------------------------------------ batch normalisation

    def batch_norm(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, BatchNormSaved]:
        """x[N,C,H,W] -> y = gamma (x - mean) / sqrt(var + eps) + beta, with mean and var of each channel over N, H, W.

        Ioffe and Szegedy 2015, algorithm 1. The variance is the mean of (x - mean)^2: E[x^2] - mean^2 would cancel.
        """
        mean = self._channel_sums(x) / _count(x)
        y = self.xp.subtract(x, _wide(mean), out=self.empty(x.shape, x.dtype))
        var = self._channel_sums(y * y) / _count(x)
        inv_std = 1.0 / self.xp.sqrt(var + float(eps))
        y *= _wide(gamma * inv_std)
        y += _wide(beta)
        return y, BatchNormSaved(x, gamma, mean, inv_std, var)

    def batch_norm_backward(
        self, dy: Array, saved: BatchNormSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy[N,C,H,W] -> dx[N,C,H,W], dgamma[C], dbeta[C].

        With xhat = (x - mean) / sqrt(var + eps) and m = N H W: dbeta = sum dy, dgamma = sum dy xhat and
        dx = gamma / sqrt(var + eps) (dy - dbeta / m - xhat dgamma / m), the paper's gradients put together.
        """
        if not (need.x or need.params):
            return None, None, None
        xhat = (saved.x - _wide(saved.mean)) * _wide(saved.inv_std)
        dbeta, dgamma = self._channel_sums(dy), self._channel_sums(dy * xhat)
        dx = None
        if need.x:
            xhat *= _wide(dgamma / _count(dy))
            xhat += _wide(dbeta / _count(dy))
            dx = self.xp.subtract(dy, xhat, out=self.empty(dy.shape, dy.dtype))
            dx *= _wide(saved.gamma * saved.inv_std)
        return (dx, dgamma, dbeta) if need.params else (dx, None, None)

    fuses_norm_relu = False  # whether the two below are faster here than their parts

    def batch_norm_relu(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, NormReLUSaved]:
        """batch_norm and ReLU in one."""
        y, saved = self.batch_norm(x, gamma, beta, eps)
        y = self.xp.maximum(y, 0, out=y)
        return y, NormReLUSaved(saved, beta, y)

    def batch_norm_relu_backward(
        self, dy: Array, saved: NormReLUSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        """dy -> dx, dgamma, dbeta, as batch_norm_backward."""
        return self.batch_norm_backward(dy * (saved.y > 0), saved.norm, need)

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, relu: bool = False
    ) -> Array:
        """x[N,C,H,W] -> gamma (x - mean) / sqrt(var + eps) + beta with given statistics, as one scale and one shift.

        With `relu`, through a ReLU.
        """
        scale = gamma / self.xp.sqrt(var + float(eps))
        y = self.xp.multiply(x, _wide(scale), out=self.empty(x.shape, x.dtype))
        y += _wide(beta - mean * scale)
        return self.xp.maximum(y, 0, out=y) if relu else y

    def moving_statistics(self, mean: Array, var: Array, batch_mean: Array, batch_var: Array, momentum: float) -> None:
        """mean[C] = momentum mean + (1 - momentum) batch_mean and var[C] likewise, in place."""
        for moving, of_batch in ((mean, batch_mean), (var, batch_var)):
            moving *= momentum
            moving += of_batch * (1.0 - momentum)

    def _channel_sums(self, x: Array) -> Array:
        """x[N,C,H,W] -> [C], plane by plane and then over the planes: rounding grows with the length of a sum.

        The planes' sums are put side by side first, where NumPy adds pairwise.
        """
        return self.contiguous(x.sum(axis=(2, 3)).T).sum(axis=1)

    # ------------------------------------------------------------------ dropout

    def dropout(self, x: Array, rate: float, seed: int, step: Array, node: int) -> Array:
        """y = x / (1 - rate) where the mask keeps x, else 0 (Srivastava et al. 2014, scaled here and not in inference).

        The mask depends on (seed, step, node) alone (streams.mask_words), to the bit on every backend, so the way back
        draws it anew. `step` is uint64[1] on the device: a recorded step reads it anew.
        """
        least = streams.dropout_threshold(rate)
        words = streams.mask_words(seed, int(self.to_numpy(step)[0]), node, x.size)
        dropped = self.asarray(words < least).reshape(x.shape)
        y = self.xp.multiply(x, 1.0 / (1.0 - float(rate)), out=self.empty(x.shape, x.dtype))
        self.xp.copyto(y, 0.0, where=dropped)  # not a product with 0, which is NaN for an infinity
        return y

    def dropout_backward(self, dy: Array, rate: float, seed: int, step: Array, node: int) -> Array:
        """dx = dy / (1 - rate) where the same mask kept x, else 0."""
        return self.dropout(dy, rate, seed, step, node)


class NormInOnePass(BatchNormAndDropout):
    """Batch normalisation, with ReLU or without, for a backend that does either in one pass each way.

    It gives `_norm` and `_norm_backward`, which finds again from x, read there anyway, where the ReLU was open.
    """

    fuses_norm_relu = True

    def _norm(self, x: Array, gamma: Array, beta: Array, eps: float, relu: bool) -> tuple[Array, BatchNormSaved]:
        raise NotImplementedError(self.name)

    def _norm_backward(
        self, dy: Array, saved: BatchNormSaved, beta: Array, relu: bool, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        raise NotImplementedError(self.name)

    def batch_norm(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, BatchNormSaved]:
        return self._norm(x, gamma, beta, eps, False)

    def batch_norm_relu(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, NormReLUSaved]:
        y, saved = self._norm(x, gamma, beta, eps, True)
        return y, NormReLUSaved(saved, beta, None)

    def batch_norm_backward(
        self, dy: Array, saved: BatchNormSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        return self._norm_backward(dy, saved, saved.gamma, False, need)

    def batch_norm_relu_backward(
        self, dy: Array, saved: NormReLUSaved, need: Need = EVERYTHING
    ) -> tuple[Array | None, Array | None, Array | None]:
        return self._norm_backward(dy, saved.norm, saved.beta, True, need)


def _wide(of_channels: Array) -> Array:
    """[C] -> [C,1,1], to go with [N,C,H,W]."""
    return of_channels[:, None, None]


def _count(x: Array) -> int:
    """N H W, or 1 where there is nothing to divide."""
    return max(1, x.shape[0] * x.shape[2] * x.shape[3])
