"""Pictures moved about for augmentation: x[N,P,H,W,K] -> y, channels being planes (K = 1) or side by side (P = 1).

Compiled to the letter, since all backends give the same bits: no product is joined with a sum, no sum is reordered. One
thread, beside which the others train. Indices are unsigned where they are known not to be negative: Numba looks at the
sign of others.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload
from xconv.kernels.cpu.jit import jit_exactly

ONE = 1 << 16  # a pixel, in the fixed point of maps
PART = ONE - 1
HALF = 1 << 31  # of the sum of a byte's shares
SHARE = 2.0**-32
at = np.uint64


@jit_exactly
def warp_affine(x, maps, fill, edge, y):
    """See Backend.warp_affine."""
    _, planes, h, w, k = x.shape
    for n in range(x.shape[0]):
        m = maps[n]
        ax, bx, tx, ay, by, ty = m[0], m[1], m[2], m[3], m[4], m[5]
        whole = (tx | ty) & PART == 0 and abs(ax) == ONE and by == ONE and bx == 0 and ay == 0
        for p in range(planes):
            source, target, outside = x[n, p], y[n, p], fill[p * k : (p + 1) * k]
            if whole:
                _copy(source, target, outside, edge, ax < 0, ty >> 16, tx >> 16)
            else:
                flat, line = source.reshape(h * w * k), target.reshape(h * w * k)
                for i in range(h):
                    _row(flat, line[i * w * k : (i + 1) * w * k], h, w, outside, edge, ax, bx * i + tx, ay, by * i + ty)
            for i in range(max(m[6], 0), min(m[7], h)):
                for j in range(max(m[8], 0), min(m[9], w)):
                    for c in range(k):
                        target[at(i), at(j), at(c)] = outside[c]


@jit_exactly
def _row(x, y, h, w, outside, edge, ax, tx, ay, ty):
    """y[W*K] from x[H*W*K]: its pixel j is at column (ax j + tx) / ONE and row (ay j + ty) / ONE."""
    k = outside.size
    below = w * k
    for j in range(w):
        column, row = ax * j + tx, ay * j + ty
        x0, y0, fx, fy = column >> 16, row >> 16, column & PART, row & PART
        if 0 <= x0 < w - 1 and 0 <= y0 < h - 1:
            a = (y0 * w + x0) * k
            if k == 3:
                _inside(x, a, y, j * 3, 3, below, fx, fy)
                _inside(x, a + 1, y, j * 3 + 1, 3, below, fx, fy)
                _inside(x, a + 2, y, j * 3 + 2, 3, below, fx, fy)
            else:
                for c in range(k):
                    _inside(x, a + c, y, j * k + c, k, below, fx, fy)
        else:
            for c in range(k):
                y[at(j * k + c)] = _blend(
                    _pixel(x, y0, x0, h, w, c, outside, edge),
                    _pixel(x, y0, x0 + 1, h, w, c, outside, edge),
                    _pixel(x, y0 + 1, x0, h, w, c, outside, edge),
                    _pixel(x, y0 + 1, x0 + 1, h, w, c, outside, edge),
                    fx,
                    fy,
                )


@jit_exactly
def _inside(x, a, y, b, right, below, fx, fy):
    """y[b] from x[a] and its neighbours, which are all there."""
    y[at(b)] = _blend(x[at(a)], x[at(a + right)], x[at(a + below)], x[at(a + below + right)], fx, fy)


def _blend(v00, v01, v10, v11, fx, fy):
    """Four neighbours, fx and fy 65536ths beyond the first: by the dtype, in integers or in float64."""
    raise NotImplementedError


@overload(_blend)
def _blend_of(v00, v01, v10, v11, fx, fy):
    return _blend_bytes if v00 == types.uint8 else _blend_floats


def _blend_bytes(v00, v01, v10, v11, fx, fy):
    above = (np.int64(v00) << 16) + (np.int64(v01) - np.int64(v00)) * fx
    below = (np.int64(v10) << 16) + (np.int64(v11) - np.int64(v10)) * fx
    return np.uint8(((above << 16) + (below - above) * fy + HALF) >> 32)


def _blend_floats(v00, v01, v10, v11, fx, fy):
    if fx | fy == 0:
        return np.float64(v00)
    total = np.float64(v00) * ((ONE - fy) * (ONE - fx) * SHARE) + np.float64(v01) * ((ONE - fy) * fx * SHARE)
    total += np.float64(v10) * (fy * (ONE - fx) * SHARE)
    return total + np.float64(v11) * (fy * fx * SHARE)


@jit_exactly
def _pixel(x, row, column, h, w, c, outside, edge):
    """Channel c of a pixel of x[H*W*K], which may lie outside."""
    inside = 0 <= row < h and 0 <= column < w
    if not (inside or edge):
        return outside[at(c)]
    row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
    return x[at((row * w + column) * outside.size + c)]


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
            made, seen = target[begin:end], source[along + begin : along + end]
            for j in range(end - begin):
                for c in range(k):
                    made[j, c] = seen[j, c]
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
