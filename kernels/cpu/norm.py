"""Batch normalisation of x[N,C,P], P = H*W, for the channels first..last.

Channel by channel where planes are long: what one pass over a channel reads is still in cache for the next. Where they
are short (`thin_...`), the channels' entries lie side by side in an image, and loops run along those instead.

A sum goes over a thousand entries in the array's dtype and on from there in float64, as its rounding errors grow
with its length.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit

PART = 1024  # entries of a plane that are summed in the array's dtype
ROWS = 64  # images that are, where planes are short


@jit
def _sum(x):
    """Of x[P]."""
    total = 0.0
    for start in range(0, x.size, PART):
        line, part = x[start : start + PART], x.dtype.type(0)
        for i in range(line.size):
            part += line[i]
        total += part
    return total


@jit
def _products(a, mean_a, b, mean_b):
    """The sum of (a - mean_a) (b - mean_b), both [P]."""
    total = 0.0
    for start in range(0, a.size, PART):
        line, other, part = a[start : start + PART], b[start : start + PART], a.dtype.type(0)
        for i in range(line.size):
            part += (line[i] - mean_a) * (other[i] - mean_b)
        total += part
    return total


@jit
def _opened(dy, x, middle, scale, shift, flow):
    """Flow = dy where (x - middle) scale + shift > 0, else 0; all [P]."""
    zero = x.dtype.type(0)
    for j in range(dy.size):
        flow[j] = dy[j] if (x[j] - middle) * scale + shift > zero else zero


@jit
def batch_norm(x, gamma, beta, eps, relu, y, mean, inv_std, var, first, last):
    """Y = gamma (x - mean) / sqrt(var + eps) + beta, through a ReLU if asked, and the statistics of each channel.

    A channel's variance is the mean of its planes' variances plus the variance of its planes' means, so that a plane is
    still in cache when its squares are summed.
    """
    n, _, p = x.shape
    means = np.empty(n)
    for c in range(first, last):
        middle = within = between = 0.0
        for i in range(n):
            means[i] = _sum(x[i, c]) / p
            middle += means[i] / n
            at = x.dtype.type(means[i])
            within += _products(x[i, c], at, x[i, c], at)
        for i in range(n):
            between += (means[i] - middle) ** 2
        variance = (within / p + between) / n
        mean[c], var[c], inv_std[c] = middle, variance, 1.0 / np.sqrt(variance + eps)
        normalize(x, mean, inv_std, gamma, beta, relu, y, c, c + 1)


@jit
def normalize(x, mean, inv_std, gamma, beta, relu, y, first, last):
    """Y = gamma (x - mean) inv_std + beta, through a ReLU if asked."""
    n, _, p = x.shape
    zero = x.dtype.type(0)
    for c in range(first, last):
        middle, scale, shift = mean[c], gamma[c] * inv_std[c], beta[c]
        for i in range(n):
            source, target = x[i, c], y[i, c]
            if relu:
                for j in range(p):
                    value = (source[j] - middle) * scale + shift
                    target[j] = zero if value <= zero else value
            else:
                for j in range(p):
                    target[j] = (source[j] - middle) * scale + shift


@jit
def batch_norm_backward(dy, x, gamma, beta, relu, mean, inv_std, dx, dgamma, dbeta, need_dx, first, last):
    """Dbeta = sum dy, dgamma = sum dy xhat, dx = gamma / sqrt(var + eps) (dy - dbeta / m - xhat dgamma / m).

    With `relu`, dy counts as 0 where the output was not positive.
    """
    n, _, p = x.shape
    zero = x.dtype.type(0)
    flow = np.empty(p, x.dtype)
    for c in range(first, last):
        total = products = 0.0
        for i in range(n):
            if relu:
                _opened(dy[i, c], x[i, c], mean[c], gamma[c] * inv_std[c], beta[c], flow)
                total += _sum(flow)
                products += _products(flow, zero, x[i, c], mean[c])
            else:
                total += _sum(dy[i, c])
                products += _products(dy[i, c], zero, x[i, c], mean[c])
        dbeta[c], dgamma[c] = total, products * inv_std[c]
        if need_dx:
            middle, scale, shift = mean[c], gamma[c] * inv_std[c], x.dtype.type(total / (n * p))
            slope = x.dtype.type(products * inv_std[c] * inv_std[c] / (n * p))
            for i in range(n):
                source, other, target = dy[i, c], x[i, c], dx[i, c]
                if relu:
                    _opened(source, other, middle, scale, beta[c], flow)
                    for j in range(p):
                        target[j] = scale * (flow[j] - shift - (other[j] - middle) * slope)
                else:
                    for j in range(p):
                        target[j] = scale * (source[j] - shift - (other[j] - middle) * slope)


# ---------------------------------------------------------------------- short planes


@jit
def _move(part, sums):
    """Sums += part, and part is 0 again. (Loops, here and below: Numba takes seconds to compile whole-array sums.)"""
    for j in range(part.size):
        sums[j] += part[j]
        part[j] = 0


@jit
def _by_channel(sums, p):
    """[K*P] -> [K]."""
    out = np.zeros(sums.size // p)
    for c in range(out.size):
        for j in range(p):
            out[c] += sums[c * p + j]
    return out


@jit
def _thin_sums(x, p, first, last):
    """The sums of x[N,C*P] over the images and each channel's P entries: [last - first]."""
    sums, part = np.zeros((last - first) * p), np.zeros((last - first) * p, x.dtype)
    for i in range(x.shape[0]):
        line = x[i, first * p : last * p]
        for j in range(part.size):
            part[j] += line[j]
        if i % ROWS == ROWS - 1 or i == x.shape[0] - 1:
            _move(part, sums)
    return _by_channel(sums, p)


