"""Pooling over planes x[P,H,W], a plane being one channel of one image; kernels work on planes first..last."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from xconv.kernels.cpu.jit import jit
from xconv.kernels.cpu.vectors import INT, Emit, pairs


@intrinsic
def _pairs_maximum(typing: Any, x: Any, x0: Any, x1: Any, y: Any, y0: Any, chosen: Any, c0: Any, count: Any) -> Any:
    """y[y0 + i] = the largest of x[x0 + 2 i], x[x0 + 2 i + 1], x[x1 + 2 i], x[x1 + 2 i + 1], i < count.

    chosen[c0 + i], uint8, is its number. The first maximum or NaN wins.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emit(context, builder, signature, values)
        count, whole = values[7], ir.IntType(8 * emit.size)
        rows = emit.address(0), emit.at(emit.address(0), builder.sub(values[2], values[1]))
        y, chosen = emit.address(3), emit.address(5)
        ints = ir.VectorType(whole, emit.lanes)

        def block(k: Any, nothing: list[Any]) -> list[Any]:
            i = builder.mul(k, ir.Constant(INT, emit.lanes))
            left = builder.sub(count, i)
            four = [part for row in rows for part in _apart(emit, emit.at(row, builder.add(i, i)), left)]
            best, number = four[0], ir.Constant(ints, [0] * emit.lanes)
            for t, value in enumerate(four[1:], 1):
                better = builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))
                best = builder.select(better, value, best)
                number = builder.select(better, ir.Constant(ints, [t] * emit.lanes), number)
            here = emit.first(left)
            emit.store_some(best, emit.at(y, i), here)
            emit.store_some(
                builder.trunc(number, ir.VectorType(ir.IntType(8), emit.lanes)), emit.at(chosen, i, 1), here
            )
            return []

        emit.loop(emit.blocks(count), [], block)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, *pairs(y, chosen), types.intp), code


@intrinsic
def _pairs_spread(typing: Any, dy: Any, d0: Any, chosen: Any, c0: Any, dx: Any, x0: Any, x1: Any, count: Any) -> Any:
    """The way back: of the four entries of dx the one that was chosen is dy[d0 + i], the others are 0."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emit(context, builder, signature, values)
        count = values[7]
        dy, chosen, row = emit.address(0), emit.address(2), emit.address(4)
        rows = row, emit.at(row, builder.sub(values[6], values[5]))
        bytes_ = ir.VectorType(ir.IntType(8), emit.lanes)

        def block(k: Any, nothing: list[Any]) -> list[Any]:
            i = builder.mul(k, ir.Constant(INT, emit.lanes))
            left = builder.sub(count, i)
            here = emit.first(left)
            value, number = emit.load_some(emit.at(dy, i), here), emit.load_some(emit.at(chosen, i, 1), here, bytes_)
            four = [
                builder.select(
                    builder.icmp_unsigned("==", number, ir.Constant(bytes_, [t] * emit.lanes)), value, emit.constant(0)
                )
                for t in range(4)
            ]
            for row, pair in zip(rows, (four[:2], four[2:]), strict=True):
                _together(emit, pair, emit.at(row, builder.add(i, i)), left)
            return []

        emit.loop(emit.blocks(count), [], block)
        return context.get_dummy_value()

    return types.void(*pairs(dy, chosen), dx, types.intp, types.intp, types.intp), code


def _apart(emit: Emit, address: Any, left: Any) -> list[Any]:
    """The even and the odd ones of 2 `left` entries, two vectors at most."""
    builder = emit.builder
    twice, lanes = builder.add(left, left), ir.Constant(INT, emit.lanes)
    low = emit.load_some(address, emit.first(twice))
    high = emit.load_some(emit.at(address, lanes), emit.first(builder.sub(twice, lanes)))
    return [emit.shuffle(low, high, [2 * i + odd for i in range(emit.lanes)]) for odd in (0, 1)]


def _together(emit: Emit, pair: list[Any], address: Any, left: Any) -> None:
    """The inverse."""
    builder = emit.builder
    twice, lanes, half = builder.add(left, left), ir.Constant(INT, emit.lanes), emit.lanes // 2
    order = [i // 2 + emit.lanes * (i % 2) for i in range(emit.lanes)]
    emit.store_some(emit.shuffle(*pair, order), address, emit.first(twice))
    high = emit.shuffle(*pair, [half + i for i in order])
    emit.store_some(high, emit.at(address, lanes), emit.first(builder.sub(twice, lanes)))


@jit
def max_pool_pairs(x, y, argmax, first, last):
    """max_pool by 2x2 windows side by side, none of them padded."""
    _, h, w = x.shape
    _, oh, ow = y.shape
    for p in range(first, last):
        for oy in range(oh):
            row, at = (p * h + 2 * oy) * w, (p * oh + oy) * ow
            _pairs_maximum(x, row, row + w, y, at, argmax, at, ow)


@jit
def max_pool_pairs_backward(dy, argmax, dx, first, last):
    """The way back of max_pool_pairs; dx[P,H,W] is set."""
    _, h, w = dx.shape
    _, oh, ow = dy.shape
    for p in range(first, last):
        for oy in range(oh):
            row, at = (p * h + 2 * oy) * w, (p * oh + oy) * ow
            _pairs_spread(dy, at, argmax, at, dx, row, row + w, ow)
        if 2 * ow < w:
            dx[p, :, 2 * ow :] = 0
        if 2 * oh < h:
            dx[p, 2 * oh :] = 0


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
