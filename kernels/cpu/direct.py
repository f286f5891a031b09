"""Convolution without columns, with ReLU and, where one follows, max-pooling. N, C, H, W images; F filters.

A block of images lies channels-last and padded in a scratch array that stays in cache, so that what one output sees is
KH stretches of KW*C neighbours, and all F filters of an output are neighbours too. `windows` and `taps` say where in
the block each output's stretches begin; with pooling there are T outputs in a window, and only the largest is kept.

Behind a ReLU most of dy is zero, and behind max-pooling three quarters of the rest: the way back visits, filter by
filter, those outputs alone through which something flows. That saves more than any arrangement of the full product.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.sparse import add_products, collect, spread_products
from xconv.kernels.cpu.vectors import BYTES, ROWS, tile, transpose, window_maximum


@jit
def to_block(x, block, first, count, y0, x0):
    """block[k, i, j, c] = x[first + k, c, y0 + i, x0 + j], outside the image 0; x[N,C,H,W], block[B,HB,WB,>=C]."""
    _, c, h, w = x.shape
    _, hb, wb, deep = block.shape
    lanes = BYTES // x.itemsize
    lo, hi = max(0, -x0), min(wb, w - x0)
    above, below = max(0, -y0), min(hb, h - y0)
    for k in range(count):
        for i in range(hb):
            if above <= i < below:
                block[k, i, :lo] = 0
                block[k, i, hi:] = 0
            else:
                block[k, i] = 0
        if c == 1:
            for i in range(above, below):
                source = x[first + k, 0, y0 + i, x0 + lo :]
                for j in range(hi - lo):
                    block[k, i, lo + j, 0] = source[j]
            continue
        line, target = ((first + k) * c * h + y0) * w + x0, k * hb * wb * deep
        for ch in range(0, c, lanes):  # outermost, since a channel's rows lie side by side in x
            for i in range(above, below):
                for j in range(lo, hi, lanes):
                    rows, columns = min(lanes, c - ch), min(lanes, hi - j)
                    source, to = line + (ch * h + i) * w + j, target + (i * wb + j) * deep + ch
                    transpose(x, source, h * w, block, to, deep, rows, columns, False)


@jit
def from_block(block, dx, first, count, c0, y0, x0):
    """to_block's transpose, channels from c0 on: dx[first + k, c0 + c, y0 + i, x0 + j] += block[k, i, j, c]."""
    _, c, h, w = dx.shape
    _, hb, wb, deep = block.shape
    lanes = BYTES // dx.itemsize
    lo, hi = max(0, -x0), min(wb, w - x0)
    some = min(c - c0, deep)
    for k in range(count):
        line, source = (((first + k) * c + c0) * h + y0) * w + x0, k * hb * wb * deep
        for ch in range(0, some, lanes):
            for i in range(max(0, -y0), min(hb, h - y0)):
                for j in range(lo, hi, lanes):
                    rows, columns = min(lanes, hi - j), min(lanes, some - ch)
                    at, to = source + (i * wb + j) * deep + ch, line + (ch * h + i) * w + j
                    transpose(block, at, deep, dx, to, h * w, rows, columns, True)


@jit
def forward(x, w, b, y, chosen, windows, taps, ks, shape, place, first, last):
    """x[N,C,H,W], w[FB,K,L], b[FB*L] -> y[N,F,PH*PW] and chosen uint8 of the same shape, for images first..last.

    `chosen` is which output of its window was the largest, SHUT where ReLU lets none through. w holds K = KH*KW*C
    lines of L filters in each of FB blocks. Entry k of what output t of window q sees lies in a block at windows[q] +
    taps[t] + ks[k]; ks is int64, the others int32. `shape` is (images, rows of windows, input rows, input columns) of
    a block; `place` is (windows in a row, input rows from one row of windows to the next, top and left padding).
    """
    images, band, hb, wb = shape
    across, step, top, left = place
    _, n_filters, size = y.shape
    n_taps = taps.size
    n_lines, width = w.shape[1], w.shape[2]
    lanes = BYTES // x.itemsize
    vectors = width // lanes
    group = ROWS  # windows whose outputs fill whole tiles
    while group > 1 and group // 2 * n_taps % ROWS == 0:
        group //= 2
    high = size // across
    block = np.empty((images, hb, wb, x.shape[1]), x.dtype)
    rows = np.zeros((windows.size + group) * n_taps, np.int64)
    for q in range(windows.size):
        for t in range(n_taps):
            rows[q * n_taps + t] = windows[q] + taps[t]
    acc = np.empty((group * n_taps, width), x.dtype)
    best, where = np.empty((windows.size + group, width), x.dtype), np.empty((windows.size + group, width), x.dtype)
    for start in range(first, last, images):
        count = min(images, last - start)
        for row in range(0, high, band):
            to_block(x, block, start, count, row * step - top, -left)
            per_image, p0 = min(band, high - row) * across, row * across
            for fb in range(w.shape[0]):
                f0 = fb * width
                filters = min(width, n_filters - f0)
                for q0 in range(0, count * per_image, group):
                    for i in range(0, group * n_taps, ROWS):
                        tile(acc, i * width, block, 0, rows, q0 * n_taps + i, ks, w, fb * n_lines * width, width)
                    for i in range(group):
                        at = (q0 + i) * width
                        window_maximum(acc, i * n_taps * width, b, f0, best, at, where, at, n_taps, vectors)
                for k in range(count):
                    q0, n = k * per_image, start + k
                    for p in range(0, per_image, lanes):
                        for f in range(0, filters, lanes):
                            many, some = min(lanes, per_image - p), min(lanes, filters - f)
                            target = (n * n_filters + f0 + f) * size + p0 + p
                            source = (q0 + p) * width + f
                            transpose(best, source, width, y, target, size, many, some, False)
                            transpose(where, source, width, chosen, target, size, many, some, False)


