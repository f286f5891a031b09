"""Winograd's convolution by 3x3 (Lavin and Gray 2016): outputs in tiles of m x m, m being 2 or 4, from tiles n = m + 2.

    Y = A' [sum over c of (G w G') (*) (B' x B)] A        (*) entry by entry, n n products instead of 9 m m

For each of the n n entries, called frequencies here, the sum over channels is a matrix product over all tiles. The way
back is the transpose of the same three linear maps:

    dw = G' [sum over tiles of (B' x B) (*) (A dY A')] G        dX = B [sum over f of (G w G') (*) (A dY A')] B'

Tiles lie channels-last in scratch arrays, so that each transform works on vectors of channels. Arrays of `width`
neighbours (one vector or WIDE of them) are cut into blocks of that many channels: [frequencies, blocks, rows, width].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from xconv.kernels.cpu.cook_toom import Matrix, cook_toom, multiply, transposed
from xconv.kernels.cpu.direct import from_block, to_block
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.vectors import BYTES, INT, ROWS, Emit, tile, transpose


def _transform_of(matrix: Matrix) -> Any:
    """Y[P,P] (+)= M X[Q,Q] M' for M[P,Q], on `vectors` neighbouring vectors of channels at once."""

    @intrinsic
    def transform(
        typing: Any,
        x: Any,
        x0: Any,
        down_x: Any,
        right_x: Any,
        y: Any,
        y0: Any,
        down_y: Any,
        right_y: Any,
        vectors: Any,
        add: Any,
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit = Emit(context, builder, signature, values)
            x, y = emit.address(0), emit.address(4)
            down_x, right_x, down_y, right_y = (values[i] for i in (2, 3, 6, 7))
            vectors, add = values[8:]

            def place(base: Any, i: int, down: Any, j: int, right: Any, v: Any) -> Any:
                at = builder.add(builder.mul(ir.Constant(INT, i), down), builder.mul(ir.Constant(INT, j), right))
                return emit.at(emit.at(base, at), v, BYTES)

            def column(v: Any, nothing: list[Any]) -> list[Any]:
                size = range(len(matrix[0]))
                middle = []  # M X, column by column
                for j in size:
                    lines = [emit.load(place(x, i, down_x, j, right_x, v)) for i in size]
                    middle.append(multiply(emit, matrix, lines))
                for i in range(len(matrix)):
                    for j, value in enumerate(multiply(emit, matrix, [middle[j][i] for j in size])):
                        target = place(y, i, down_y, j, right_y, v)
                        before = builder.select(add, emit.load(target), emit.constant(0))
                        emit.store(builder.fadd(value, before), target)
                return []

            emit.loop(vectors, [], column)
            return context.get_dummy_value()

        size = types.intp
        return types.void(x, size, size, size, y, size, size, size, size, types.boolean), code

    return transform


_A2, _G2, _B2 = cook_toom(2, 3)
_A4, _G4, _B4 = cook_toom(4, 3)
_input2, _input4 = _transform_of(_B2), _transform_of(_B4)
_filters2, _filters4 = _transform_of(_G2), _transform_of(_G4)
_output2, _output4 = _transform_of(_A2), _transform_of(_A4)
_dinput2, _dinput4 = _transform_of(transposed(_B2)), _transform_of(transposed(_B4))
_dfilters2, _dfilters4 = _transform_of(transposed(_G2)), _transform_of(transposed(_G4))
_doutput2, _doutput4 = _transform_of(transposed(_A2)), _transform_of(transposed(_A4))


@jit
def _steps(count, step):
    """0, step, 2 step, .."""
    out = np.empty(count, np.int64)
    for i in range(count):
        out[i] = i * step
    return out


@jit
def pack_filters(w, u, m, first, last, turned):
    """w[F,C,3,3] -> u[n*n, FB, C, width] = G w G' for channels first..last; `turned`: u[n*n, CB, F, width], filters.

    Those of the last block that do not exist are zeros.
    """
    f, c = w.shape[:2]
    _, blocks, rows, width = u.shape
    n = m + 2
    lanes, across = BYTES // w.itemsize, blocks * width
    line = np.zeros(9 * across, w.dtype)  # [3, 3, blocks * width]
    for r in range(first, last):
        for v in range(0, c if turned else f, lanes):
            many = min(lanes, (c if turned else f) - v)
            start, stride = ((r * c + v) * 9, 9) if turned else ((v * c + r) * 9, c * 9)
            for e in range(0, 9, lanes):
                transpose(w, start + e, stride, line, v + e * across, across, many, min(lanes, 9 - e), False)
        for block in range(blocks):
            at = (block * rows + r) * width
            step = blocks * rows * width
            if m == 4:
                _filters4(line, block * width, 3 * across, across, u, at, n * step, step, width // lanes, False)
            else:
                _filters2(line, block * width, 3 * across, across, u, at, n * step, step, width // lanes, False)


@jit
def _pack_input(x, scratch, v, image, row, column_tiles, t, m, top, left):
    """One row of tiles: x[N,C,H,W] -> v[n*n, rows, C] from row t on, B' x B of each."""
    n, c = m + 2, x.shape[1]
    to_block(x, scratch, image, 1, row * m - top, -left)
    down, step = scratch.shape[2] * c, v.shape[1] * c
    vectors = c * x.itemsize // BYTES
    for i in range(column_tiles):
        if m == 4:
            _input4(scratch, i * m * c, down, c, v, (t + i) * c, n * step, step, vectors, False)
        else:
            _input2(scratch, i * m * c, down, c, v, (t + i) * c, n * step, step, vectors, False)


@jit
def forward(x, u, b, y, m, block_rows, top, left, first, last):
    """x[N,C,H,W], u as pack_filters gives it, b[FB*width] -> y[N,F,OH,OW], for images first..last.

    `block_rows` rows of tiles are done together; C is a multiple of a vector's entries.
    """
    c = x.shape[1]
    _, f, oh, ow = y.shape
    _, blocks, _, width = u.shape
    n, lanes = m + 2, BYTES // x.itemsize
    high, wide = -(-oh // m), -(-ow // m)
    tiles = -(-block_rows * wide // ROWS) * ROWS
    scratch = np.empty((1, n, wide * m + 2, c), x.dtype)
    v = np.zeros((n * n, tiles, c), x.dtype)
    product = np.empty((n * n, blocks, tiles, width), x.dtype)
    out = np.empty((m, wide * m, blocks * width), x.dtype)
    rows, ks = _steps(ROWS, c), _steps(c, 1)
    step, across = blocks * tiles * width, blocks * width
    for start in range(first * high, last * high, block_rows):
        count = min(block_rows, last * high - start)
        for r in range(count):
            _pack_input(x, scratch, v, (start + r) // high, (start + r) % high, wide, r * wide, m, top, left)
        for k in range(n * n):
            for block in range(blocks):
                panel = k * blocks + block
                for t in range(0, count * wide, ROWS):
                    at = (panel * tiles + t) * width
                    tile(product, at, v, (k * tiles + t) * c, rows, 0, ks, u, panel * c * width, width)
        for r in range(count):
            image, row = (start + r) // high, (start + r) % high
            for i in range(wide):
                for block in range(blocks):
                    at, to = (block * tiles + r * wide + i) * width, i * m * across + block * width
                    if m == 4:
                        _output4(product, at, n * step, step, out, to, wide * m * across, across, width // lanes, False)
                    else:
                        _output2(product, at, n * step, step, out, to, wide * m * across, across, width // lanes, False)
            for i in range(min(m, oh - row * m)):
                for j in range(ow):
                    for k in range(across):
                        out[i, j, k] += b[k]
                for j in range(0, ow, lanes):
                    for k in range(0, f, lanes):
                        target = ((image * f + k) * oh + row * m + i) * ow + j
                        many, some = min(lanes, ow - j), min(lanes, f - k)
                        transpose(out, (i * wide * m + j) * across + k, across, y, target, oh * ow, many, some, False)


@jit
def backward_tiles(x, dy, ut, v, d, dx, m, block_rows, top, left, start, first, last, need_x, need_params):
    """For images first..last: d[n*n, FB, T, width] = A dY A', v[n*n, T, C] = B' x B and dx[N,C,H,W] from d and ut.

    `start` is the image whose first tile is row 0 of d and v, which hold a part of the batch; ut is what pack_filters
    gives `turned`.
    """
    c = x.shape[1]
    _, f, oh, ow = dy.shape
    _, f_blocks, total, width = d.shape
    c_blocks, c_width = ut.shape[1], ut.shape[3]
    n, lanes = m + 2, BYTES // x.itemsize
    high, wide = -(-oh // m), -(-ow // m)
    tiles = -(-block_rows * wide // ROWS) * ROWS
    fp, cp = f_blocks * width, c_blocks * c_width
    seen = np.empty((1, n, wide * m + 2, c), x.dtype)
    flow = np.zeros((1, m, wide * m, fp), x.dtype)
    spread = np.empty((1, n, wide * m + 2, cp), x.dtype)
    product = np.empty((n * n, c_blocks, tiles, c_width), x.dtype)
    rows, ks = _steps(ROWS, width), np.empty(f, np.int64)
    for k in range(f):
        ks[k] = k // width * total * width + k % width
    step, back = f_blocks * total * width, c_blocks * tiles * c_width
    if need_x:
        dx[first:last] = 0
    for r0 in range(first * high, last * high, block_rows):
        count = min(block_rows, last * high - r0)
        t0 = (r0 - start * high) * wide
        for r in range(count):
            image, row = (r0 + r) // high, (r0 + r) % high
            if need_params:
                _pack_input(x, seen, v, image, row, wide, t0 + r * wide, m, top, left)
            to_block(dy, flow, image, 1, row * m, 0)
            for i in range(wide):
                for block in range(f_blocks):
                    at, to = i * m * fp + block * width, (block * total + t0 + r * wide + i) * width
                    if m == 4:
                        _doutput4(flow, at, wide * m * fp, fp, d, to, n * step, step, width // lanes, False)
                    else:
                        _doutput2(flow, at, wide * m * fp, fp, d, to, n * step, step, width // lanes, False)
        if not need_x:
            continue
        for k in range(n * n):
            for block in range(c_blocks):
                panel = k * c_blocks + block
                for t in range(0, count * wide, ROWS):
                    at, source = (panel * tiles + t) * c_width, k * step + (t0 + t) * width
                    tile(product, at, d, source, rows, 0, ks, ut, panel * f * c_width, c_width)
        for r in range(count):
            image, row = (r0 + r) // high, (r0 + r) % high
            spread[:] = 0
            for i in range(wide):
                for block in range(c_blocks):
                    at, to = (block * tiles + r * wide + i) * c_width, i * m * cp + block * c_width
                    down = (wide * m + 2) * cp
                    if m == 4:
                        _dinput4(product, at, n * back, back, spread, to, down, cp, c_width // lanes, True)
                    else:
                        _dinput2(product, at, n * back, back, spread, to, down, cp, c_width // lanes, True)
            from_block(spread, dx, image, 1, row * m - top, -left)


@jit
def backward_filters(v, d, count, total, m, first, last, add):
    """total[CB, FB, n*n, ROWS, width] (+)= sum over tiles t < count of v[n*n, T, C] d[n*n, FB, T, width].

    For blocks first..last of ROWS channels; C is a multiple of that.
    """
    nn, all_tiles, c = v.shape
    _, blocks, _, width = d.shape
    rows, ks = _steps(ROWS, 1), _steps(count, c)
    acc = np.empty(ROWS * width, v.dtype)
    flat = total.reshape(-1)
    for block in range(blocks):
        for part in range(first, last):
            for k in range(nn):
                at = ((part * blocks + block) * nn + k) * ROWS * width
                panel = (k * blocks + block) * all_tiles * width
                if add:
                    tile(acc, 0, v, k * all_tiles * c + part * ROWS, rows, 0, ks, d, panel, width)
                    for i in range(acc.size):
                        flat[at + i] += acc[i]
                else:
                    tile(total, at, v, k * all_tiles * c + part * ROWS, rows, 0, ks, d, panel, width)


@jit
def unpack_filters(total, dw, m, first, last):
    """total as backward_filters gives it -> dw[F,C,3,3] = G' total G, blocks of channels first..last."""
    f, c = dw.shape[:2]
    _, blocks, nn, _, width = total.shape
    n, lanes = m + 2, BYTES // dw.itemsize
    lines = np.empty((ROWS * 9, width), dw.dtype)
    step = ROWS * width
    for block in range(blocks):
        for part in range(first, last):
            for r in range(ROWS):
                at = (part * blocks + block) * nn * step + r * width
                if m == 4:
                    _dfilters4(total, at, n * step, step, lines, r * 9 * width, 3 * width, width, width // lanes, False)
                else:
                    _dfilters2(total, at, n * step, step, lines, r * 9 * width, 3 * width, width, width // lanes, False)
            for k in range(0, min(width, f - block * width), lanes):
                some = min(lanes, f - block * width - k)
                for e in range(0, ROWS * 9, lanes):
                    target = ((block * width + k) * c + part * ROWS) * 9 + e
                    transpose(lines, e * width + k, width, dw, target, c * 9, min(lanes, ROWS * 9 - e), some, False)
