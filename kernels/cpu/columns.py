"""Windows as rows or columns of a matrix. N images, C channels; KH, KW kernel; OH, OW output; `pads` top and left."""

from __future__ import annotations

from xconv.kernels.cpu.jit import jit


@jit
def im2col(x, col, first, last, kh, kw, sh, sw, top, left, dh, dw):
    """x[N,C,H,W] -> col[N,OH,OW,C,KH,KW] for images first..last, outside the image 0."""
    _, c, h, w = x.shape
    _, oh, ow, _, _, _ = col.shape
    for n in range(first, last):
        for oy in range(oh):
            for ox in range(ow):
                for ch in range(c):
                    for ky in range(kh):
                        y = oy * sh - top + ky * dh
                        inside = 0 <= y < h
                        for kx in range(kw):
                            xx = ox * sw - left + kx * dw
                            if inside and 0 <= xx < w:
                                col[n, oy, ox, ch, ky, kx] = x[n, ch, y, xx]
                            else:
                                col[n, oy, ox, ch, ky, kx] = 0


@jit
def col2im(col, x, first, last, kh, kw, sh, sw, top, left, dh, dw):
    """The transpose of im2col for images first..last: x is set to the sum of the windows' entries."""
    _, c, h, w = x.shape
    _, oh, ow, _, _, _ = col.shape
    for n in range(first, last):
        x[n] = 0
        for oy in range(oh):
            for ox in range(ow):
                for ch in range(c):
                    for ky in range(kh):
                        y = oy * sh - top + ky * dh
                        if 0 <= y < h:
                            for kx in range(kw):
                                xx = ox * sw - left + kx * dw
                                if 0 <= xx < w:
                                    x[n, ch, y, xx] += col[n, oy, ox, ch, ky, kx]


@jit
def _inside(size, out, stride, start):
    """The outputs lo..hi whose input start + o * stride lies in 0..size."""
    lo = 0 if start >= 0 else (-start + stride - 1) // stride
    hi = (size - start + stride - 1) // stride if size > start else 0
    hi = min(out, hi)
    return min(lo, hi), hi


@jit
def gather(x, col, first, count, sh, sw, top, left, dh, dw):
    """x[N,C,H,W] -> col[C,KH,KW,count,OH,OW] for images first..first+count: im2col transposed.

    Each (c, ky, kx) is a plane that is copied row by row, and the product with w[F, C*KH*KW] then gives
    [F,count,OH,OW], which is what the next layer wants, with no transposition.
    """
    c, kh, kw, _, oh, ow = col.shape
    h, w = x.shape[2], x.shape[3]
    for ch in range(c):
        for ky in range(kh):
            y0, y1 = _inside(h, oh, sh, ky * dh - top)
            for kx in range(kw):
                start = kx * dw - left
                x0, x1 = _inside(w, ow, sw, start)
                whole = y0 == 0 and x0 == 0 and y1 == oh and x1 == ow
                for k in range(count):
                    plane, image = col[ch, ky, kx, k], x[first + k, ch]
                    if not whole:
                        plane[:] = 0
                    for oy in range(y0, y1):
                        target = plane[oy, x0:x1]
                        source = image[oy * sh + ky * dh - top, start + x0 * sw :]
                        if sw == 1:
                            for i in range(target.size):
                                target[i] = source[i]
                        else:
                            for i in range(target.size):
                                target[i] = source[i * sw]


@jit
def scatter(col, dx, first, count, sh, sw, top, left, dh, dw):
    """The transpose of gather: dx of images first..first+count is set to the sum of the planes' entries."""
    c, kh, kw, _, oh, ow = col.shape
    h, w = dx.shape[2], dx.shape[3]
    dx[first : first + count] = 0
    for ch in range(c):
        for ky in range(kh):
            y0, y1 = _inside(h, oh, sh, ky * dh - top)
            for kx in range(kw):
                start = kx * dw - left
                x0, x1 = _inside(w, ow, sw, start)
                for k in range(count):
                    plane, image = col[ch, ky, kx, k], dx[first + k, ch]
                    for oy in range(y0, y1):
                        source = plane[oy, x0:x1]
                        target = image[oy * sh + ky * dh - top, start + x0 * sw :]
                        if sw == 1:
                            for i in range(source.size):
                                target[i] += source[i]
                        else:
                            for i in range(source.size):
                                target[i * sw] += source[i]
