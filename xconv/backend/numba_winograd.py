"""Winograd's algorithm for convolution by 3x3 with stride 1: its shares for the team, its rule and its scratch memory.

`xconv.kernels.cpu.winograd` has the formula and the kernels. It multiplies 2.25 (m = 2) or 4 (m = 4) times less, but
rounds otherwise: where a window of zeros must give exactly zero it leaves residues of about 1e-7, which a ReLU may let
through. So it is chosen only where batch normalisation follows, or on request.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xconv.backend.base import Array, Need
from xconv.backend.numba_team import PRODUCTS, NumbaTeam
from xconv.backend.saved import ConvMemory
from xconv.kernels.cpu import winograd
from xconv.kernels.cpu.vectors import ROWS, WIDE, lanes
from xconv.shapes import Pads, Pair, window_output

TILES = 32  # done together by a thread: their transforms stay in its second-level cache
WHOLE = 16  # channels and filters are multiples of this: of a float32 vector, and of ROWS
SCRATCH = 1 << 26  # bytes of the block that scratch arrays lie in, where they fit: 512 filters of 512 channels do
ALIGN = 32  # entries between the starts of scratch arrays
PART = 1 << 24  # bytes of transformed tiles that the way back holds at once
OWN = 1 << 21  # of these where each thread has its own; what becomes dw takes no more than that either


class WinogradSaved(NamedTuple):
    """What the way back needs."""

    x: Array
    w: Array
    y: Array | None  # kept only where an activation needs it
    pads: Pads


class NumbaWinograd(NumbaTeam):
    """Part of NumbaBackend."""

    def _winograd_conv2d(
        self, x: Array, w: Array, b: Array, pads: Pads, activation: str | None
    ) -> tuple[Array, WinogradSaved]:
        n, f, out = x.shape[0], w.shape[0], window_output(x.shape[2:], (3, 3), (1, 1), pads)
        m = tile_size(out)
        y = self.empty((n, f, *out), x.dtype)
        (u,) = self._carved([_filters_shape(w, m, False)], x.dtype)
        self._winograd_filters(w, u, m, False)
        bias = np.zeros(u.shape[1] * u.shape[3], x.dtype)
        bias[:f] = b
        arguments = (x, u, bias, y, m, _rows_together(y, m), pads[0], pads[2])
        self._over(n, y.size * w[0].size / PRODUCTS, winograd.forward, *arguments)
        if activation == "relu":
            y = self.relu(y)
        return y, WinogradSaved(x, w, y if activation else None, pads)

    def _winograd_conv2d_backward(
        self, dy: Array, saved: WinogradSaved, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, pads = saved
        if y is not None:
            dy = self.relu_backward(dy, y)
        m = tile_size(dy.shape[2:])
        dx = self.empty(x.shape if need.x else (0, 0, 0, 0), x.dtype)
        images, apart = self._images_together(x.shape, w.shape, dy.shape[2:], x.itemsize)
        arguments = (m, _rows_together(dy, m), pads[0], pads[2])
        total = (self._back_apart if apart else self._back_together)(x, dy, w, dx, images, arguments, need)
        if not need.params:
            return dx if need.x else None, None, None
        dw = self.empty(w.shape, w.dtype) if need.dw is None else need.dw
        self._over(x.shape[1] // ROWS, dy.size * w[0].size / PRODUCTS, winograd.unpack_filters, total, dw, m)
        return dx if need.x else None, dw, dy.sum(axis=(0, 2, 3))

    def _back_apart(
        self, x: Array, dy: Array, w: Array, dx: Array, images: int, arguments: tuple[int, ...], need: Need
    ) -> Array:
        """Each thread transforms and multiplies its own images, a few at a time, which stay in its cache."""
        m, groups, per_image = arguments[0], x.shape[1] // ROWS, _tiles(dy.shape[2:])
        ranges = self.team.ranges(len(x), dy.size * w[0].size / PRODUCTS)
        d, v, ut, total = _back_shapes(x, dy, w, images, need)
        ut, *carved = self._carved([ut, *(d, v, total) * len(ranges)], x.dtype)
        own = [carved[i : i + 3] for i in range(0, len(carved), 3)]
        if need.x:
            self._winograd_filters(w, ut, m, True)

        def part(d: Array, v: Array, total: Array, first: int, last: int) -> None:
            for start in range(first, last, images):
                stop = min(last, start + images)
                winograd.backward_tiles(x, dy, ut, v, d, dx, *arguments, start, start, stop, need.x, need.params)
                if need.params:
                    tiles = (stop - start) * per_image
                    winograd.backward_filters(v, d, tiles, total, m, 0, groups, start > first)

        self.team.each(part, [(*mine, *some) for mine, some in zip(own, ranges, strict=True)])
        total, *others = (mine[2] for mine in own)
        for other in others:
            total += other
        return total

    def _back_together(
        self, x: Array, dy: Array, w: Array, dx: Array, images: int, arguments: tuple[int, ...], need: Need
    ) -> Array:
        """All threads transform a part of the batch, and then share its products out by channels: one gradient."""
        m, groups, per_image = arguments[0], x.shape[1] // ROWS, _tiles(dy.shape[2:])
        n, work = len(x), dy.size * w[0].size / PRODUCTS
        d, v, ut, total = self._carved(_back_shapes(x, dy, w, images, need), x.dtype, together=2 if images == n else 0)
        if need.x:
            self._winograd_filters(w, ut, m, True)
        for start in range(0, n, images):
            count = min(images, n - start)

            def transform(first: int, last: int, start: int = start) -> None:
                part = start, start + first, start + last
                winograd.backward_tiles(x, dy, ut, v, d, dx, *arguments, *part, need.x, need.params)

            def multiply(first: int, last: int, start: int = start, count: int = count) -> None:
                winograd.backward_filters(v, d, count * per_image, total, m, first, last, start > 0)

            self._over(count, work, transform)
            if need.params:
                self._over(groups, work, multiply)
        return total

    def _winograd_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> ConvMemory:
        """The transformed filters; on the way back also tiles of a part of the batch and the gradients' products."""
        sizes = _sizes(w_shape, out, itemsize, self.team.threads)
        images, apart = self._images_together(x_shape, w_shape, out, itemsize)
        part = images * sizes.image + sizes.rows
        if apart:
            backward = sizes.turned + (part + sizes.total) * min(self.team.threads, x_shape[0])
        elif images == x_shape[0]:
            backward = part + max(sizes.turned, sizes.total)
        else:
            backward = part + sizes.turned + sizes.total
        return ConvMemory([], [], (sizes.filters + sizes.forward, backward + sizes.backward))

    def _images_together(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> tuple[int, bool]:
        """How many images' tiles the way back holds at once, and whether each thread has so many, and a dw, apart."""
        n, threads = x_shape[0], max(1, min(self.team.threads, x_shape[0]))
        sizes = _sizes(w_shape, out, itemsize, self.team.threads)
        images = max(1, min(-(-n // threads), OWN // sizes.image))
        own = (images * sizes.image + sizes.rows + sizes.total) * threads
        if sizes.total <= OWN and sizes.turned + own + sizes.backward <= min(SCRATCH, self.workspace):
            return images, True
        left = min(PART, self.workspace - sizes.turned - sizes.total - sizes.rows - sizes.backward)
        return max(1, min(n, left // sizes.image)), False

    def _winograd_fits(self, w_shape: tuple[int, ...], out: Pair) -> bool:
        """Whether the workspace holds what there must be, one image at a time; in float64, so that no dtype differs."""
        sizes = _sizes(w_shape, out, 8, self.team.threads)
        backward = sizes.turned + sizes.total + sizes.image + sizes.rows + sizes.backward
        return max(sizes.filters + sizes.forward, backward) <= self.workspace

    def _winograd_filters(self, w: Array, u: Array, m: int, turned: bool) -> None:
        """u = G w G' of all filters, in blocks of filters for the way forward, of channels (`turned`) for that back."""
        self._over(u.shape[2], u.size, lambda first, last: winograd.pack_filters(w, u, m, first, last, turned))

    def _carved(self, shapes: list[tuple[int, ...]], dtype: Any, together: int = 0) -> list[Array]:
        """Arrays side by side in one block of the pool; the last `together` start at the same place.

        The block is of one size wherever it can be, so that all layers take the same: what is not touched of it costs
        nothing.
        """
        sizes = [-(-math.prod(shape) // ALIGN) * ALIGN for shape in shapes]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        if together:
            starts[-together:] = [starts[-together]] * together
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        whole = self.empty((max(max(ends), min(SCRATCH, self.workspace) // dtype.itemsize),), dtype)
        return [
            whole[start : start + math.prod(shape)].reshape(shape) for start, shape in zip(starts, shapes, strict=True)
        ]


class _Sizes(NamedTuple):
    """Bytes of scratch arrays."""

    filters: int  # u, for the way forward
    turned: int  # ut, for the way back
    total: int  # what becomes dw
    image: int  # v and d of one image
    rows: int  # over which the last of a thread's products reads on: they do not count
    forward: int  # what the threads have each for themselves
    backward: int


def _sizes(w_shape: tuple[int, ...], out: Pair, itemsize: int, threads: int) -> _Sizes:
    dtype, (f, c) = np.dtype(f"f{itemsize}"), w_shape[:2]
    m = tile_size(out)
    per_row = -(-out[1] // m)
    one = (m + 2) ** 2 * itemsize  # of one channel of one tile, transformed
    fs, cs = (-(-k // _width(k, dtype)) * _width(k, dtype) for k in (f, c))
    tiles = -(-max(1, TILES // per_row) * per_row // ROWS) * ROWS
    return _Sizes(
        filters=one * c * fs,
        turned=one * f * cs,
        total=one * c * fs,
        image=one * _tiles(out) * (c + fs),
        rows=one * ROWS * (c + fs),
        forward=one * tiles * (c + fs) * threads,
        backward=one * tiles * cs * threads,
    )


def suits(w_shape: tuple[int, ...], stride: Pair, dilation: Pair, groups: int) -> bool:
    """Whether the algorithm can do this at all: its transforms work on vectors of channels."""
    f, c, *kernel = w_shape
    return tuple(kernel) == (3, 3) and stride == dilation == (1, 1) and groups == 1 and not (c % WHOLE or f % WHOLE)


def tile_size(out: Pair) -> int:
    """m: 2 where a tile of 4 would be mostly empty."""
    return 4 if min(out) > 2 else 2


def _tiles(out: Pair) -> int:
    """Of an image."""
    m = tile_size(out)
    return -(-out[0] // m) * -(-out[1] // m)


def _back_shapes(x: Array, dy: Array, w: Array, images: int, need: Need) -> list[tuple[int, ...]]:
    """Of d, v, ut and total, as `xconv.kernels.cpu.winograd` has them, for so many images at once."""
    m, (f, c) = tile_size(dy.shape[2:]), w.shape[:2]
    nn, width = (m + 2) ** 2, _width(f, x.dtype)
    tiles, blocks = images * _tiles(dy.shape[2:]) + ROWS, -(-f // width)
    return [
        (nn, blocks, tiles, width),
        (nn, tiles if need.params else 0, c),
        _filters_shape(w, m, True) if need.x else (nn, 0, f, width),
        (c // ROWS if need.params else 0, blocks, nn, ROWS, width),
    ]


def _filters_shape(w: Array, m: int, turned: bool) -> tuple[int, ...]:
    """Of G w G' of all filters."""
    f, c = w.shape[:2]
    inner, outer = (f, c) if turned else (c, f)
    width = _width(outer, w.dtype)
    return (m + 2) ** 2, -(-outer // width), inner, width


def _width(channels: int, dtype: object) -> int:
    one = lanes(dtype)
    return one * (WIDE if channels > one else 1)


def _rows_together(y: Array, m: int) -> int:
    return max(1, TILES // -(-y.shape[3] // m))
