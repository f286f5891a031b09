"""Pooling over planes x[P,H,W], a plane being one channel of one image; kernels work on planes first..last."""

from __future__ import annotations

from xconv.kernels.cpu.jit import jit


@jit
def max_pool(x, y, argmax, first, last, kh, kw, sh, sw, top, left):
    """x[P,H,W] -> y[P,OH,OW] and argmax, ky * KW + kx. The first maximum or NaN wins; padding never does."""
    _, h, w = x.shape
    _, oh, ow = y.shape
    for p in range(first, last):
        for oy in range(oh):
            for ox in range(ow):
                y0, x0 = oy * sh - top, ox * sw - left
                ky0, kx0 = max(0, -y0), max(0, -x0)
                best, where = x[p, y0 + ky0, x0 + kx0], ky0 * kw + kx0
                for ky in range(ky0, min(kh, h - y0)):
                    for kx in range(kx0, min(kw, w - x0)):
                        value = x[p, y0 + ky, x0 + kx]
                        if not value <= best and best == best:
                            best, where = value, ky * kw + kx
                y[p, oy, ox] = best
                argmax[p, oy, ox] = where


@jit
def max_pool_backward(dy, argmax, dx, first, last, kw, sh, sw, top, left):
    """dx[P,H,W] is set to the sum of the dy[P,OH,OW] that chose each entry."""
    _, oh, ow = dy.shape
    for p in range(first, last):
        dx[p] = 0
        for oy in range(oh):
            for ox in range(ow):
                where = argmax[p, oy, ox]
                dx[p, oy * sh - top + where // kw, ox * sw - left + where % kw] += dy[p, oy, ox]


@jit
def avg_pool(x, y, first, last, kh, kw, sh, sw, top, left):
    """x[P,H,W] -> y[P,OH,OW], the window's sum over KH*KW: padding counts as zeros."""
    _, h, w = x.shape
    _, oh, ow = y.shape
    share = x.dtype.type(1.0 / (kh * kw))
    for p in range(first, last):
        for oy in range(oh):
            for ox in range(ow):
                y0, x0 = oy * sh - top, ox * sw - left
                total = x.dtype.type(0)
                for iy in range(max(0, y0), min(h, y0 + kh)):
                    for ix in range(max(0, x0), min(w, x0 + kw)):
                        total += x[p, iy, ix]
                y[p, oy, ox] = total * share


@jit
def avg_pool_backward(dy, dx, first, last, kh, kw, sh, sw, top, left):
    """dx[P,H,W] is set to the sum of dy / (KH*KW) over the windows that saw each entry."""
    _, h, w = dx.shape
    _, oh, ow = dy.shape
    share = dx.dtype.type(1.0 / (kh * kw))
    for p in range(first, last):
        dx[p] = 0
        for oy in range(oh):
            for ox in range(ow):
                y0, x0 = oy * sh - top, ox * sw - left
                value = dy[p, oy, ox] * share
                for iy in range(max(0, y0), min(h, y0 + kh)):
                    for ix in range(max(0, x0), min(w, x0 + kw)):
                        dx[p, iy, ix] += value
