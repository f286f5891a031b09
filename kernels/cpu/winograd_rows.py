"""Convolution + ReLU (+ 2x2 max-pooling) by Winograd's filtering along rows.

A row of outputs is a sum over channels and kernel rows of filters in one dimension, so four neighbours of it come of
KW + 3 products instead of 4 KW, with the matrices of F(4, KW) in `cook_toom`:

    y[i, 4t..4t+3] = ReLU(b + A' sum over c, ky of (G w[c, ky]) (*) (B' x[c, i + ky, 4t..4t+KW+2]))

Two rows of outputs are done together, in registers up to the maximum. Unlike in two dimensions the sum over ky comes
before A', which therefore pays for a single channel, too, and rounding stays about as small as a plain sum's.

A window of zeros with other pixels beside it would leave a residue of about 1e-7, and behind a bias of 0 open a ReLU
that should be shut. Among few channels (the caller says) such windows are found, and their sums multiplied by 0; a tile
of them is left out. Among many that costs more than it saves: then this is for predictions, which do not mind.

What is not finite may spoil all outputs of its tile, windows of zeros too; no NaN of the definition is lost.

Rows of the image are the vectors' lanes while it is transformed, the filters are while it is multiplied.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from xconv.kernels.cpu.cook_toom import Matrix, cook_toom, multiply
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.vectors import (
    BYTES,
    INT,
    WIDE,
    Emit,
    closed_below_zero,
    larger,
    pairs,
    transpose,
    window_maximum,
)

M = 4  # outputs of a tile's row
VECTORS = {3: WIDE, 5: 1}  # of filters in a tile at most, by KW: two rows of KW + 3 sums each stay in 32 registers


def _lines_of(matrix: Matrix) -> Any:
    @intrinsic
    def lines(typing: Any, x: Any, x0: Any, along: Any, y: Any, y0: Any, across: Any, vectors: Any) -> Any:
        """y[y0 + i across + j] = sum over q of matrix[i][q] x[x0 + q along + j] for all j of some vectors."""

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit = Emit(context, builder, signature, values)
            x, y, along, across, vectors = emit.address(0), emit.address(3), *(values[i] for i in (2, 5, 6))

            def at(base: Any, i: int, step: Any, v: Any) -> Any:
                return emit.at(emit.at(base, builder.mul(ir.Constant(INT, i), step)), v, BYTES)

            def column(v: Any, nothing: list[Any]) -> list[Any]:
                given = [emit.load(at(x, q, along, v)) for q in range(len(matrix[0]))]
                for i, value in enumerate(multiply(emit, matrix, given)):
                    emit.store(value, at(y, i, across, v))
                return []

            emit.loop(vectors, [], column)
            return context.get_dummy_value()

        size = types.intp
        return types.void(x, size, size, y, size, size, size), code

    return lines


def _tile_of(outputs: Matrix, wide: int) -> Any:
    n = len(outputs[0])
    kernel = n + 1 - M

    @intrinsic
    def tile(
        typing: Any,
        v: Any,
        v0: Any,
        u: Any,
        u0: Any,
        b: Any,
        b0: Any,
        y: Any,
        y0: Any,
        where: Any,
        i0: Any,
        live: Any,
        l0: Any,
        down: Any,
        channels: Any,
        high: Any,
        pool: Any,
        keep: Any,
    ) -> Any:
        """Two rows of M outputs each from v[c, n, high] and u[c, n, KH, width], or their 2 maxima of 2x2 where `pool`.

        y[y0 + r down + j width + f] is output j of row r; with pooling there is one row. `where` as window_maximum's.
        live[l0 + j high + r] is what to multiply the sum with before its bias is added.
        """

        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit = Emit(context, builder, signature, values)
            v, u, b, y, where, live = (emit.address(i) for i in range(0, 12, 2))
            down, channels, high, pool, keep = values[12:]
            lanes, zero = emit.lanes, emit.constant(0)

            def body(c: Any, sums: list[Any]) -> list[Any]:
                line = emit.at(v, builder.mul(builder.mul(c, high), ir.Constant(INT, n)))
                weights = emit.at(u, c, n * kernel * wide * BYTES)
                new = list(sums)
                for k in range(n):
                    seen = [emit.spread(emit.load(emit.at(line, i), emit.scalar)) for i in range(kernel + 1)]
                    for ky in range(kernel):
                        for part in range(wide):
                            weight = emit.load(emit.at(weights, (k * kernel + ky) * wide + part, BYTES))
                            for r in range(2):
                                i = (part * 2 + r) * n + k
                                new[i] = emit.fma(seen[ky + r], weight, new[i])
                    line = emit.at(line, high)
                return new

            sums = emit.loop(channels, [zero] * (2 * n * wide), body)

            def opened(row: list[Any], r: int) -> list[Any]:
                columns = (emit.at(emit.at(live, r), builder.mul(ir.Constant(INT, j), high)) for j in range(M))
                factors = (emit.spread(emit.load(column, emit.scalar)) for column in columns)
                return [builder.fmul(value, factor) for value, factor in zip(row, factors, strict=True)]

            def store(value: Any, chosen: Any, r: int, j: int, part: int) -> None:
                """ReLU of the sum and its bias, and which of its window it is, unless nobody asks."""
                at = emit.at(builder.mul(ir.Constant(INT, r), down), j * wide + part, lanes)
                value = builder.fadd(value, emit.load(emit.at(b, part, BYTES)))
                value, bits = closed_below_zero(emit, value, chosen or emit.whole(0))
                emit.store(value, emit.at(y, at))
                if chosen:
                    emit.store(bits, emit.at(where, at))

            def maximum(window: list[Any]) -> tuple[Any, Any]:
                best = window[0], emit.whole(0)
                for t, value in enumerate(window[1:], 1):
                    best = larger(emit, *best, value, emit.whole(t))
                return best

            def maximum_alone(window: list[Any]) -> tuple[Any, None]:
                """The same in half the instructions; one comparison of two tells whether either is NaN."""
                twos = window[:2], window[2:]
                tops = [builder.select(builder.fcmp_ordered(">", *two), *two) for two in twos]
                top = builder.select(builder.fcmp_ordered(">", *tops), *tops)
                unknown = builder.or_(*(builder.fcmp_unordered("uno", *two) for two in twos))
                return builder.select(unknown, emit.constant(np.nan), top), None

            for part in range(wide):
                upper, lower = (opened(multiply(emit, outputs, sums[(2 * part + r) * n :][:n]), r) for r in range(2))
                windows = [[*upper[j : j + 2], *lower[j : j + 2]] for j in range(0, M, 2)]
                with builder.if_else(pool) as (pooled, whole):
                    with pooled, builder.if_else(keep) as (kept, alone):
                        for how, when in ((maximum, kept), (maximum_alone, alone)):
                            with when:
                                for j, window in enumerate(windows):
                                    store(*how(window), 0, j, part)
                    with whole:
                        for r, row in enumerate((upper, lower)):
                            for j, value in enumerate(row):
                                store(value, emit.whole(0), r, j, part)
            return context.get_dummy_value()

        size = types.intp
        return types.void(*pairs(v, u, b, y, where, live), size, size, size, types.boolean, types.boolean), code

    return tile


_A3, _G3, _B3 = cook_toom(M, 3)
_A5, _G5, _B5 = cook_toom(M, 5)
_inputs3, _inputs5 = _lines_of(_B3), _lines_of(_B5)
_sums3, _sums5 = _lines_of([[Fraction(1)] * 3]), _lines_of([[Fraction(1)] * 5])
_filters3, _filters5 = _lines_of(_G3), _lines_of(_G5)
_tile3, _tile3_wide, _tile5 = _tile_of(_A3, 1), _tile_of(_A3, VECTORS[3]), _tile_of(_A5, VECTORS[5])


@jit
def pack_filters(w, b, u, bias):
    """w[F,C,K,K] -> u[FB,C,K+3,K,width] = G w of each row, b[F] -> bias[FB*width]; what is beyond F is 0."""
    f, c, size, _ = w.shape
    blocks, _, n, _, width = u.shape
    lanes, across, entries = BYTES // w.itemsize, blocks * width, size * size
    line = np.zeros(entries * across, w.dtype)  # [K, K, blocks * width] of one channel
    for ch in range(c):
        for k in range(0, f, lanes):
            for e in range(0, entries, lanes):
                many, some = min(lanes, f - k), min(lanes, entries - e)
                transpose(w, (k * c + ch) * entries + e, c * entries, line, e * across + k, across, many, some, False)
        for block in range(blocks):
            for ky in range(size):
                source, at = ky * size * across + block * width, (((block * c + ch) * n) * size + ky) * width
                if size == 3:
                    _filters3(line, source, across, u, at, size * width, width // lanes)
                else:
                    _filters5(line, source, across, u, at, size * width, width // lanes)
    for k in range(bias.size):
        bias[k] = b[k] if k < f else 0


@jit
def _to_columns(x, block, image, y0, x0):
    """block[c, j, i] = x[image, c, y0 + i, x0 + j], outside the image 0."""
    _, c, h, w = x.shape
    _, wb, hb = block.shape
    lanes = BYTES // x.itemsize
    up, down, left, right = max(0, -y0), min(hb, h - y0), max(0, -x0), min(wb, w - x0)
    if up or left or down < hb or right < wb:
        block[:] = 0
    for ch in range(c):
        for i in range(up, down, lanes):
            for j in range(left, right, lanes):
                source, target = ((image * c + ch) * h + y0 + i) * w + x0 + j, (ch * wb + j) * hb + i
                transpose(x, source, w, block, target, hb, min(lanes, down - i), min(lanes, right - j), False)


@jit
def _find_live(block, live, sizes, size):
    """live[j, i] = 0 where the output in column j and row i sees nothing but zeros in the block, else 1.

    sizes[2, entries] has room for the block's columns and rows, and a vector more: the sums of what is seen.
    """
    c, wb, hb = block.shape
    entries, count, flat, found, pixels = wb * hb, live.size, block.reshape(-1), live.reshape(-1), sizes.reshape(-1)
    for e in range(entries):
        pixels[e] = abs(flat[e])
    for ch in range(1, c):
        for e in range(entries):
            pixels[e] += abs(flat[ch * entries + e])
    vectors, rows = count * block.itemsize // BYTES, sizes.shape[1]
    if size == 3:
        _sums3(sizes, 0, hb, sizes, rows, 0, vectors)
        _sums3(sizes, rows, 1, live, 0, 0, vectors)
    else:
        _sums5(sizes, 0, hb, sizes, rows, 0, vectors)
        _sums5(sizes, rows, 1, live, 0, 0, vectors)
    for e in range(count):
        found[e] = 0 if found[e] == 0 else 1


@jit
def forward(x, u, b, y, chosen, keep, pool, few, band, top, left, first, last):
    """x[N,C,H,W], u and b as pack_filters gives them -> y[N,F,OH,OW] for images first..last, `pool`ed 2x2 or not.

    To `keep`, chosen[N,F,OH*OW] is as `direct.forward` gives it. Among `few` channels the outputs are found that see
    nothing but zeros: they are exactly their bias, and tiles of them are left out. `band` is how many tiles down and
    across are done together, (top, left) is the padding.
    """
    c, (_, f, oh, ow) = x.shape[1], y.shape
    blocks, _, n, size, width = u.shape
    lanes = BYTES // x.itemsize
    rows, columns = (1, M // 2) if pool else (2, M)  # of outputs in a tile
    high, wide = -(-oh // rows), -(-ow // columns)
    hb = -(-(2 * band[0] + size - 1) // lanes) * lanes
    block = np.empty((c, M * band[1] + size - 1, hb), x.dtype)
    v = np.empty((band[1], c, n, hb), x.dtype)
    live = np.ones((M * band[1], hb), x.dtype)
    sizes = np.zeros((2, block.shape[1] * hb + lanes), x.dtype)
    out = np.empty((rows * band[0] * columns * band[1], width), x.dtype)
    where, nothing = np.empty_like(out), np.zeros(width, x.dtype)
    weights, unknown = u.reshape(-1), x.dtype.type(0)
    for i in range(weights.size if few else 0):
        unknown += weights[i] * x.dtype.type(0)  # NaN beside a weight that is not finite, where nothing is left out
    for image in range(first, last):
        for p0 in range(0, high, band[0]):
            for t0 in range(0, wide, band[1]):
                down, across = min(band[0], high - p0), min(band[1], wide - t0)
                _to_columns(x, block, image, 2 * p0 - top, M * t0 - left)
                if few:
                    _find_live(block, live, sizes, size)
                for ch in range(c):
                    for t in range(across):
                        source, target = (ch * block.shape[1] + M * t) * hb, (t * c + ch) * n * hb
                        if size == 3:
                            _inputs3(block, source, hb, v, target, hb, hb // lanes)
                        else:
                            _inputs5(block, source, hb, v, target, hb, hb // lanes)
                # Lines of outputs follow each other without a gap, and what a tile has too much the next line covers.
                line, lines = min(columns * across, ow - columns * t0), min(rows * down, oh - rows * p0)
                stretch = line * lines if line == ow else line
                for fb in range(blocks):
                    u0, b0 = fb * c * n * size * width, fb * width
                    for p in range(down):
                        for t in range(across - 1, -1, -1):
                            at, to = t * c * n * hb + 2 * p, (p * rows * line + t * columns) * width
                            l0, step = M * t * hb + 2 * p, line * width
                            some = x.dtype.type(0)
                            for j in range(M):
                                some += live[M * t + j, 2 * p] + live[M * t + j, 2 * p + 1]
                            if some == 0 and unknown == 0:
                                for r in range(rows):
                                    for j in range(columns):
                                        i = to + r * step + j * width
                                        window_maximum(nothing, 0, b, b0, out, i, where, i, 1, width // lanes)
                            elif size == 5:
                                _tile5(v, at, u, u0, b, b0, out, to, where, to, live, l0, step, c, hb, pool, keep)
                            elif width == lanes:
                                _tile3(v, at, u, u0, b, b0, out, to, where, to, live, l0, step, c, hb, pool, keep)
                            else:
                                _tile3_wide(v, at, u, u0, b, b0, out, to, where, to, live, l0, step, c, hb, pool, keep)
                    for q in range(0, line * lines, stretch):
                        for i in range(0, stretch, lanes):
                            for k in range(0, min(width, f - b0), lanes):
                                maps = (image * f + b0 + k) * oh * ow
                                to = maps + (rows * p0 + q // line) * ow + columns * t0 + i
                                many, wanted = min(lanes, stretch - i), min(lanes, f - b0 - k)
                                at = (q + i) * width + k
                                transpose(out, at, width, y, to, oh * ow, many, wanted, False)
                                if keep:
                                    transpose(where, at, width, chosen, to, oh * ow, many, wanted, False)
