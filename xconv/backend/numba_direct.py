"""The direct algorithm for convolution + ReLU (+ max-pooling): how a block of images is cut and addressed.

`xconv.kernels.cpu.direct` has the kernels and the idea; here is the arithmetic of their offsets, done once a shape.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from xconv.backend.base import Array, ConvMemory, Need
from xconv.backend.numba_team import PRODUCTS, NumbaTeam
from xconv.kernels.cpu import direct
from xconv.kernels.cpu.sparse import MOST
from xconv.kernels.cpu.vectors import SHUT, WIDE, lanes
from xconv.shapes import Pads, Pair, same_shape, window_output

BLOCK = 1 << 18  # bytes of input in a block at most: with the filters they stay in a core's second-level cache
WINDOWS = 128  # in a block at least, where images are small: so many share one reading of the filters
NO_POOL: tuple[Pair, Pair] = (1, 1), (1, 1)


class Geometry(NamedTuple):
    """What the kernels are told about shapes; `shape` and `place` as `direct.forward` has them."""

    windows: np.ndarray  # int32: where in a block what the first output of each window sees begins
    taps: np.ndarray  # int32[T]: where, from there, what each output of a window sees begins
    ks: np.ndarray  # int64[K]: where, from there, each of its entries lies
    chunks: np.ndarray  # int64[G,V]: where, from there, each vector of it begins
    shape: tuple[int, int, int, int]
    place: tuple[int, int, int, int]
    out: Pair
    row: int  # entries of a row of `pack_rows`: whole vectors


@functools.lru_cache(maxsize=256)
def geometry(
    image: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads, pool: tuple[Pair, Pair], dtype: Any
) -> Geometry:
    """For images (C, H, W) and pooling (size, stride)."""
    c, h, w = image
    size, pool_stride = pool
    out = window_output(window_output((h, w), kernel, stride, pads), size, pool_stride, (0, 0, 0, 0))
    step = pool_stride[0] * stride[0]
    wb = ((out[1] - 1) * pool_stride[1] + size[1] - 1) * stride[1] + kernel[1]
    line = wb * c

    def rows_of(band: int) -> int:
        return ((band - 1) * pool_stride[0] + size[0] - 1) * stride[0] + kernel[0]

    def bytes_of(band: int) -> int:
        return rows_of(band) * line * np.dtype(dtype).itemsize

    images, band = 1, out[0]
    if bytes_of(band) > BLOCK:
        while band > 1 and bytes_of(band) > BLOCK:
            band -= 1
    else:
        images = max(1, min(BLOCK // bytes_of(band), -(-WINDOWS // (out[0] * out[1]))))
    hb = rows_of(band)
    k, oy, ox = np.ogrid[:images, :band, : out[1]]
    a, b = np.ogrid[: size[0], : size[1]]
    ky, kx, ch = np.ogrid[: kernel[0], : kernel[1], :c]
    vector = lanes(dtype)
    if 2 * kernel[1] * c <= vector:
        vector //= 2  # unaligned vectors of half the size cross fewer cache lines
    per_row = -(-kernel[1] * c // vector)
    vectors = kernel[0] * per_row
    together = _together(vectors)
    starts = np.add.outer(np.arange(kernel[0]) * line, np.arange(per_row) * vector)
    return Geometry(
        (((k * hb + oy * step) * wb + ox * pool_stride[1] * stride[1]) * c).reshape(-1).astype(np.int32),
        ((a * stride[0] * wb + b * stride[1]) * c).reshape(-1).astype(np.int32),
        (ky * line + kx * c + ch).reshape(-1).astype(np.int64),
        starts.reshape(-1, together).astype(np.int64),
        (images, band, hb, wb),
        (out[1], step, pads[0], pads[2]),
        out,
        per_row * vector,
    )


def _together(vectors: int) -> int:
    """The most vectors, at most MOST, that divide them into equal groups."""
    return max(v for v in range(1, MOST + 1) if vectors % v == 0)


class DirectSaved(NamedTuple):
    """What the way back needs: for each output or window, which place in it was the largest and open, else SHUT."""

    x: Array
    w: Array
    chosen: Array  # uint8[N, F, OH*OW]
    at: Geometry
    threads: int  # that may work on it: as many as the workspace has room for


class NumbaDirect(NumbaTeam):
    """Part of NumbaBackend."""

    def _direct_conv2d(
        self, x: Array, w: Array, b: Array, stride: Pair, pads: Pads, pool: tuple[Pair, Pair] = NO_POOL
    ) -> tuple[Array, DirectSaved]:
        n, f = len(x), len(w)
        at, threads, back = _fitting(self.workspace, w.shape, x.shape[1:], stride, pads, pool, x.dtype)
        places = at.out[0] * at.out[1]
        y, chosen = self.empty((n, f, places), x.dtype), self.empty((n, f, places), np.uint8)
        arguments = (x, *_lines(w, b), y, chosen, at.windows, at.taps, at.ks, at.shape, at.place)
        self._over(n, n * w.size * places * at.taps.size / PRODUCTS, direct.forward, *arguments, most=threads)
        return y.reshape(n, f, *at.out), DirectSaved(x, w, chosen, at, back)

    def _direct_saved(
        self, x: Array, w: Array, chosen: Array, stride: Pair, pads: Pads, pool: tuple[Pair, Pair]
    ) -> DirectSaved:
        """What the way back needs, where another algorithm found out `chosen`."""
        at, _, back = _fitting(self.workspace, w.shape, x.shape[1:], stride, pads, pool, x.dtype)
        return DirectSaved(x, w, chosen, at, back)

    def _direct_conv2d_backward(
        self, dy: Array, saved: DirectSaved, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, chosen, at, threads = saved
        rows = _rows(w, at)
        dx = self.empty(x.shape if need.x else (0, 0, 0, 0), x.dtype)

        def images(first: int, last: int) -> tuple[Array, Array]:
            dw, db = np.zeros_like(rows), np.zeros(w.shape[0], w.dtype)
            flat = dy.reshape(*dy.shape[:2], -1)
            length = x.shape[1] * w.shape[3]
            places = chosen, at.windows, at.taps, rows, at.chunks, length, at.shape, at.place, first, last
            direct.backward(x, flat, *places, dw, db, dx, need.x, need.params)
            return dw, db

        dw, db = self._summed(self._over(len(x), dy.size * rows[0].size / PRODUCTS, images, most=threads))
        return dx if need.x else None, _from_rows(dw, w, need.dw) if need.params else None, db if need.params else None

    def _direct_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, pads: Pads, pool: Any, itemsize: int
    ) -> ConvMemory:
        """What every thread takes and what all share; and `chosen`, which is kept where others keep y."""
        dtype = np.dtype(f"f{itemsize}")
        shapes = w_shape, tuple(x_shape[1:]), stride, pads, pool, dtype
        shared, own = _arrays(*shapes)
        at, *fitting = _fitting(self.workspace, *shapes)
        threads = [min(self.team.threads, most) for most in fitting]
        forward, backward = (shared[i] + sum(own[i]) * threads[i] for i in (0, 1))
        kept = x_shape[0] * w_shape[0] * at.out[0] * at.out[1]
        return ConvMemory([], [], (forward, backward), kept=kept)


@functools.lru_cache(maxsize=256)
def _arrays(
    w_shape: tuple[int, ...], image: tuple[int, ...], stride: Pair, pads: Pads, pool: tuple[Pair, Pair], dtype: Any
) -> tuple[tuple[int, int], tuple[list[int], list[int]]]:
    """Bytes, forward and backward: the filters in the kernels' order, and each thread's blocks, places and dw."""
    at = geometry(image, (w_shape[2], w_shape[3]), stride, pads, pool, dtype)
    itemsize = np.dtype(dtype).itemsize
    block = at.shape[0] * at.shape[2] * at.shape[3] * image[0] * itemsize
    width = lanes(dtype) * (WIDE if w_shape[0] > lanes(dtype) else 1)
    lines = -(-w_shape[0] // width) * width * math.prod(w_shape[1:]) * itemsize
    best, rows = 2 * at.windows.size * width * itemsize, at.windows.size * at.taps.size * 8
    dw = w_shape[0] * w_shape[2] * at.row * itemsize
    flows = at.windows.size * (4 + itemsize)
    return (lines, dw), ([block, best, rows], [block, block, flows, dw])


@functools.lru_cache(maxsize=256)
def _fitting(
    workspace: int, w_shape: tuple[int, ...], image: tuple[int, ...], stride: Pair, pads: Pads, pool: Any, dtype: Any
) -> tuple[Geometry, int, int]:
    """And how many threads' `_arrays` fit the workspace each way, one being the least. Blocks are small by themselves.

    All that a shape decides, since a single image is done sooner than several such questions are answered.
    """
    same_shape(image[:1], w_shape[1:2], "conv2d: channels of x")
    ways = zip(*_arrays(w_shape, image, stride, pads, pool, dtype), strict=True)
    forward, backward = (max(1, (workspace - shared) // sum(own)) for shared, own in ways)
    return geometry(image, (w_shape[2], w_shape[3]), stride, pads, pool, dtype), forward, backward


def _lines(w: Array, b: Array) -> tuple[Array, Array]:
    """w[F,C,KH,KW] and b[F] in blocks of filters, for the way forward."""
    f, one = len(w), lanes(w.dtype)
    width = one * (WIDE if f > one else 1)
    blocks = -(-f // width)
    packed, bias = np.empty((blocks, w.size // f, width), w.dtype), np.empty(blocks * width, w.dtype)
    direct.pack_lines(w, b, packed, bias)
    return packed, bias


def _rows(w: Array, at: Geometry) -> Array:
    """w[F,C,KH,KW] as [F,G,V,lanes], for the way back."""
    packed = np.empty((w.shape[0], w.shape[2], at.row), w.dtype)
    direct.pack_rows(w, packed)
    return packed.reshape(w.shape[0], *at.chunks.shape, -1)


def _from_rows(packed: Array, like: Array, into: Array | None) -> Array:
    """The inverse."""
    w = np.empty_like(like) if into is None else into
    direct.unpack_rows(packed.reshape(w.shape[0], w.shape[2], -1), w)
    return w


def suits(stride: Pair, dilation: Pair, groups: int, pool: Pair = (1, 1)) -> bool:
    """Whether the algorithm can do this at all."""
    return groups == 1 and dilation == (1, 1) and math.prod(pool) < SHUT
