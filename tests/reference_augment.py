"""Moving pictures about, one number at a time, in exact fractions. Imports nothing of xconv: it shall judge it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def warp(x: np.ndarray, maps: np.ndarray, fill: np.ndarray, edge: bool) -> np.ndarray:
    """x[N,H,W,C] by maps[N,10]: six numbers of 65536ths of a pixel, and a box that is filled."""
    y = np.empty_like(x)
    _, h, w, _ = x.shape
    for n, i, j, c in np.ndindex(x.shape):
        ax, bx, tx, ay, by, ty, top, bottom, left, right = (int(v) for v in maps[n])
        if top <= i < bottom and left <= j < right:
            y[n, i, j, c] = fill[c]
            continue
        column, row = Fraction(ax * j + bx * i + tx, 65536), Fraction(ay * j + by * i + ty, 65536)
        x0, y0 = math.floor(column), math.floor(row)
        fx, fy = column - x0, row - y0
        values, shares = [], []
        for yy, share_y in ((y0, 1 - fy), (y0 + 1, fy)):
            for xx, share_x in ((x0, 1 - fx), (x0 + 1, fx)):
                if edge:
                    values.append(x[n, min(max(yy, 0), h - 1), min(max(xx, 0), w - 1), c])
                else:
                    values.append(x[n, yy, xx, c] if 0 <= yy < h and 0 <= xx < w else fill[c])
                shares.append(share_x * share_y)
        if fx == fy == 0:
            y[n, i, j, c] = values[0]
        elif x.dtype == np.uint8:
            exact = sum(int(v) * share for v, share in zip(values, shares, strict=True))
            y[n, i, j, c] = math.floor(exact + Fraction(1, 2))
        else:
            total = 0.0
            for k, (v, share) in enumerate(zip(values, shares, strict=True)):
                product = float(v) * float(share)  # a share has 32 bits: this is exact
                total = product if k == 0 else total + product
            y[n, i, j, c] = total
    return y
