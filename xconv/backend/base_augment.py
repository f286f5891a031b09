"""The plain definition of moving pictures about, for augmentation, over `self.xp` as those in `base`."""

from __future__ import annotations

import numpy as np

from xconv.backend.arrays import Arrays
from xconv.backend.saved import Array
from xconv.errors import DTypeError, ShapeError

ONE = 1 << 16  # a pixel, in the fixed point of maps
PIXELS = ("uint8", "float32", "float64")
COLUMNS = 10  # of maps


class Augment(Arrays):
    """Part of Backend."""

    def warp_affine(self, x: Array, maps: Array, fill: Array, edge: bool = False, channels_last: bool = False) -> Array:
        """Each picture of x[N,C,H,W], or of x[N,H,W,C] with `channels_last`, moved by a map of its own -> y like x.

        maps is int64[N,10]: (ax, bx, tx, ay, by, ty, top, bottom, left, right), the first six in 65536ths of a pixel.
        The pixel of y at row i, column j is what x has at

            column (ax j + bx i + tx) / 65536, row (ay j + by i + ty) / 65536,

        between its four neighbours bilinearly. What lies outside x is fill[C], of x's dtype, or with `edge` the nearest
        pixel of x. The box top <= i < bottom, left <= j < right of y, which may stick out, then becomes fill.

        The same bits on every backend. Of bytes: integers, rounded half up once. Of floats: in float64, the products
        with v00, v01, v10 and v11 (first index the row) added in this order, each rounded by itself. A place that is
        a whole number of pixels both ways gives that very pixel.
        """
        check_warp(x, maps, fill, channels_last)
        maps, fill = self.asarray(maps), self.asarray(fill)
        y = self.empty(x.shape, x.dtype)
        seen, out = (x, y) if channels_last else (x.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1))
        n, h, w, c = seen.shape
        for part in self._parts(n, h * w * (6 * c + 8) * 8):
            out[part] = self._warped(seen[part], maps[part], fill, edge)
        return y

    def _warped(self, x: Array, maps: Array, fill: Array, edge: bool) -> Array:
        """warp_affine of x[n,H,W,C]."""
        xp, (n, h, w, _) = self.xp, x.shape
        ax, bx, tx, ay, by, ty, top, bottom, left, right = (maps[:, k, None, None] for k in range(COLUMNS))
        i, j = xp.arange(h)[:, None], xp.arange(w)
        column, row = ax * j + bx * i + tx, ay * j + by * i + ty  # [n,H,W]
        x0, y0, fx, fy = column // ONE, row // ONE, column % ONE, row % ONE
        picture = xp.arange(n)[:, None, None]

        def neighbour(down: int, along: int) -> Array:
            yy, xx = y0 + down, x0 + along
            value = x[picture, yy.clip(0, h - 1), xx.clip(0, w - 1)]
            inside = (yy >= 0) & (yy < h) & (xx >= 0) & (xx < w)
            return value if edge else xp.where(inside[..., None], value, fill)

        y = neighbour(0, 0)
        between = (fx | fy) != 0
        if between.any():
            shares = ((ONE - fy) * (ONE - fx), (ONE - fy) * fx, fy * (ONE - fx), fy * fx)
            four = [y, neighbour(0, 1), neighbour(1, 0), neighbour(1, 1)]
            y = xp.where(between[..., None], _blend(four, [share[..., None] for share in shares]), y)
        cut = (i >= top) & (i < bottom) & (j >= left) & (j < right)
        return xp.where(cut[..., None], fill, y)


def _blend(values: list[Array], shares: list[Array]) -> Array:
    """The sum of values times shares, which are integers that add up to 2**32."""
    if values[0].dtype == np.uint8:
        total = sum((v * share for v, share in zip(values, shares, strict=True)), np.int64(1 << 31))
        return (total >> 32).astype(np.uint8)
    parts = [v.astype(np.float64) * (share * 2.0**-32) for v, share in zip(values, shares, strict=True)]
    return (((parts[0] + parts[1]) + parts[2]) + parts[3]).astype(values[0].dtype)


def check_warp(x: Array, maps: Array, fill: Array, channels_last: bool) -> None:
    """ShapeError or DTypeError where these do not fit together."""
    if x.ndim != 4:
        raise ShapeError(f"warp_affine: x must be pictures [N,C,H,W] or [N,H,W,C]. Received: shape {tuple(x.shape)}")
    if x.dtype.name not in PIXELS or fill.dtype != x.dtype or maps.dtype != np.int64:
        raise DTypeError(
            f"warp_affine: x must be uint8, float32 or float64, fill of that dtype and maps int64. "
            f"Received: {x.dtype}, {fill.dtype} and {maps.dtype}"
        )
    wanted = (x.shape[0], COLUMNS), (x.shape[3 if channels_last else 1],)
    if maps.shape != wanted[0] or fill.shape != wanted[1]:
        raise ShapeError(
            f"warp_affine: maps and fill must have shapes {wanted[0]} and {wanted[1]} for x of shape {tuple(x.shape)}. "
            f"Received: {tuple(maps.shape)} and {tuple(fill.shape)}"
        )


def by_planes(x: Array, channels_last: bool) -> Array:
    """C-contiguous pictures as [N,P,H,W,K], channel p K + k, for kernels that take either order of axes."""
    n, *sizes = x.shape
    return x.reshape(n, 1, *sizes) if channels_last else x.reshape(n, *sizes, 1)
