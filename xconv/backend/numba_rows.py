"""Convolution + ReLU (+ 2x2 max-pooling) by Winograd's filtering along rows: its rule, and its shares for the team.

`xconv.kernels.cpu.winograd_rows` has the formula and the kernels.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from xconv.backend.base import Array
from xconv.backend.numba_team import PRODUCTS, NumbaTeam
from xconv.kernels.cpu import winograd_rows
from xconv.kernels.cpu.vectors import BYTES, lanes
from xconv.kernels.cpu.winograd_rows import VECTORS, M
from xconv.shapes import Pads, Pair, same_shape, window_output

TILES = 1 << 18  # bytes of tiles, going in and coming out: with a block of filters they stay in a second-level cache
FILTERS = 1 << 19  # bytes of such a block at most, for the same reason
SAVING = 0.8  # of the direct algorithm's products there may be as many at most; transforms take the rest
FEW = 4  # channels at most, among which it pays to look for windows of zeros
POOL: tuple[Pair, Pair] = (2, 2), (2, 2)


class Geometry(NamedTuple):
    """How the outputs of an image are cut."""

    out: Pair
    band: Pair  # tiles down and across that are done together
    filters: tuple[int, ...]  # of pack_filters' u
    scratch: int  # bytes that each thread takes
    products: int  # of an image, as many as the arithmetic takes


class NumbaRows(NumbaTeam):
    """Part of NumbaBackend."""

    def _rows_conv2d(
        self, x: Array, w: Array, b: Array, pads: Pads, pool: tuple[Pair, Pair] | None, at: Geometry, keep: bool
    ) -> tuple[Array, Array]:
        """y, and the map of maxima that `direct` keeps for the way back, empty unless to `keep`."""
        n, f, x = len(x), len(w), self.contiguous(x)
        y = self.empty((n, f, *at.out), x.dtype)
        chosen = self.empty((n if keep else 0, f, at.out[0] * at.out[1]), np.uint8)
        u, bias = np.empty(at.filters, x.dtype), np.empty(at.filters[0] * at.filters[-1], x.dtype)
        winograd_rows.pack_filters(w, b, u, bias)
        arguments = x, u, bias, y, chosen, keep, pool is not None, x.shape[1] <= FEW, at.band, pads[0], pads[2]
        most, work = self._rows_threads(at, u.nbytes), n * at.products / PRODUCTS
        self._over(n, work, winograd_rows.forward, *arguments, most=most)
        return y, chosen

    def _rows_threads(self, at: Geometry, filters: int) -> int:
        """For how many the workspace has room."""
        return max(1, min(self.team.threads, (self.workspace - filters) // at.scratch))

    def _rows_scratch(self, at: Geometry, itemsize: int) -> int:
        """Bytes of the filters and of what each thread has for itself."""
        filters = math.prod(at.filters) * itemsize
        return filters + self._rows_threads(at, filters) * at.scratch


@functools.lru_cache(maxsize=256)
def fitting(
    workspace: int,
    image: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    pool: tuple[Pair, Pair] | None,
    dtype: Any,
    forced: bool = False,
) -> Geometry | None:
    """How a convolution is done along rows; None where it cannot be, or would not be faster, unless `forced`.

    A fixed rule on shapes, of which float64 is told the same. Only where a vector has 64 bytes is the algorithm known
    to be faster: its tiles take 32 registers.
    """
    (_, _, *kernel), at = w_shape, None
    same_shape(image[:1], w_shape[1:2], "conv2d: channels of x")
    if stride == dilation == (1, 1) and kernel[0] == kernel[1] and kernel[0] in VECTORS and pool in (None, POOL):
        at = geometry(image, w_shape, pads, pool, np.dtype("float32"))
        direct = math.prod(at.out) * (4 if pool else 1) * math.prod(w_shape)
        block = math.prod(at.filters[1:]) * 4
        within = 2 * (at.filters[0] * block + at.scratch) <= workspace
        pays = BYTES == 64 and block <= FILTERS and at.products <= SAVING * direct
        if not within or not (pays or forced):
            return None
        at = geometry(image, w_shape, pads, pool, dtype)
    return at


def geometry(
    image: tuple[int, ...], w_shape: tuple[int, ...], pads: Pads, pool: tuple[Pair, Pair] | None, dtype: Any
) -> Geometry:
    """For images (C, H, W)."""
    (c, h, w), (f, _, size, _) = image, w_shape
    rows, columns = (1, M // 2) if pool else (2, M)
    out = window_output((h, w), (size, size), (1, 1), pads)
    if pool:
        out = window_output(out, *pool, (0, 0, 0, 0))
    high, wide = -(-out[0] // rows), -(-out[1] // columns)
    itemsize, lane = np.dtype(dtype).itemsize, lanes(dtype)
    n, width = size + M - 1, lane * (VECTORS[size] if f > lane else 1)
    each = (c * n + rows * columns * width) * lane * itemsize  # of a vector of image rows, in one tile across
    deep = -(-(2 * high + size - 1) // lane)  # vectors down an image: at least what one tile sees
    deep = max(min(deep, TILES // (each * wide)), -(-(size + 1) // lane))
    band = min(high, (deep * lane - size + 1) // 2), max(1, min(wide, TILES // (each * deep)))
    v = band[1] * c * n * deep * lane
    blocks = (c + 3) * (M * band[1] + size - 1) * deep * lane  # of the image, what is live and two to find it
    lines = 2 * rows * band[0] * columns * band[1] * width  # of outputs, and which of their windows they are
    filters = -(-f // width), c, n, size, width
    products = high * wide * 2 * n * size * c * f
    return Geometry(out, band, filters, (v + blocks + lines + 2 * lane + width) * itemsize, products)
