"""Pictures moved about for augmentation: x[N,P,H,W,K] -> y, channels being planes (K = 1) or side by side (P = 1).

Compiled to the letter, since all backends give the same bits: no product is joined with a sum, no sum is reordered.
Indices are unsigned where they are known not to be negative: Numba looks at the sign of others.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit_exactly

ONE = 1 << 16  # a pixel, in the fixed point of maps
PART = ONE - 1
PIXEL = 2.0**-16
RIM = 2  # pixels around a picture: both neighbours along a line, where a place has none inside
at = np.uint64


@jit_exactly
def warp_affine(x, maps, fill, edge, half, y, first, last):
    """See Backend.warp_affine; of pictures first .. last - 1. half: 0.5 for bytes, -0.0 for floats."""
    _, planes, h, w, k = x.shape
    padded = np.empty((h + 2 * RIM, (w + 2 * RIM) * k), x.dtype)
    flat, scratch = padded.reshape(padded.size), (np.empty(w, np.int64), np.empty(w), np.empty(w))
    for p in range(planes):
        outside = fill[p * k : (p + 1) * k]
        for i in range(flat.size):
            flat[at(i)] = outside[at(i % k)]
        for n in range(first, last):
            source, target, m = x[n, p], y[n, p], maps[n]
            ax, bx, tx, ay, by, ty = m[0], m[1], m[2], m[3], m[4], m[5]
            if (tx | ty) & PART == 0 and abs(ax) == ONE and by == ONE and bx == 0 and ay == 0:
                _copy(source, target, outside, edge, ax < 0, ty >> 16, tx >> 16)
            else:
                _pad(source.reshape(h, w * k), padded, k, edge)
                for i in range(h):
                    row, start = target[i].reshape(w * k), (ax, bx * i + tx, ay, by * i + ty)
                    if k == 1:
                        _row(flat, row, h, w, 1, *start, half, *scratch)
                    elif k == 3:
                        _row(flat, row, h, w, 3, *start, half, *scratch)
                    else:
                        _row(flat, row, h, w, k, *start, half, *scratch)
            for i in range(max(m[6], 0), min(m[7], h)):
                for j in range(max(m[8], 0), min(m[9], w)):
                    for c in range(k):
                        target[at(i), at(j), at(c)] = outside[c]


@jit_exactly
def _pad(x, y, k, edge):
    """x[H,W*K] into the middle of y, and with `edge` its outermost pixels around it."""
    h, across = x.shape
    rim = RIM * k
    for i in range(h):
        source, target = x[i], y[i + RIM]
        for j in range(across):
            target[at(j + rim)] = source[at(j)]
        if edge:
            for j in range(rim):
                target[at(j)], target[at(j + rim + across)] = source[at(j % k)], source[at(across - k + j % k)]
    if edge:
        for i in range(RIM):
            y[i], y[i + RIM + h] = y[RIM], y[RIM + h - 1]


@jit_exactly
def _row(x, y, h, w, k, ax, tx, ay, ty, half, places, fx, fy):
    """y[W*K] from x, padded: its pixel j is at column (ax j + tx) / ONE and row (ay j + ty) / ONE of what x was.

    The neighbours of a place further outside are alike, all fill or each pixel twice: as those of the rim.
    """
    across = (w + 2 * RIM) * k
    for j in range(w):  # by itself, since a loop that gathers is not vectorised
        column, row = ax * j + tx, ay * j + ty
        x0, y0 = min(max(column >> 16, -RIM), w) + RIM, min(max(row >> 16, -RIM), h) + RIM
        places[at(j)] = y0 * across + x0 * k
        fx[at(j)], fy[at(j)] = (column & PART) * PIXEL, (row & PART) * PIXEL
    for j in range(w):
        a, right, below = places[at(j)], fx[at(j)], fy[at(j)]
        left, above = 1 - right, 1 - below
        for c in range(k):
            v00, v01, v10, v11 = x[at(a + c)], x[at(a + c + k)], x[at(a + c + across)], x[at(a + c + across + k)]
            total = v00 * (above * left) + v01 * (above * right) + v10 * (below * left) + v11 * (below * right)
            y[at(j * k + c)] = (np.float64(v00) if above * left == 1 else total) + half


@jit_exactly
def _copy(x, y, outside, edge, mirrored, down, along):
    """y[H,W,K] is x moved by whole pixels: its row i is row i + down of x, its column j column along + j or - j."""
    h, w, k = x.shape
    # Columns first .. last of y lie inside x.
    first, last = (along - w + 1, along + 1) if mirrored else (-along, w - along)
    first = min(max(first, 0), w)
    last = min(max(last, first), w)
    for i in range(h):
        row = min(max(i + down, 0), h - 1)
        target, source = y[i], x[row]
        begin, end = (first, last) if edge or i + down == row else (w, w)
        if mirrored:
            seen, made = source[along - end + 1 : along - begin + 1][::-1], target[begin:end]
            if k == 1:
                for j in range(end - begin):
                    made[j, 0] = seen[j, 0]
            elif k == 3:
                for j in range(end - begin):
                    made[j, 0], made[j, 1], made[j, 2] = seen[j, 0], seen[j, 1], seen[j, 2]
            else:
                for j in range(end - begin):
                    for c in range(k):
                        made[j, c] = seen[j, c]
        else:
            line, given, shift = target.reshape(w * k), source.reshape(w * k), along * k
            for j in range(begin * k, end * k):
                line[at(j)] = given[at(j + shift)]
        for j in range(begin):
            _outside(source, target, j, along - j if mirrored else along + j, outside, edge)
        for j in range(end, w):
            _outside(source, target, j, along - j if mirrored else along + j, outside, edge)


@jit_exactly
def _outside(source, target, j, column, outside, edge):
    """Pixel j of a row of y, whose place is not in x."""
    column = min(max(column, 0), len(source) - 1)
    for c in range(outside.size):
        target[at(j), at(c)] = source[at(column), at(c)] if edge else outside[at(c)]
