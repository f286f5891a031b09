"""Winograd's algorithm for convolution by 3x3 with stride 1: its shares for the team, its rule and its scratch memory.

`xconv.kernels.cpu.winograd` has the formula and the kernels. It multiplies 2.25 (m = 2) or 4 (m = 4) times less, but
rounds otherwise: where a window of zeros must give exactly zero it leaves residues of about 1e-7, which a ReLU may let
through. So it is chosen only where batch normalisation follows, or on request.

There are two orders of work. Where the transformed filters are small, each thread takes its images, a few tiles at a
time, through all of them: what it transforms and multiplies stays in its cache. Where they are large, all threads first
transform a part of the batch, and then each takes a few filters at a time, which are transformed when they are needed
and stay in its cache, through all of its tiles: memory never sees the 38 MB that 512 filters of 512 channels become.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xconv.backend.base import Array, Need
from xconv.backend.numba_team import PRODUCTS, NumbaTeam
from xconv.backend.saved import ConvMemory
from xconv.kernels.cpu import winograd
from xconv.kernels.cpu.vectors import ROWS, WIDE, lanes
from xconv.kernels.cpu.winograd import PAD
from xconv.shapes import Pads, Pair, window_output

TILES = 32  # done together by a thread: their transforms stay in its second-level cache
WHOLE = 16  # channels and filters are multiples of this: of a float32 vector, and of ROWS
SCRATCH = 1 << 25  # bytes of the block that scratch arrays lie in, where they fit: on few threads they do
ALIGN = 32  # entries between the starts of scratch arrays
PART = 1 << 24  # bytes of transformed tiles that are held at once
GROUPS = 16  # of ROWS filters each, whose gradients are summed at once: they stay in the cache
OWN = 1 << 21  # of these where each thread has its own
SMALL = 1 << 22  # bytes of transformed filters up to which it has
APART = 1 << 26  # bytes of all that all threads have then
FILTERS = 1 << 24  # bytes of transformed filters up to which they are made as a whole for the way forward


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
        layer = _layer(x.shape, w.shape, window_output(x.shape[2:], (3, 3), (1, 1), pads), x.itemsize)
        y = self.empty((layer.n, layer.f, *layer.out), x.dtype)
        bias = np.zeros(layer.f_blocks * layer.f_width, x.dtype)
        bias[: layer.f] = b
        forward = self._forward_whole if self._whole(layer) else self._forward_in_blocks
        forward(layer, x, w, bias, y, layer.place(pads))
        if activation == "relu":
            y = self.relu(y)
        return y, WinogradSaved(x, w, y if activation else None, pads)

    def _forward_whole(self, layer: _Layer, x: Array, w: Array, b: Array, y: Array, place: Pads) -> None:
        blocks, width = layer.f_blocks, layer.f_width
        (u,) = self._carved([layer.u(blocks)], x.dtype)
        self._over(layer.c, u.size, winograd.pack_filters, w, u, blocks, width, 0, layer.m, False)
        arguments = (x, u, layer.c_deep, u, b, y, (0, blocks, width), place, True, True, 0)
        self._over(layer.n, layer.work, winograd.forward, *arguments)

    def _forward_in_blocks(self, layer: _Layer, x: Array, w: Array, b: Array, y: Array, place: Pads) -> None:
        images, workers, width = *self._images_together(layer), layer.f_width
        v, *own = self._carved([layer.v(images), *[layer.u(1)] * workers], x.dtype)

        def transform(start: int, first: int, last: int) -> None:
            arguments = (x, v, layer.c_deep, v, b, y, (0, 0, width), place, True, False, start)
            winograd.forward(*arguments, start + first, start + last)

        def multiply(u: Array, block: int, start: int, first: int, last: int) -> None:
            winograd.pack_filters(w, u, 1, width, block * width, layer.m, False, 0, layer.c)
            filters = (block * width, 1, width)
            winograd.forward(x, v, layer.c_deep, u, b, y, filters, place, False, True, start, first, last)

        for start, stop in _parts(layer.n, images):
            self._over(stop - start, layer.work, transform, start, most=workers)
            self._blocks(layer.f_blocks, layer.work, multiply, [(u,) for u in own], start, stop)

    def _winograd_conv2d_backward(
        self, dy: Array, saved: WinogradSaved, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, pads = saved
        if y is not None:
            dy = self.relu_backward(dy, y)
        layer = _layer(x.shape, w.shape, dy.shape[2:], x.itemsize)
        dx = self.empty(x.shape if need.x else (0, 0, 0, 0), x.dtype)
        dw = self.empty(w.shape if need.params else (0, 0, 0, 0), w.dtype) if need.dw is None else need.dw
        back = self._back_apart if self._apart(layer) else self._back_in_blocks
        if not layer.n:
            dw[...] = 0
        back(layer, x, dy, w, dx, dw, layer.place(pads), need)
        if not need.params:
            return dx if need.x else None, None, None
        return dx if need.x else None, dw, dy.sum(axis=(0, 2, 3))

    def _back_apart(
        self, layer: _Layer, x: Array, dy: Array, w: Array, dx: Array, dw: Array, place: Pads, need: Need
    ) -> None:
        """Each thread transforms and multiplies its own images, a few at a time, and sums a gradient of its own."""
        images, groups, (blocks, width) = self._images_apart(layer), layer.f // ROWS, layer.channels
        ranges = self.team.ranges(layer.n, layer.work)
        ut, *carved = self._carved([layer.ut(blocks), *layer.apart(images) * len(ranges)], x.dtype)
        own = [carved[i : i + 3] for i in range(0, len(carved), 3)]
        if need.x:
            self._over(layer.f, ut.size, winograd.pack_filters, w, ut, blocks, width, 0, layer.m, True)

        def part(d: Array, v: Array, total: Array, first: int, last: int) -> None:
            for start, stop in _parts(last - first, images):
                arguments = (x, dy, ut, v, d, layer.f_deep, dx, (0, blocks, width), place, True, need.x, need.params)
                winograd.backward_tiles(*arguments, first + start, first + start, first + stop)
                if need.params:
                    tiles = (stop - start) * layer.tiles
                    winograd.backward_filters(v, d, layer.f_deep, width, tiles, total, start > 0, 0, blocks, 0, groups)

        self.team.each(part, [(*mine, *some) for mine, some in zip(own, ranges, strict=True)])
        if need.params:
            total, *others = (mine[2] for mine in own)
            for other in others:
                total += other
            self._over(groups, layer.work, winograd.unpack_filters, total, width, dw, layer.m, False, 0, 0)

    def _back_in_blocks(
        self, layer: _Layer, x: Array, dy: Array, w: Array, dx: Array, dw: Array, place: Pads, need: Need
    ) -> None:
        """All threads transform a part of the batch; then its products are shared out by channels."""
        (images, workers), (blocks, width) = self._images_together(layer), layer.channels
        shapes: list[tuple[int, ...]] = [layer.ut(1), layer.total(GROUPS, 1)] * workers
        d, v, *carved = self._carved([layer.d(images), layer.v_back(images), *shapes], x.dtype)
        own = list(zip(carved[::2], carved[1::2], strict=True))
        cut = -(-layer.f // ROWS // GROUPS)  # of the filters

        def tiles(ut: Array, channels: tuple[int, int, int], wanted: tuple[bool, bool, bool], *part: int) -> None:
            winograd.backward_tiles(x, dy, ut, v, d, layer.f_deep, dx, channels, place, *wanted, *part)

        def transform(start: int, first: int, last: int) -> None:
            tiles(own[0][0], (0, 0, width), (True, False, need.params), start, start + first, start + last)

        def spread(ut: Array, total: Array, block: int, *part: int) -> None:
            winograd.pack_filters(w, ut, 1, width, block * width, layer.m, True, 0, layer.f)
            tiles(ut, (block * width, 1, width), (False, True, False), *part)

        def gather(ut: Array, total: Array, item: int, start: int, first: int, last: int) -> None:
            block, i = divmod(item, cut)
            some = (i * GROUPS, min((i + 1) * GROUPS, layer.f // ROWS))
            count = (last - first) * layer.tiles
            winograd.backward_filters(v, d, layer.f_deep, width, count, total, False, block, blocks, *some)
            winograd.unpack_filters(total, width, dw, layer.m, start > 0, block * width, some[0], *some)

        for start, stop in _parts(layer.n, images):
            self._over(stop - start, layer.work, transform, start, most=workers)
            if need.x:
                self._blocks(blocks, layer.work, spread, own, start, stop)
            if need.params:
                self._blocks(blocks * cut, layer.work, gather, own, start, stop, whole=True)

    def _blocks(
        self,
        count: int,
        work: float,
        function: Callable[..., Any],
        own: list[tuple[Array, ...]],
        start: int,
        stop: int,
        whole: bool = False,
    ) -> None:
        """function(*own of a thread, block, start, first, last) for all blocks and the images start..stop.

        Where there are fewer blocks than threads, their images are cut, too, unless `whole`: then some threads
        transform the same filters. A block may be anything that is counted.
        """
        pieces = 1 if whole else min(-(-len(own) // count), stop - start)

        def some(*arguments: Any) -> None:
            *mine, first, last = arguments
            for item in range(first, last):
                block, i = divmod(item, pieces)
                ends = (start + (stop - start) * k // pieces for k in (i, i + 1))
                function(*mine, block, start, *ends)

        ranges = self.team.ranges(count * pieces, work, len(own))
        self.team.each(some, [(*mine, *part) for mine, part in zip(own, ranges, strict=False)])

    # ------------------------------------------------------------------ memory

    def _apart(self, layer: _Layer) -> bool:
        """Whether each thread goes back through its own images: its gradient must be small, and there must be room."""
        images = self._images_apart(layer)
        one = layer.bytes(*layer.apart(images)) + layer.beside_back(layer.c_blocks)
        filters = layer.bytes(layer.ut(layer.c_blocks))
        return filters <= SMALL and filters + one * self._threads(layer) <= min(APART, self.workspace)

    def _whole(self, layer: _Layer) -> bool:
        """Whether all filters are transformed before the first tile is: they must stay near, and there must be room."""
        filters, own = layer.bytes(layer.u(layer.f_blocks)), layer.beside(layer.f_blocks, True)
        return filters <= FILTERS and filters + own * self._threads(layer) <= self.workspace

    def _images_apart(self, layer: _Layer) -> int:
        """How many images' tiles each thread holds at once."""
        return max(1, min(-(-layer.n // self._threads(layer)), OWN // layer.image))

    def _images_together(self, layer: _Layer) -> tuple[int, int]:
        """How many images' tiles are held at once, and how many threads have room for filters of their own."""
        own = layer.own
        workers = max(1, min(self.team.threads, (self.workspace - layer.image - layer.reach) // own))
        left = min(PART, self.workspace - layer.reach - own * workers)
        return max(1, min(layer.n, left // layer.image)), workers

    def _threads(self, layer: _Layer) -> int:
        return max(1, min(self.team.threads, layer.n))

    def _winograd_scratch(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int
    ) -> ConvMemory:
        """The transformed filters, or a few of them, and tiles of a part of the batch."""
        layer = _layer(x_shape, w_shape, out, itemsize)
        threads = self._threads(layer)
        images, workers = self._images_together(layer)
        if self._whole(layer):
            forward = layer.bytes(layer.u(layer.f_blocks)) + threads * layer.beside(layer.f_blocks, True)
        else:
            forward = layer.bytes(layer.v(images), *[layer.u(1)] * workers) + workers * layer.beside(1, False)
        if self._apart(layer):
            own = layer.bytes(*layer.apart(self._images_apart(layer))) + layer.beside_back(layer.c_blocks)
            backward = layer.bytes(layer.ut(layer.c_blocks)) + threads * own
        else:
            backward = layer.bytes(layer.d(images), layer.v_back(images)) + workers * layer.own
        return ConvMemory([], [], (forward, backward))

    def _winograd_fits(self, w_shape: tuple[int, ...], out: Pair) -> bool:
        """Whether the workspace holds what there must be, one image at a time; in float64, so that no dtype differs."""
        layer = _layer((1, w_shape[1], *out), w_shape, out, 8)
        return layer.reach + layer.image + layer.own <= self.workspace

    def _carved(self, shapes: list[tuple[int, ...]], dtype: Any) -> list[Array]:
        """Arrays side by side in one block of the pool.

        The block is of one size wherever it can be, so that all layers take the same: what is not touched of it costs
        nothing.
        """
        sizes = [-(-math.prod(shape) // ALIGN) * ALIGN for shape in shapes]
        whole = self.empty((max(sum(sizes), min(SCRATCH, self.workspace) // dtype.itemsize),), dtype)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            whole[start : start + math.prod(shape)].reshape(shape) for start, shape in zip(starts, shapes, strict=True)
        ]


class _Layer(NamedTuple):
    """A convolution's shape, and those of the arrays that `xconv.kernels.cpu.winograd` works on."""

    n: int
    f: int
    c: int
    out: Pair
    itemsize: int
    m: int  # outputs of a tile, along each axis
    tiles: int  # of an image
    f_width: int  # filters, and channels, of a block
    c_width: int
    f_blocks: int
    c_blocks: int
    f_deep: int  # entries from a tile to the next in d, and in v
    c_deep: int

    @property
    def frequencies(self) -> int:
        return (self.m + 2) ** 2

    def u(self, blocks: int) -> Pair:
        """Of so many blocks of filters, transformed."""
        return self.frequencies, blocks * self.c * self.f_width + PAD

    def ut(self, blocks: int) -> Pair:
        """Likewise of channels, for the way back."""
        return self.frequencies, blocks * self.f * self.c_width + PAD

    def v(self, images: int) -> Pair:
        """Of so many images' input tiles; the last product of a thread reads on over ROWS more."""
        return self.frequencies, (images * self.tiles + ROWS) * self.c_deep + PAD

    def v_back(self, images: int) -> Pair:
        """Likewise in blocks of channels."""
        return self.frequencies, self.c_blocks * (images * self.tiles + ROWS) * self.c_width + PAD

    def d(self, images: int) -> Pair:
        """Likewise of gradients."""
        return self.frequencies, (images * self.tiles + ROWS) * self.f_deep + PAD

    def total(self, groups: int, blocks: int) -> tuple[int, int, int]:
        """What becomes dw of so many groups of ROWS filters and blocks of channels."""
        return groups, blocks, self.frequencies * ROWS * self.c_width

    def apart(self, images: int) -> list[tuple[int, ...]]:
        """What a thread has for itself that goes back through its own images."""
        return [self.d(images), self.v_back(images), self.total(self.f // ROWS, self.c_blocks)]

    @property
    def channels(self) -> Pair:
        """How many blocks, and how many there are in one."""
        return self.c_blocks, self.c_width

    def bytes(self, *shapes: tuple[int, ...]) -> int:
        return sum(math.prod(shape) for shape in shapes) * self.itemsize

    def beside(self, blocks: int, whole: bool) -> int:
        """Bytes that `forward` takes for itself, with so many blocks of filters: tiles and rows that are under way."""
        filters = blocks * self.f_width
        row = (self.m + 2) * self.c + self.m * filters
        return (self.tiles_together * (filters + whole * self.c_deep) + self.row * row) * self.itemsize

    def beside_back(self, blocks: int) -> int:
        """Likewise `backward_tiles`, with so many blocks of channels."""
        channels = blocks * self.c_width
        row = (self.m + 2) * (self.c_blocks * self.c_width + channels) + self.m * self.f
        return (self.tiles_together * channels + self.row * row) * self.itemsize

    def place(self, pads: Pads) -> Pads:
        """(m, rows of tiles done together, top and left padding)."""
        return self.m, self.rows, pads[0], pads[2]

    @property
    def tiles_of_a_row(self) -> int:
        return -(-self.out[1] // self.m)

    @property
    def rows(self) -> int:
        return max(1, TILES // self.tiles_of_a_row)

    @property
    def row(self) -> int:
        """Columns of pixels that a row of tiles sees."""
        return self.tiles_of_a_row * self.m + 2

    @property
    def tiles_together(self) -> int:
        """Entries of one channel of the tiles that are under way."""
        return self.frequencies * -(-self.rows * self.tiles_of_a_row // ROWS) * ROWS

    @property
    def image(self) -> int:
        """Bytes of v and d of an image."""
        return max(self.bytes(v(1), self.d(1)) - self.bytes(v(0), self.d(0)) for v in (self.v, self.v_back))

    @property
    def reach(self) -> int:
        """Bytes of v and d that are there without any image."""
        return max(self.bytes(v(0), self.d(0)) for v in (self.v, self.v_back))

    @property
    def own(self) -> int:
        """Bytes that each thread needs for itself where filters are transformed in blocks."""
        filters = max(self.bytes(self.u(1)), self.bytes(self.ut(1)))
        return filters + self.bytes(self.total(GROUPS, 1)) + max(self.beside(1, False), self.beside_back(1))

    @property
    def work(self) -> float:
        return self.n * self.f * self.c * math.prod(self.out) * 9 / PRODUCTS


def _layer(x_shape: tuple[int, ...], w_shape: tuple[int, ...], out: Pair, itemsize: int) -> _Layer:
    dtype, (f, c) = np.dtype(f"f{itemsize}"), w_shape[:2]
    m = tile_size(out)
    f_width, c_width = (lanes(dtype) * (WIDE if k > lanes(dtype) else 1) for k in (f, c))
    # Where rows of v are a large power of two apart, those of all tiles would share few places of a cache.
    f_deep, c_deep = (k + lanes(dtype) if k * itemsize % 512 == 0 else k for k in (f, c))
    tiles = -(-out[0] // m) * -(-out[1] // m)
    return _Layer(
        x_shape[0], f, c, out, itemsize, m, tiles, f_width, c_width, -(-f // f_width), -(-c // c_width), f_deep, c_deep
    )


def _parts(n: int, most: int) -> list[Pair]:
    """0..n in parts of at most so many."""
    return [(start, min(n, start + most)) for start in range(0, n, most)]


def suits(w_shape: tuple[int, ...], stride: Pair, dilation: Pair, groups: int) -> bool:
    """Whether the algorithm can do this at all: its transforms work on vectors of channels."""
    f, c, *kernel = w_shape
    return tuple(kernel) == (3, 3) and stride == dilation == (1, 1) and groups == 1 and not (c % WHOLE or f % WHOLE)


def tile_size(out: Pair) -> int:
    """m: 2 where a tile of 4 would be mostly empty."""
    return 4 if min(out) > 2 else 2
