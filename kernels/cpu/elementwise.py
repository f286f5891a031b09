"""Elementwise passes, the loss, and the optimizers: one reading of memory each, over arrays of one axis.

Loops start at the literal 0: from an unknown start Numba must allow for negative indices, and makes no vector code.
"""

from __future__ import annotations

import numpy as np
from xconv.kernels.cpu.jit import jit


@jit
def relu(x, y):
    """y = max(x, 0), NaN kept."""
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@jit
def relu_backward(dy, y, dx):
    """Dx = dy where y > 0, else 0."""
    zero = dy.dtype.type(0)
    for i in range(dy.size):
        dx[i] = dy[i] if y[i] > zero else zero


@jit
def dropout(x, words, least, scale, y):
    """Y = x scale where its word is at least `least`, else 0."""
    zero, scale = x.dtype.type(0), x.dtype.type(scale)
    for i in range(x.size):
        y[i] = x[i] * scale if words[i] >= least else zero


@jit
def bias_activation(conv, b, y, first, relu):
    """y[first+k, f] = conv[f, k] + b[f], through a ReLU if asked: conv[F,count,OH,OW] -> y[N,F,OH,OW]."""
    f, count, oh, ow = conv.shape
    zero = y.dtype.type(0)
    for k in range(count):
        for ch in range(f):
            for oy in range(oh):
                source, target = conv[ch, k, oy], y[first + k, ch, oy]
                if relu:
                    for ox in range(ow):
                        value = source[ox] + b[ch]
                        target[ox] = zero if value <= zero else value
                else:
                    for ox in range(ow):
                        target[ox] = source[ox] + b[ch]


@jit
def masked_gradient(dy, y, dconv, db, first, relu):
    """The way back: dconv[f, k] = dy[first+k, f], where y > 0 if there was a ReLU; db[F] += its sum."""
    f, count, oh, ow = dconv.shape
    zero = dy.dtype.type(0)
    for ch in range(f):
        total = db[ch]
        for k in range(count):
            for oy in range(oh):
                source, target = dy[first + k, ch, oy], dconv[ch, k, oy]
                if relu:
                    opened = y[first + k, ch, oy]
                    for ox in range(ow):
                        target[ox] = source[ox] if opened[ox] > zero else zero
                else:
                    for ox in range(ow):
                        target[ox] = source[ox]
                for ox in range(ow):
                    total += target[ox]
        db[ch] = total


@jit
def softmax_cross_entropy(logits, labels, loss, dlogits):
    """logits[N,K], labels[N] -> loss[1], the mean of -log softmax at the label, and dlogits[N,K]."""
    n, k = logits.shape
    one = logits.dtype.type(1)
    share = logits.dtype.type(1.0 / n)
    mean = 0.0
    for i in range(n):
        top = logits[i, 0]
        for j in range(1, k):
            if not logits[i, j] <= top:
                top = logits[i, j]
        total = logits.dtype.type(0)
        for j in range(k):
            e = np.exp(logits[i, j] - top)
            dlogits[i, j] = e
            total += e
        mean += np.log(total) - (logits[i, labels[i]] - top)
        scale = share / total
        for j in range(k):
            dlogits[i, j] *= scale
        dlogits[i, labels[i]] -= share * one
    loss[0] = mean / n


@jit
def sgd(p, g, hyper):
    """P -= lr g."""
    lr = p.dtype.type(hyper[0])
    for i in range(p.size):
        p[i] -= lr * g[i]


@jit
def momentum(p, g, v, hyper, m, nesterov):
    """V = m v - lr g; p += v, or m v - lr g."""
    lr, m = p.dtype.type(hyper[0]), p.dtype.type(m)
    for i in range(p.size):
        step = lr * g[i]
        v[i] = m * v[i] - step
        p[i] += m * v[i] - step if nesterov else v[i]


@jit
def adagrad(p, g, h, hyper, eps):
    """H += g^2; p -= lr g / (sqrt(h) + eps)."""
    lr, eps = p.dtype.type(hyper[0]), p.dtype.type(eps)
    for i in range(p.size):
        h[i] += g[i] * g[i]
        p[i] -= lr * g[i] / (np.sqrt(h[i]) + eps)


@jit
def rmsprop(p, g, h, hyper, rho, eps):
    """H = rho h + (1 - rho) g^2; p -= lr g / (sqrt(h) + eps)."""
    lr, eps = p.dtype.type(hyper[0]), p.dtype.type(eps)
    keep, take = p.dtype.type(rho), p.dtype.type(1.0 - rho)
    for i in range(p.size):
        h[i] = keep * h[i] + take * (g[i] * g[i])
        p[i] -= lr * g[i] / (np.sqrt(h[i]) + eps)


@jit
def adam(p, g, m, v, hyper, beta1, beta2, eps, weight_decay):
    """P -= lr wd p; m += (1-b1)(g-m); v += (1-b2)(g^2-v); p -= lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps)."""
    lr, t = hyper[0], hyper[1]
    rate = p.dtype.type(lr * np.sqrt(1.0 - beta2**t) / (1.0 - beta1**t))
    take1, take2, eps = p.dtype.type(1.0 - beta1), p.dtype.type(1.0 - beta2), p.dtype.type(eps)
    decay = p.dtype.type(lr * weight_decay)
    for i in range(p.size):
        if decay != 0:
            p[i] -= decay * p[i]
        m[i] += take1 * (g[i] - m[i])
        v[i] += take2 * (g[i] * g[i] - v[i])
        p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)
