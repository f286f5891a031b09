"""Batch normalisation by our CUDA kernels: one launch each way where a channel fits a block, else two."""

from __future__ import annotations

from xconv.backend.base import Array, BatchNormSaved, Need
from xconv.backend.base_norm import NormInOnePass
from xconv.backend.cuda_kernels import BLOCK
from xconv.backend.cupy_arrays import CupyArrays
from xconv.shapes import same_shape

WARP = 32  # threads that should read side by side
PART = 16 * BLOCK  # entries of a channel that are worth a block of their own
ENOUGH = 1024  # blocks, which fill a device
MOST_PARTS = 128  # of a channel: each block puts them together anew
_Dims = tuple[int, int, int]


class CupyNorm(NormInOnePass, CupyArrays):
    """Part of CupyBackend."""

    def _norm(self, x: Array, gamma: Array, beta: Array, eps: float, relu: bool) -> tuple[Array, BatchNormSaved]:
        suffix = self._suffix("batch_norm", x, gamma, beta)
        sizes = _sizes(x, gamma=gamma, beta=beta)
        x, gamma, beta = self._flat(x), self._flat(gamma), self._flat(beta)
        y, (mean, inv_std, var) = self.empty(x.shape, x.dtype), self.empty((3, sizes[1]), x.dtype)
        grid, block = norm_grid(*sizes)
        parts, partial = self._partial(grid, sizes[1], 3, x)
        if parts:
            self._kernels.blocks("norm", f"batch_norm_moments_{suffix}", grid, block, x, partial, *sizes)
        args = (x, partial, parts, gamma, beta, float(eps), int(relu), y, mean, inv_std, var, *sizes)
        self._kernels.blocks("norm", f"batch_norm_{suffix}", grid, block, *args)
        return y, BatchNormSaved(x, gamma, mean, inv_std, var)

    def _norm_backward(
        self, dy: Array, saved: BatchNormSaved, beta: Array, relu: bool, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        """With `relu`, where it was open is found again from x, which is read here anyway, to the bits of forward."""
        x, gamma, mean, inv_std, _ = saved
        suffix = self._suffix("batch_norm_backward", dy, x, gamma, beta, mean, inv_std)
        same_shape(dy.shape, x.shape, "batch_norm_backward: dy")
        if not (need.x or need.params):
            return None, None, None
        sizes = _sizes(x, gamma=gamma, beta=beta)
        dy, beta = self._flat(dy), self._flat(beta)
        dx = self.empty(x.shape, x.dtype) if need.x else None
        dgamma, dbeta = self.empty((2, sizes[1]), x.dtype)
        grid, block = norm_grid(*sizes)
        parts, partial = self._partial(grid, sizes[1], 2, x)
        if parts:
            given = (dy, x, gamma, beta, int(relu), mean, inv_std)
            self._kernels.blocks("norm", f"batch_norm_gradients_{suffix}", grid, block, *given, partial, *sizes)
        if dx is None:
            grid = (grid[0], 1, 1)  # the sums alone
        # A kernel writes through no pointer but those it is given: dgamma stands in for a dx that is not wanted.
        outs = (dgamma if dx is None else dx, dgamma, dbeta, int(need.x))
        args = (dy, x, partial, parts, gamma, beta, int(relu), mean, inv_std, *outs, *sizes)
        self._kernels.blocks("norm", f"batch_norm_backward_{suffix}", grid, block, *args)
        return dx, dgamma if need.params else None, dbeta if need.params else None

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, relu: bool = False
    ) -> Array:
        suffix = self._suffix("batch_norm_inference", x, gamma, beta, mean, var)
        sizes = _sizes(x, gamma=gamma, beta=beta, mean=mean, var=var)
        y = self.empty(x.shape, x.dtype)
        given = [self._flat(a) for a in (x, gamma, beta, mean, var)]
        grid, block = norm_grid(*sizes)
        args = (*given, float(eps), int(relu), y, *sizes)
        self._kernels.blocks("norm", f"batch_norm_inference_{suffix}", grid, block, *args)
        return y

    def moving_statistics(self, mean: Array, var: Array, batch_mean: Array, batch_var: Array, momentum: float) -> None:
        arrays = mean, var, batch_mean, batch_var
        suffix = self._suffix("moving_statistics", *arrays)
        for array in arrays:
            same_shape(array.shape, mean.shape, "moving_statistics: each array")
        self._in_place("moving_statistics", mean, var)
        args = (mean, var, self._flat(batch_mean), self._flat(batch_var), float(momentum), mean.size, self._going)
        self._kernels.each("norm", f"moving_statistics_{suffix}", mean.size, *args)

    def _partial(self, grid: _Dims, channels: int, values: int, x: Array) -> tuple[int, Array | None]:
        """(parts, memory for what each finds), or (0, None) where a channel is one part."""
        parts = grid[1] * grid[2]
        return (0, None) if parts == 1 else (parts, self.empty((parts, channels, values), x.dtype))


def norm_grid(n: int, channels: int, plane: int) -> tuple[_Dims, _Dims]:
    """Grid (channels, parts of N, parts of a plane) and block (entries, channels, images) for x[n,channels,plane].

    A rule on shapes alone, so that sums never change their order.
    """
    if plane < WARP:
        across = 1 << max(0, plane - 1).bit_length()
    else:
        across = min(BLOCK, max(WARP, 1 << (plane // 4).bit_length() - 1))
    together = max(1, WARP // across)
    images = BLOCK // (across * together)
    groups = -(-channels // together)
    parts = min(n * plane * min(together, channels) // PART, -(-ENOUGH // max(1, groups)), MOST_PARTS)
    by_image = max(1, min(parts, n // images))
    by_place = max(1, min(parts // by_image, plane // (4 * across)))
    return (groups, by_image, by_place), (across, together, images)


def _sizes(x: Array, **of_channels: Array) -> _Dims:
    """(N, C, H*W) of x[N,C,H,W]; ShapeError where something is not of its channels."""
    for name, array in of_channels.items():
        same_shape(array.shape, x.shape[1:2], f"batch_norm: {name}")
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