@jit
def _spread_exactly(x, where, values, count, chunks, w, length):
    """As spread_products for w[G,V,lanes], without the zeros behind the `length` entries of each row.

    They spoil nothing but where a gradient is not finite: infinity times zero would be NaN at a neighbour's.
    """
    groups, vectors, lanes = w.shape
    in_row = (length + lanes - 1) // lanes
    for m in range(count):
        for g in range(groups):
            for v in range(vectors):
                start = where[m] + chunks[g, v]
                for lane in range(min(lanes, length - (g * vectors + v) % in_row * lanes)):
                    x[start + lane] += values[m] * w[g, v, lane]


@jit
def backward(
    x, dy, chosen, windows, taps, w, chunks, length, shape, place, first, last, dw, db, dx, need_x, need_params
):
    """dy[N,F,PH*PW] -> dw[F,G,V,lanes] and db[F], added to, and dx[N,C,H,W], set, for images first..last.

    w as dw; chunks int64[G,V] say where in what an output sees each vector of w begins, and `length` how many entries
    each of its rows has. The others as in `forward`. dx and dw are only touched where needed.
    """
    images, band, hb, wb = shape
    across, step, top, left = place
    n_filters, c = dy.shape[1], x.shape[1]
    groups, vectors = chunks.shape
    stretch, size_of = vectors * w.shape[3], w.shape[3] * w.itemsize
    high = dy.shape[2] // across
    size = images * hb * wb * c
    seen = np.zeros(size + w.shape[3], x.dtype)  # vectors may read and write beyond the last entry
    flow = np.zeros(size + w.shape[3], x.dtype)
    block, spread = seen[:size].reshape(images, hb, wb, c), flow[:size].reshape(images, hb, wb, c)
    room = windows.size + BYTES // x.itemsize  # `collect` writes whole vectors
    where, values = np.empty(room, np.int32), np.empty(room, x.dtype)
    zero = x.dtype.type(0)
    if need_x:
        dx[first:last] = 0
    for start in range(first, last, images):
        count = min(images, last - start)
        for row in range(0, high, band):
            if need_params:
                to_block(x, block, start, count, row * step - top, -left)
            if need_x:
                flow[:] = 0
            per_image, p0 = min(band, high - row) * across, row * across
            for f in range(n_filters):
                m = 0
                total = zero
                for k in range(count):
                    at, q = ((start + k) * n_filters + f) * dy.shape[2] + p0, k * per_image
                    m += collect(dy, at, chosen, at, windows, q, taps, 0, where, m, values, m, per_image, taps.size)
                for g in range(groups):
                    at = (f * groups + g) * stretch
                    if need_params:
                        add_products(
                            dw, at, seen, 0, where, 0, values, 0, chunks, g * vectors, m, vectors, size_of, True
                        )
                for p in range(m):
                    total += values[p]
                db[f] += total
                if need_x and np.isfinite(total):
                    for g in range(groups):
                        at = (f * groups + g) * stretch
                        spread_products(flow, 0, where, 0, values, 0, chunks, g * vectors, w, at, m, vectors, size_of)
                elif need_x:
                    _spread_exactly(flow, where, values, m, chunks, w[f], length)
            if need_x:
                from_block(spread, dx, start, count, 0, row * step - top, -left)


@jit
def pack_lines(w, b, packed, bias):
    """w[F,C,KH,KW] -> packed[FB, KH*KW*C, L]: for each tap and channel L filters; b[F] -> bias[FB*L]. Zeros behind."""
    f, c, kh, kw = w.shape
    _, lines, width = packed.shape
    lanes, taps = BYTES // w.itemsize, kh * kw
    packed[:] = 0
    for i in range(bias.size):
        bias[i] = b[i] if i < f else 0
    for i in range(0, f, lanes):
        start = i // width * lines * width + i % width
        for ch in range(c):
            for t in range(0, taps, lanes):
                rows, columns = min(lanes, f - i), min(lanes, taps - t)
                at, to = (i * c + ch) * taps + t, start + (t * c + ch) * width
                transpose(w, at, c * taps, packed, to, c * width, rows, columns, False)


@jit
def pack_rows(w, packed):
    """w[F,C,KH,KW] -> packed[F, KH, row]: each filter as an output sees it, KW*C entries a row; zeros behind them."""
    f, c, kh, kw = w.shape
    row, lanes = packed.shape[2], BYTES // w.itemsize
    packed[:] = 0
    for i in range(f):
        for ky in range(kh):
            for ch in range(0, c, lanes):
                for kx in range(0, kw, lanes):
                    rows, columns = min(lanes, c - ch), min(lanes, kw - kx)
                    at, to = ((i * c + ch) * kh + ky) * kw + kx, (i * kh + ky) * row + kx * c + ch
                    transpose(w, at, kh * kw, packed, to, c, rows, columns, False)


@jit
def unpack_rows(packed, w):
    """The inverse of pack_rows."""
    f, c, kh, kw = w.shape
    row, lanes = packed.shape[2], BYTES // w.itemsize
    for i in range(f):
        for ky in range(kh):
            for ch in range(0, c, lanes):
                for kx in range(0, kw, lanes):
                    rows, columns = min(lanes, kw - kx), min(lanes, c - ch)
                    at, to = (i * kh + ky) * row + kx * c + ch, ((i * c + ch) * kh + ky) * kw + kx
                    transpose(packed, at, c, w, to, kh * kw, rows, columns, False)