@jit
def _thin_products(a, mean_a, b, mean_b, p, first, last):
    """As _thin_sums, of (a - mean_a) (b - mean_b), the means being those of each entry."""
    sums, part = np.zeros((last - first) * p), np.zeros((last - first) * p, a.dtype)
    for i in range(a.shape[0]):
        line, other = a[i, first * p : last * p], b[i, first * p : last * p]
        for j in range(part.size):
            part[j] += (line[j] - mean_a[j]) * (other[j] - mean_b[j])
        if i % ROWS == ROWS - 1 or i == a.shape[0] - 1:
            _move(part, sums)
    return _by_channel(sums, p)


@jit
def _spread(of_channels, p, first, last):
    """of_channels[first:last], each P times."""
    out = np.empty((last - first) * p, of_channels.dtype)
    for j in range(out.size):
        out[j] = of_channels[first + j // p]
    return out


@jit
def _scale(gamma, inv_std, p, first, last):
    """Likewise of gamma inv_std."""
    out = np.empty((last - first) * p, gamma.dtype)
    for j in range(out.size):
        out[j] = gamma[first + j // p] * inv_std[first + j // p]
    return out


@jit
def _thin_opened(dy, x, mean, gamma, inv_std, beta, p, flow, first, last):
    """As _opened, of dy[N,C*P] into flow, whose other channels are left alone."""
    zero = x.dtype.type(0)
    middle, scale = _spread(mean, p, first, last), _scale(gamma, inv_std, p, first, last)
    shift = _spread(beta, p, first, last)
    for i in range(x.shape[0]):
        source, other = dy[i, first * p : last * p], x[i, first * p : last * p]
        target = flow[i, first * p : last * p]
        for j in range(middle.size):
            target[j] = source[j] if (other[j] - middle[j]) * scale[j] + shift[j] > zero else zero


@jit
def thin_batch_norm(x, gamma, beta, eps, relu, y, mean, inv_std, var, first, last):
    """See batch_norm."""
    n, c, p = x.shape
    flat = x.reshape(n, c * p)
    total = _thin_sums(flat, p, first, last)
    for i in range(total.size):
        mean[first + i] = total[i] / (n * p)
    middle = _spread(mean, p, first, last)
    squares = _thin_products(flat, middle, flat, middle, p, first, last)
    for i in range(total.size):
        variance = squares[i] / (n * p)
        var[first + i], inv_std[first + i] = variance, 1.0 / np.sqrt(variance + eps)
    thin_normalize(x, mean, inv_std, gamma, beta, relu, y, first, last)


@jit
def thin_normalize(x, mean, inv_std, gamma, beta, relu, y, first, last):
    """See normalize."""
    n, c, p = x.shape
    zero = x.dtype.type(0)
    x, y = x.reshape(n, c * p), y.reshape(n, c * p)
    middle, shift = _spread(mean, p, first, last), _spread(beta, p, first, last)
    scale = _scale(gamma, inv_std, p, first, last)
    for i in range(n):
        source, target = x[i, first * p : last * p], y[i, first * p : last * p]
        if relu:
            for j in range(middle.size):
                value = (source[j] - middle[j]) * scale[j] + shift[j]
                target[j] = zero if value <= zero else value
        else:
            for j in range(middle.size):
                target[j] = (source[j] - middle[j]) * scale[j] + shift[j]


@jit
def thin_batch_norm_backward(dy, x, gamma, beta, relu, mean, inv_std, dx, dgamma, dbeta, need_dx, first, last):
    """See batch_norm_backward. With `relu` dx is there in any case: what ReLU lets through is put there first."""
    n, c, p = x.shape
    dy, x, dx = dy.reshape(n, c * p), x.reshape(n, c * p), dx.reshape(dx.shape[0], dx.shape[1] * dx.shape[2])
    if relu:
        _thin_opened(dy, x, mean, gamma, inv_std, beta, p, dx, first, last)
        dy = dx
    middle, none = _spread(mean, p, first, last), np.zeros((last - first) * p, x.dtype)
    total = _thin_sums(dy, p, first, last)
    products = _thin_products(dy, none, x, middle, p, first, last)
    of_shift, of_slope = np.empty(total.size, x.dtype), np.empty(total.size, x.dtype)
    for i in range(total.size):
        rate = inv_std[first + i]
        dbeta[first + i], dgamma[first + i] = total[i], products[i] * rate
        of_shift[i], of_slope[i] = total[i] / (n * p), products[i] * rate * rate / (n * p)
    if need_dx:
        scale = _scale(gamma, inv_std, p, first, last)
        shift, slope = _spread(of_shift, p, 0, total.size), _spread(of_slope, p, 0, total.size)
        for i in range(n):
            source, other = dy[i, first * p : last * p], x[i, first * p : last * p]
            target = dx[i, first * p : last * p]
            for j in range(middle.size):
                target[j] = scale[j] * (source[j] - shift[j] - (other[j] - middle[j]) * slope[j])
