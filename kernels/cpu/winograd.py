"""Winograd's convolution by 3x3 (Lavin and Gray 2016): outputs in tiles of m x m, m being 2 or 4, from tiles n = m + 2.

    Y = A' [sum over c of (G w G') (*) (B' x B)] A        (*) entry by entry, n n products instead of 9 m m

For each of the n n entries, called frequencies here, the sum over channels is a matrix product over all tiles. The way
back is the transpose of the same three linear maps:

    dw = G' [sum over tiles of (B' x B) (*) (A dY A')] G        dX = B [sum over f of (G w G') (*) (A dY A')] B'

Tiles lie channels-last in scratch arrays, so that each transform works on vectors of channels. What is multiplied as
vectors is cut into blocks of `width` channels (one vector or WIDE of them): [frequencies, blocks, rows, width]. Behind
each frequency stand PAD entries more, since a transform that touches n n places a power of two apart would find few
places for them in a cache: array[n*n, blocks*rows*width + PAD].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from xconv.kernels.cpu.cook_toom import Matrix, cook_toom, multiply, transposed
from xconv.kernels.cpu.direct import from_block, to_block
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.vectors import BYTES, ROWS, Emit, tile, transpose

PAD = 32  # entries


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

            def places(base: Any, down: Any, right: Any, v: Any, size: int) -> list[list[Any]]:
                lines = [emit.at(base, v, BYTES)]
                for _ in range(size - 1):
                    lines.append(emit.at(lines[-1], down))
                found = [lines]
                for _ in range(size - 1):
                    found.append([emit.at(place, right) for place in found[-1]])
                return found  # [column][line]

            def column(v: Any, nothing: list[Any]) -> list[Any]:
                size = range(len(matrix[0]))
                middle = []  # M X, column by column
                for column in places(x, down_x, right_x, v, len(size)):
                    middle.append(multiply(emit, matrix, [emit.load(place) for place in column]))
                targets = places(y, down_y, right_y, v, len(matrix))
                for i in range(len(matrix)):
                    for j, value in enumerate(multiply(emit, matrix, [middle[j][i] for j in size])):
                        target = targets[j][i]
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
def pack_filters(w, u, blocks, width, k0, m, turned, first, last):
    """w[F,C,3,3] -> u[n*n, (blocks, C, width)] = G w G' of the filters from k0 on, for channels first..last.

    `turned`: u[n*n, (blocks, F, width)] of the channels from k0 on, for filters first..last. What does not exist is 0.
    """
    f, c = w.shape[:2]
    n, rows, step = m + 2, f if turned else c, u.shape[1]
    lanes, across = BYTES // w.itemsize, blocks * width
    some = min(across, (c if turned else f) - k0)
    line = np.zeros(9 * across, w.dtype)  # [3, 3, blocks * width]
    for r in range(first, last):
        for v in range(0, some, lanes):
            start, stride = ((r * c + k0 + v) * 9, 9) if turned else (((k0 + v) * c + r) * 9, c * 9)
            for e in range(0, 9, lanes):
                many, columns = min(lanes, some - v), min(lanes, 9 - e)
                transpose(w, start + e, stride, line, v + e * across, across, many, columns, False)
        for block in range(blocks):
            at = (block * rows + r) * width
            if m == 4:
                _filters4(line, block * width, 3 * across, across, u, at, n * step, step, width // lanes, False)
            else:
                _filters2(line, block * width, 3 * across, across, u, at, n * step, step, width // lanes, False)


@jit
def _pack_input(x, scratch, v, width, deep, image, row, column_tiles, t, m, top, left):
    """One row of tiles: x[N,C,H,W] -> v[n*n, (blocks, rows, deep)] from row t on: B' x B, `width` channels a block."""
    n, c, step = m + 2, scratch.shape[3], v.shape[1]
    blocks = c // width
    to_block(x, scratch, image, 1, row * m - top, -left)
    down, vectors = scratch.shape[2] * c, width * x.itemsize // BYTES
    for i in range(column_tiles):
        for block in range(blocks):
            at, to = i * m * c + block * width, block * (step - PAD) // blocks + (t + i) * deep
            if m == 4:
                _input4(scratch, at, down, c, v, to, n * step, step, vectors, False)
            else:
                _input2(scratch, at, down, c, v, to, n * step, step, vectors, False)


