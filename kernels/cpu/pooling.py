"""Pooling over planes x[P,H,W], a plane being one channel of one image; kernels work on planes first..last."""

from __future__ import annotations

from xconv.kernels.cpu.jit import jit


@jit
def max_pool(x, y, argmax, first, last, kh, kw, sh, sw, top, left):
    """x[P,H,W] -> y[P,OH,OW] and argmax, ky * KW + kx. The first maximum wins, the first NaN too; padding never does."""
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


@jit
def bias_relu_max_pool(conv, b, y, argmax, first, kh, kw, sh, sw):
    """conv[F,count,OH,OW] + b[F], ReLU and max-pool into y[N,F,PH,PW] and argmax, for images first..first+count.

    The bias is the same throughout a window and ReLU never changes the order, so both are left to the maximum alone.
    """
    f, count, _, _ = conv.shape
    _, _, ph, pw = y.shape
    zero = y.dtype.type(0)
    for k in range(count):
        for ch in range(f):
            for py in range(ph):
                best, where = y[first + k, ch, py], argmax[first + k, ch, py]
                top = conv[ch, k, py * sh]
                for px in range(pw):
                    best[px] = top[px * sw]
                    where[px] = 0
                for i in range(1, kh * kw):
                    row, kx = conv[ch, k, py * sh + i // kw], i % kw
                    for px in range(pw):
                        value = row[px * sw + kx]
                        better = (not value <= best[px]) and best[px] == best[px]
                        best[px] = value if better else best[px]
                        where[px] = i if better else where[px]
                for px in range(pw):
                    value = best[px] + b[ch]
                    best[px] = zero if value <= zero else value


@jit
def unpool_relu(dy, y, argmax, dconv, db, first, kw, sh, sw):
    """The way back: dconv[F,count,OH,OW] is 0 but where a positive maximum was; db[F] += the sum of each filter's dy."""
    f, count, _, _ = dconv.shape
    _, _, ph, pw = dy.shape
    for ch in range(f):
        total = db[ch]
        for k in range(count):
            plane = dconv[ch, k]
            plane[:] = 0
            for py in range(ph):
                for px in range(pw):
                    if y[first + k, ch, py, px] > 0:
                        value = dy[first + k, ch, py, px]
                        where = argmax[first + k, ch, py, px]
                        plane[py * sh + where // kw, px * sw + where % kw] += value
                        total += value
        db[ch] = total
