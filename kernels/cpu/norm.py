"""Batch normalisation of x[N,C*P], P = H*W entries of each channel side by side, for the channels first..last.

Whatever P is, loops run along WIDTH neighbours in an image, which are some channels or a part of one, and there are as
many sums: so vectors are long also where planes are short. What one pass over a few channels reads is in cache for the
next. A sum goes over a few entries in the array's dtype and on from there in float64, as its rounding errors grow with
its length.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit

WIDTH = 512  # entries: in float32 they and what is kept of each fill half of the first cache
TERMS = 64  # of a sum that are added in the array's dtype


@jit
def _spread(values, first, p, out):
    """out[j] = values[first + j // p]."""
    for start in range(0, out.size, p):
        value = values[first + start // p]
        for j in range(start, min(out.size, start + p)):
            out[j] = value


@jit
def _move(part, p, total):
    """total[j // p] += part[j], and part is 0 again."""
    for start in range(0, part.size, p):
        some = 0.0
        for j in range(start, min(part.size, start + p)):
            some += part[j]
            part[j] = 0
        total[start // p] += some


@jit
def batch_norm(x, p, gamma, beta, eps, relu, y, mean, inv_std, var, first, last):
    """Y = gamma (x - mean) / sqrt(var + eps) + beta, through a ReLU if asked, and the statistics of each channel."""
    n, m, together = len(x), max(1, len(x) * p), max(1, WIDTH // p)
    part, middle = np.zeros(WIDTH, x.dtype), np.empty(WIDTH, x.dtype)
    for c in range(first, last, together):
        count = min(together, last - c)
        size = min(WIDTH, count * p)
        for squares in (False, True):
            total, terms = np.zeros(count), 0
            if squares:
                _spread(mean, c, p, middle[:size])
            for i in range(n):
                for start in range(c * p, (c + count) * p, WIDTH):
                    line = x[i, start : min(start + WIDTH, (c + count) * p)]
                    if squares:
                        for j in range(line.size):
                            part[j] += (line[j] - middle[j]) ** 2
                    else:
                        for j in range(line.size):
                            part[j] += line[j]
                    terms += 1
                    if terms % TERMS == 0:
                        _move(part[:size], p, total)
            _move(part[:size], p, total)
            for k in range(count):
                if squares:
                    variance = total[k] / m
                    var[c + k], inv_std[c + k] = variance, 1.0 / np.sqrt(variance + eps)
                else:
                    mean[c + k] = total[k] / m
        normalize(x, p, mean, inv_std, gamma, beta, relu, y, c, c + count)


@jit
def normalize(x, p, mean, inv_std, gamma, beta, relu, y, first, last):
    """Y = gamma (x - mean) inv_std + beta, through a ReLU if asked."""
    together = max(1, WIDTH // p)
    middle, scale, shift = np.empty(WIDTH, x.dtype), np.empty(WIDTH, x.dtype), np.empty(WIDTH, x.dtype)
    least = x.dtype.type(0 if relu else -np.inf)
    rate = gamma[first:last] * inv_std[first:last]
    for c in range(first, last, together):
        end = min(last, c + together) * p
        size = min(WIDTH, end - c * p)
        _spread(mean, c, p, middle[:size])
        _spread(rate, c - first, p, scale[:size])
        _spread(beta, c, p, shift[:size])
        for i in range(len(x)):
            for start in range(c * p, end, WIDTH):
                source, target = x[i, start : min(end, start + WIDTH)], y[i, start : min(end, start + WIDTH)]
                for j in range(source.size):
                    value = (source[j] - middle[j]) * scale[j] + shift[j]
                    target[j] = least if value <= least else value


@jit
def batch_norm_backward(dy, x, p, gamma, beta, relu, mean, inv_std, dx, dgamma, dbeta, need_dx, first, last):
    """Dbeta = sum dy, dgamma = sum dy xhat, dx = gamma / sqrt(var + eps) (dy - dbeta / m - xhat dgamma / m).

    With `relu`, dy counts as 0 where the output was not positive.
    """
    n, m, together = len(x), max(1, len(x) * p), max(1, WIDTH // p)
    zero = x.dtype.type(0)
    parts, products = np.zeros(WIDTH, x.dtype), np.zeros(WIDTH, x.dtype)
    middle, scale, shift = np.empty(WIDTH, x.dtype), np.empty(WIDTH, x.dtype), np.empty(WIDTH, x.dtype)
    level, slope = np.empty(WIDTH, x.dtype), np.empty(WIDTH, x.dtype)
    rate, mean_dy, tilt = gamma * inv_std, np.empty_like(gamma), np.empty_like(gamma)
    for c in range(first, last, together):
        count = min(together, last - c)
        end = (c + count) * p
        size = min(WIDTH, count * p)
        _spread(mean, c, p, middle[:size])
        _spread(rate, c, p, scale[:size])
        _spread(beta, c, p, shift[:size])
        total, product, terms = np.zeros(count), np.zeros(count), 0
        for i in range(n):
            for start in range(c * p, end, WIDTH):
                stop = min(end, start + WIDTH)
                flow, line = dy[i, start:stop], x[i, start:stop]
                for j in range(line.size):
                    away = line[j] - middle[j]
                    through = flow[j] if not relu or away * scale[j] + shift[j] > zero else zero
                    parts[j] += through
                    products[j] += through * away
                terms += 1
                if terms % TERMS == 0:
                    _move(parts[:size], p, total)
                    _move(products[:size], p, product)
        _move(parts[:size], p, total)
        _move(products[:size], p, product)
        for k in range(count):
            at = c + k
            dbeta[at], dgamma[at] = total[k], product[k] * inv_std[at]
            mean_dy[at], tilt[at] = total[k] / m, product[k] * inv_std[at] * inv_std[at] / m
        if not need_dx:
            continue
        _spread(mean_dy, c, p, level[:size])
        _spread(tilt, c, p, slope[:size])
        for i in range(n):
            for start in range(c * p, end, WIDTH):
                stop = min(end, start + WIDTH)
                flow, line, target = dy[i, start:stop], x[i, start:stop], dx[i, start:stop]
                for j in range(line.size):
                    away = line[j] - middle[j]
                    through = flow[j] if not relu or away * scale[j] + shift[j] > zero else zero
                    target[j] = scale[j] * (through - level[j] - away * slope[j])