@jit
def forward(x, v, deep, u, b, y, filters, place, pack, apply, start, first, last):
    """`pack`: x[N,C,H,W] -> v[n*n, (T, deep)] = B' x B; `apply`: y[N,F,OH,OW] from v, u and b[F]. Images first..last.

    `filters` is (f0, blocks, width): u has so many blocks of them, from f0 on. `place` is (m, rows of tiles done
    together, top and left padding). `start` is the image whose first tile is row 0 of v. Where both are done, the v
    that is given is not used: what is under way stays in a cache. C is a multiple of a vector's entries.
    """
    f0, blocks, width = filters
    m, block_rows, top, left = place
    c = x.shape[1]
    _, f, oh, ow = y.shape
    n, lanes = m + 2, BYTES // x.itemsize
    high, wide = -(-oh // m), -(-ow // m)
    tiles = -(-block_rows * wide // ROWS) * ROWS
    across, some = blocks * width, min(f - f0, blocks * width)
    if pack and apply:
        v = np.zeros((n * n, tiles * deep + PAD), x.dtype)
    scratch = np.empty((1, n, wide * m + 2, c), x.dtype)
    product = np.empty(n * n * (across * tiles + PAD), x.dtype)
    out = np.empty((m, wide * m, across), x.dtype)
    rows, ks, step = _steps(ROWS, deep), _steps(c, 1), across * tiles + PAD
    for r0 in range(first * high, last * high, block_rows):
        count = min(block_rows, last * high - r0)
        t0 = 0 if pack and apply else (r0 - start * high) * wide
        for r in range(count if pack else 0):
            image, row = (r0 + r) // high, (r0 + r) % high
            _pack_input(x, scratch, v, c, deep, image, row, wide, t0 + r * wide, m, top, left)
        if not apply:
            continue
        for k in range(n * n):
            for block in range(blocks):
                for t in range(0, count * wide, ROWS):
                    at, source = k * step + (block * tiles + t) * width, k * v.shape[1] + (t0 + t) * deep
                    tile(product, at, v, source, rows, 0, ks, u, k * u.shape[1] + block * c * width, width)
        for r in range(count):
            image, row = (r0 + r) // high, (r0 + r) % high
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
                        out[i, j, k] += b[f0 + k]
            for k in range(0, some, lanes):  # outermost, since a filter's rows lie side by side in y
                for i in range(min(m, oh - row * m)):
                    for j in range(0, ow, lanes):
                        target = ((image * f + f0 + k) * oh + row * m + i) * ow + j
                        many, columns = min(lanes, ow - j), min(lanes, some - k)
                        transpose(
                            out, (i * wide * m + j) * across + k, across, y, target, oh * ow, many, columns, False
                        )


@jit
def backward_tiles(x, dy, ut, v, d, deep, dx, channels, place, pack, need_x, need_params, start, first, last):
    """d[n*n, (T, deep)] = A dY A', v[n*n, (CB, T, width)] = B' x B, and dx[N,C,H,W] from d and ut; images first..last.

    `channels` is (c0, blocks, width) of ut, which is what pack_filters gives `turned`; dx is set for these alone. The
    others as in `forward`; F is a multiple of a vector's entries.
    """
    c0, blocks, width = channels
    m, block_rows, top, left = place
    c = x.shape[1]
    _, f, oh, ow = dy.shape
    n, lanes = m + 2, BYTES // x.itemsize
    high, wide = -(-oh // m), -(-ow // m)
    tiles = -(-block_rows * wide // ROWS) * ROWS
    all_blocks, across, down = -(-c // width), blocks * width, wide * m + 2
    step, back = d.shape[1], across * tiles + PAD
    seen = np.zeros((1, n, down, all_blocks * width), x.dtype)
    flow = np.zeros((1, m, wide * m, f), x.dtype)
    spread = np.empty((1, n, down, across), x.dtype)
    product = np.empty(n * n * back, x.dtype)
    rows, ks = _steps(ROWS, deep), _steps(f, 1)
    for r0 in range(first * high, last * high, block_rows):
        count = min(block_rows, last * high - r0)
        t0 = (r0 - start * high) * wide
        for r in range(count if pack else 0):
            image, row = (r0 + r) // high, (r0 + r) % high
            if need_params:
                _pack_input(x, seen, v, width, width, image, row, wide, t0 + r * wide, m, top, left)
            to_block(dy, flow, image, 1, row * m, 0)
            for i in range(wide):
                at, to = i * m * f, (t0 + r * wide + i) * deep
                if m == 4:
                    _doutput4(flow, at, wide * m * f, f, d, to, n * step, step, f // lanes, False)
                else:
                    _doutput2(flow, at, wide * m * f, f, d, to, n * step, step, f // lanes, False)
        if not need_x:
            continue
        for k in range(n * n):
            for block in range(blocks):
                for t in range(0, count * wide, ROWS):
                    at, source = k * back + (block * tiles + t) * width, k * step + (t0 + t) * deep
                    tile(product, at, d, source, rows, 0, ks, ut, k * ut.shape[1] + block * f * width, width)
        for r in range(count):
            image, row = (r0 + r) // high, (r0 + r) % high
            if row == 0:
                dx[image, c0 : c0 + across] = 0
            spread[:] = 0
            for i in range(wide):
                for block in range(blocks):
                    at, to = (block * tiles + r * wide + i) * width, i * m * across + block * width
                    if m == 4:
                        _dinput4(product, at, n * back, back, spread, to, down * across, across, width // lanes, True)
                    else:
                        _dinput2(product, at, n * back, back, spread, to, down * across, across, width // lanes, True)
            from_block(spread, dx, image, 1, c0, row * m - top, -left)


@jit
def backward_filters(v, d, deep, width, count, total, add, block, blocks, first, last):
    """total[FG, CB, n*n*ROWS*width] (+)= sum over tiles t < count of d[n*n, (t, F)] v[n*n, (CB, t, width)].

    Total has the groups first..last of ROWS filters, and of the `blocks` of channels in v as many as it has room for,
    from `block` on.
    """
    nn, per_block = v.shape[0], (v.shape[1] - PAD) // blocks
    rows, ks = _steps(ROWS, 1), _steps(count, deep)
    acc = np.empty(ROWS * width, v.dtype)
    flat = total.reshape(-1)
    for i in range(total.shape[1]):
        for k in range(nn):
            panel = k * v.shape[1] + (block + i) * per_block
            for group in range(first, last):
                at = ((group - first) * total.shape[1] + i) * total.shape[2] + k * ROWS * width
                source = k * d.shape[1] + group * ROWS
                if add:
                    tile(acc, 0, d, source, rows, 0, ks, v, panel, width)
                    for j in range(acc.size):
                        flat[at + j] += acc[j]
                else:
                    tile(flat, at, d, source, rows, 0, ks, v, panel, width)


@jit
def unpack_filters(total, width, dw, m, add, c0, group, first, last):
    """total as backward_filters gives it -> dw[F,C,3,3] (+)= G' total G, for channels from c0 on, groups first..last.

    `group` is the first in total.
    """
    c, flat = dw.shape[1], dw.reshape(-1)
    n, lanes = m + 2, BYTES // dw.itemsize
    lines, turned = np.empty((9, width), dw.dtype), np.empty((ROWS, width * 9), dw.dtype)
    step = ROWS * width
    for part in range(first, last):
        for block in range(total.shape[1]):
            for r in range(ROWS):
                at = ((part - group) * total.shape[1] + block) * total.shape[2] + r * width
                if m == 4:
                    _dfilters4(total, at, n * step, step, lines, 0, 3 * width, width, width // lanes, False)
                else:
                    _dfilters2(total, at, n * step, step, lines, 0, 3 * width, width, width // lanes, False)
                for k in range(0, width, lanes):
                    for e in range(0, 9, lanes):
                        to, some = (r * width + k) * 9 + e, min(lanes, 9 - e)
                        transpose(lines, e * width + k, width, turned, to, 9, some, lanes, False)
            start = c0 + block * width
            for r in range(ROWS):
                at = (part * ROWS + r) * c * 9
                target, source = flat[at + start * 9 : at + min(c, start + width) * 9], turned[r]
                if add:
                    for i in range(target.size):
                        target[i] += source[i]
                else:
                    for i in range(target.size):
                        target[i] = source[i]
