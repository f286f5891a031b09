"""Batch normalisation, channels shared out to the team, and dropout, whose mask each thread draws for its own part."""

from __future__ import annotations

import numpy as np

from xconv import streams
from xconv.backend.base import Array, BatchNormSaved, Need
from xconv.backend.base_norm import NormInOnePass
from xconv.backend.numba_team import NumbaTeam
from xconv.kernels.cpu import elementwise, norm

DRAWN = 1 << 17  # entries whose part of the mask is drawn at once, and stays in cache until it is used


class NumbaNorm(NormInOnePass, NumbaTeam):
    """Part of NumbaBackend."""

    def _norm(self, x: Array, gamma: Array, beta: Array, eps: float, relu: bool) -> tuple[Array, BatchNormSaved]:
        y, (mean, inv_std, var) = self.empty(x.shape, x.dtype), np.empty((3, x.shape[1]), x.dtype)
        arguments = (*_lines(x), gamma, beta, float(eps), relu, _lines(y)[0], mean, inv_std, var)
        self._over(x.shape[1], 4 * x.size, norm.batch_norm, *arguments)
        return y, BatchNormSaved(x, gamma, mean, inv_std, var)

    def _norm_backward(
        self, dy: Array, saved: BatchNormSaved, beta: Array, relu: bool, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        """With `relu`, where it was open is found again from x: that is read here anyway."""
        if not (need.x or need.params):
            return None, None, None
        x, gamma, mean, inv_std, _ = saved
        dx = self.empty(dy.shape if need.x else (0, 0, 0, 0), dy.dtype)
        dgamma, dbeta = np.empty((2, x.shape[1]), x.dtype)
        arguments = (_lines(dy)[0], *_lines(x), gamma, beta, relu, mean, inv_std, _lines(dx)[0], dgamma, dbeta, need.x)
        self._over(x.shape[1], 4 * x.size, norm.batch_norm_backward, *arguments)
        return dx if need.x else None, dgamma if need.params else None, dbeta if need.params else None

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, relu: bool = False
    ) -> Array:
        y, inv_std = self.empty(x.shape, x.dtype), 1.0 / np.sqrt(var + float(eps))
        arguments = (*_lines(x), mean, inv_std, gamma, beta, relu, _lines(y)[0])
        self._over(x.shape[1], x.size, norm.normalize, *arguments)
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


def _lines(x: Array) -> tuple[Array, int]:
    """x[N,C,H,W] as [N,C*H*W], and H*W; 1 where there is nothing."""
    n, c, h, w = x.shape
    return np.ascontiguousarray(x).reshape(n, c * h * w), max(1, h * w)
