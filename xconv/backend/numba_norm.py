"""Batch normalisation, channels shared out to the team, and dropout, whose mask each thread draws for its own part."""

from __future__ import annotations

import numpy as np

from xconv import streams
from xconv.backend.base import Array, BatchNormSaved, Need
from xconv.backend.base_norm import NormInOnePass
from xconv.backend.numba_team import NumbaTeam
from xconv.kernels.cpu import elementwise, norm

THIN = 64  # entries of a plane up to which loops run along the channels
DRAWN = 1 << 17  # entries whose part of the mask is drawn at once, and stays in cache until it is used


class NumbaNorm(NormInOnePass, NumbaTeam):
    """Part of NumbaBackend."""

    def _norm(self, x: Array, gamma: Array, beta: Array, eps: float, relu: bool) -> tuple[Array, BatchNormSaved]:
        y, (mean, inv_std, var) = self.empty(x.shape, x.dtype), np.empty((3, x.shape[1]), x.dtype)
        kernel = norm.thin_batch_norm if _thin(x) else norm.batch_norm
        arguments = (_planes(x), gamma, beta, float(eps), relu, _planes(y), mean, inv_std, var)
        self._over(x.shape[1], 4 * x.size, kernel, *arguments)
        return y, BatchNormSaved(x, gamma, mean, inv_std, var)

    def _norm_backward(
        self, dy: Array, saved: BatchNormSaved, beta: Array, relu: bool, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        """With `relu`, where it was open is found again from x: that is read here anyway."""
        if not (need.x or need.params):
            return None, None, None
        x, gamma, mean, inv_std, _ = saved
        dx = self.empty(dy.shape if need.x or (relu and _thin(x)) else (0, 0, 0, 0), dy.dtype)
        dgamma, dbeta = np.empty((2, x.shape[1]), x.dtype)
        kernel = norm.thin_batch_norm_backward if _thin(x) else norm.batch_norm_backward
        arguments = (_planes(dy), _planes(x), gamma, beta, relu, mean, inv_std, _planes(dx), dgamma, dbeta, need.x)
        self._over(x.shape[1], 4 * x.size, kernel, *arguments)
        return dx if need.x else None, dgamma if need.params else None, dbeta if need.params else None

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, relu: bool = False
    ) -> Array:
        y, inv_std = self.empty(x.shape, x.dtype), 1.0 / np.sqrt(var + float(eps))
        kernel = norm.thin_normalize if _thin(x) else norm.normalize
        self._over(x.shape[1], x.size, kernel, _planes(x), mean, inv_std, gamma, beta, relu, _planes(y))
        return y

    def dropout(self, x: Array, rate: float, seed: int, step: Array, node: int) -> Array:
        least, scale, at = streams.dropout_threshold(rate), 1.0 / (1.0 - float(rate)), int(step[0])
        y = self.empty(x.shape, x.dtype)
        source, target = np.ascontiguousarray(x).reshape(-1), y.reshape(-1)

        def blocks(first: int, last: int) -> None:
            """Blocks of eight entries, for which Philox draws at once."""
            end = min(8 * last, x.size)
            for start in range(8 * first, end, DRAWN):
                part = slice(start, min(start + DRAWN, end))
                words = streams.mask_words(seed, at, node, part.stop - start, start)
                elementwise.dropout(source[part], words, least, scale, target[part])

        self._over(-(-x.size // 8), 4 * x.size, blocks)
        return y


def _thin(x: Array) -> bool:
    return x.shape[2] * x.shape[3] <= THIN


def _planes(x: Array) -> Array:
    """[N,C,H,W] -> [N,C,H*W]."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], x.shape[2] * x.shape[3])
