"""Dense layers between ReLUs, where half of what a product multiplies is zero: only the rest is visited.

What a ReLU shut, before the layer or behind it, is collected away first; the sums of what is left stay in registers.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.sparse import MOST, add_products, nonzero
from xconv.kernels.cpu.vectors import BYTES, copy, lanes_of, transpose

PANEL = 64  # rows of w that `forward` keeps in the first cache while all examples go by
BLOCK = 128  # examples whose sums, or whose part of x on the way back, stay near
TILE = 4  # vectors of inputs that it does at once: as many sums as cover a multiplier's latency


@jit
def aligned(a):
    """The first entry of a that begins a cache line."""
    return -a.ctypes.data % 64 // a.itemsize


@jit
def share(x):
    """About which part of x[N,K] is not zero, from at most sixteen of its rows."""
    n, k = x.shape
    step = (n + 15) // 16
    count = 0
    for i in range(0, n, step):
        for j in range(k):
            count += x[i, j] != 0
    return count / (max(1, k) * ((n + step - 1) // step))


@jit
def forward(x, w, b, y, chunks, relu, first, last):
    """x[N,K] @ w[K,O] + b[O] -> y[N,O] for examples first..last, through a ReLU where `relu`.

    chunks are where each vector of a row of O sums begins. Nothing is skipped beside a weight that is not finite, so
    that 0 times it is NaN here, too.
    """
    k, o, lanes = w.shape[0], w.shape[1], lanes_of(w)
    width = chunks.size * lanes
    acc, panel = np.empty(BLOCK * width + lanes, x.dtype), np.empty(PANEL * width + lanes, x.dtype)
    a0, p0 = aligned(acc), aligned(panel)
    where, values = np.empty(PANEL + lanes, np.int32), np.empty(PANEL + lanes, x.dtype)
    zero = x.dtype.type(0)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        for k0 in range(0, k, PANEL):
            count = min(PANEL, k - k0)
            for i in range(count):
                copy(w, (k0 + i) * o, panel, p0 + i * width, o)
            total = zero
            for i in range(count * width):
                total += panel[p0 + i] * zero
            for i in range(n):
                m = nonzero(x, (start + i) * k + k0, where, 0, values, 0, width, count, total != 0)
                for v in range(0, chunks.size, MOST):
                    at, vectors = a0 + i * width + v * lanes, min(MOST, chunks.size - v)
                    add_products(acc, at, panel, p0, where, 0, values, 0, chunks, v, m, vectors, BYTES, k0 > 0)
        for i in range(n):
            for j in range(o):
                value = acc[a0 + i * width + j] + b[j]
                y[start + i, j] = zero if relu and value <= zero else value


@jit
def forward_few(x, w, b, y, chunks, rows, relu):
    """The same for so few examples that reading w takes the time: it is read once, and nothing is skipped.

    rows are where each of PANEL rows of w begins.
    """
    k, o, lanes = w.shape[0], w.shape[1], lanes_of(w)
    width = chunks.size * lanes
    acc, end, flat = np.empty(len(x) * width, x.dtype), np.empty(PANEL * o + lanes, x.dtype), w.reshape(-1)
    zero = x.dtype.type(0)
    for k0 in range(0, k, PANEL):
        count = min(PANEL, k - k0)
        panel, p0 = flat, k0 * o
        if p0 + (count - 1) * o + width > k * o:  # a row's last vector would go on beyond w
            copy(w, p0, end, 0, count * o)
            panel, p0 = end, 0
        for i in range(len(x)):
            for v in range(0, chunks.size, MOST):
                at, vectors = i * width + v * lanes, min(MOST, chunks.size - v)
                add_products(acc, at, panel, p0, rows, 0, x, i * k + k0, chunks, v, count, vectors, BYTES, k0 > 0)
    for i in range(len(x)):
        for j in range(o):
            value = acc[i * width + j] + b[j]
            y[i, j] = zero if relu and value <= zero else value


@jit
def _flowing(dy, step):
    """What is not zero in dy[N,O]: by example, and by output for each BLOCK of examples in turn.

    Both as (places, values, counts); places are j step by example and i step by output, i counted from the block on.
    """
    n, o = dy.shape
    room, blocks = o + lanes_of(dy), (n + BLOCK - 1) // BLOCK
    outputs, values, counts = np.empty((n, room), np.int32), np.empty((n, room), dy.dtype), np.empty(n, np.int64)
    examples, found = np.empty((blocks, o, BLOCK), np.int32), np.empty((blocks, o, BLOCK), dy.dtype)
    many = np.zeros((blocks, o), np.int64)
    for i in range(n):
        counts[i] = nonzero(dy, i * o, outputs, i * room, values, i * room, step, o, False)
        b = i // BLOCK
        for m in range(counts[i]):
            j = outputs[i, m] // step
            examples[b, j, many[b, j]] = (i - b * BLOCK) * step
            found[b, j, many[b, j]] = values[i, m]
            many[b, j] += 1
    return (outputs, values, counts), (examples, found, many)


@jit
def backward(x, dy, w, chunks, dx, dw, first, last):
    """dx[N,K] = dy w', dw[K,O] = x' dy for inputs first..last, of which there are at least a tile; O at least a vector.

    What is zero in dy is skipped, even beside an input that is not finite: such a loss has been NaN.
    """
    n, k = x.shape
    o, lanes = w.shape[1], lanes_of(w)
    tile = TILE * lanes
    by_example, by_output = _flowing(dy, tile)
    side, sums = np.empty(max(min(n, BLOCK), o) * tile + lanes, x.dtype), np.empty(o * tile + lanes, x.dtype)
    s0, d0 = aligned(side), aligned(sums)
    for start in range(first, last, tile):
        k0 = min(start, last - tile)  # the last overlaps the one before it, and gives the same again
        for c in range(0, tile, lanes):
            for j in range(0, o, lanes):
                j = min(j, o - lanes)
                transpose(w, (k0 + c) * o + j, o, side, s0 + j * tile + c, tile, lanes, lanes, False)
        where, values, counts = by_example
        for i in range(n):
            at, m = i * where.shape[1], counts[i]
            add_products(dx, i * k + k0, side, s0, where, at, values, at, chunks, 0, m, TILE, BYTES, False)
        places, factors, many = by_output
        for b in range(many.shape[0]):
            for i in range(min(BLOCK, n - b * BLOCK)):
                copy(x, (b * BLOCK + i) * k + k0, side, s0 + i * tile, tile)
            for j in range(o):
                at, m = (b * o + j) * BLOCK, many[b, j]
                add_products(sums, d0 + j * tile, side, s0, places, at, factors, at, chunks, 0, m, TILE, BYTES, b > 0)
        for c in range(0, tile, lanes):
            for j in range(0, o, lanes):
                j = min(j, o - lanes)
                transpose(sums, d0 + j * tile + c, tile, dw, (k0 + c) * o + j, o, lanes, lanes, False)
