"""Products with a gradient of which most entries are zero: collect the others, then visit their windows alone.

Written in LLVM's terms as `vectors` are, so that what a filter accumulates stays in registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from xconv.kernels.cpu.vectors import BYTES, INT, SHUT, Emit, pairs

MOST = 9  # vectors that `add_products` and `spread_products` take at once


@intrinsic
def collect(
    typing: Any,
    dy: Any,
    d0: Any,
    chosen: Any,
    c0: Any,
    windows: Any,
    q0: Any,
    taps: Any,
    t0: Any,
    where: Any,
    i: Any,
    values: Any,
    j: Any,
    count: Any,
    n_taps: Any,
) -> Any:
    """Of `count` windows those through which a gradient flows: how many.

    Their dy[d0 + p] go to values[j], values[j + 1], .. and their windows[q0 + p] + taps[t0 + t] to where[i], .., t
    being chosen[c0 + p] < n_taps. None flows where t is SHUT or dy is 0. chosen is uint8, windows, taps and where are
    int32; where and values have room for `count` more and a vector.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emit(context, builder, signature, arguments)
        dy, chosen, windows, taps, where, values = (emit.address(k) for k in range(0, 12, 2))
        count, n_taps = arguments[12:]
        byte, short = ir.IntType(8), ir.IntType(32)

        def scalar(p: Any, state: list[Any]) -> list[Any]:
            m = state[0]
            value = emit.load(emit.at(dy, p), emit.scalar)
            tap = emit.load(builder.add(chosen, p), byte)
            flows = builder.and_(
                builder.icmp_unsigned("!=", tap, ir.Constant(byte, SHUT)),
                builder.fcmp_unordered("!=", value, ir.Constant(emit.scalar, 0.0)),
            )
            # A place for SHUT is read, too, and not used: the first.
            tap = builder.select(flows, builder.zext(tap, INT), ir.Constant(INT, 0))
            start = builder.add(emit.load(emit.at(windows, p, 4), short), emit.load(emit.at(taps, tap, 4), short))
            emit.store(start, emit.at(where, m, 4))
            emit.store(value, emit.at(values, m))
            return [builder.add(m, builder.zext(flows, INT))]

        def vector(block: Any, state: list[Any]) -> list[Any]:
            m = state[0]
            p = builder.mul(block, ir.Constant(INT, emit.lanes))
            bytes_, shorts = ir.VectorType(byte, emit.lanes), ir.VectorType(short, emit.lanes)
            left = emit.first(builder.sub(count, p))
            value = emit.load_some(emit.at(dy, p), left)
            tap = emit.load_some(builder.add(chosen, p), left, bytes_)
            flows = builder.and_(left, builder.icmp_unsigned("!=", tap, ir.Constant(bytes_, [SHUT] * emit.lanes)))
            flows = builder.and_(flows, builder.fcmp_unordered("!=", value, emit.constant(0)))
            tap = builder.zext(tap, shorts)

            def look_up(t: Any, found: list[Any]) -> list[Any]:
                mine = builder.icmp_signed("==", tap, emit.spread(builder.trunc(t, short), shorts))
                return [builder.select(mine, emit.spread(emit.load(emit.at(taps, t, 4), short), shorts), found[0])]

            shift = emit.loop(n_taps, [ir.Constant(shorts, [0] * emit.lanes)], look_up)[0]
            start = builder.add(emit.load_some(emit.at(windows, p, 4), left, shorts), shift)
            emit.store(emit.compress(start, flows), emit.at(where, m, 4))
            emit.store(emit.compress(value, flows), emit.at(values, m))
            return [builder.add(m, emit.count(flows))]

        zero = ir.Constant(INT, 0)
        if BYTES < 64:  # no instruction puts the chosen entries of a vector side by side
            return emit.loop(count, [zero], scalar)[0]
        return emit.loop(emit.blocks(count), [zero], vector)[0]

    return types.intp(*pairs(dy, chosen, windows, taps, where, values), types.intp, types.intp), code


@intrinsic
def nonzero(
    typing: Any, x: Any, x0: Any, where: Any, i: Any, values: Any, j: Any, step: Any, count: Any, every: Any
) -> Any:
    """Of x[x0 + p], p < count, those that are not 0, or all of them where `every`: how many.

    They go to values[j], values[j + 1], .. and their p step to where[i], .., which is int32. Both have room for `count`
    and a vector.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emit(context, builder, signature, arguments)
        x, where, values = (emit.address(k) for k in range(0, 6, 2))
        step, count, every = arguments[6:]
        short = ir.IntType(32)
        step = builder.trunc(step, short)

        def scalar(p: Any, state: list[Any]) -> list[Any]:
            m = state[0]
            value = emit.load(emit.at(x, p), emit.scalar)
            chosen = builder.or_(every, builder.fcmp_unordered("!=", value, ir.Constant(emit.scalar, 0.0)))
            emit.store(builder.mul(builder.trunc(p, short), step), emit.at(where, m, 4))
            emit.store(value, emit.at(values, m))
            return [builder.add(m, builder.zext(chosen, INT))]

        lanes, shorts = ir.Constant(INT, emit.lanes), ir.VectorType(short, emit.lanes)
        order, wide = ir.Constant(shorts, list(range(emit.lanes))), emit.spread(step, shorts)
        further = builder.mul(wide, ir.Constant(shorts, [emit.lanes] * emit.lanes))
        all_ = emit.spread(every, ir.VectorType(ir.IntType(1), emit.lanes))

        def put(value: Any, place: Any, m: Any, among: Any = None) -> Any:
            chosen = builder.or_(all_, builder.fcmp_unordered("!=", value, emit.constant(0)))
            chosen = chosen if among is None else builder.and_(chosen, among)
            emit.store(emit.compress(place, chosen), emit.at(where, m, 4))
            emit.store(emit.compress(value, chosen), emit.at(values, m))
            return builder.add(m, emit.count(chosen))

        def vector(block: Any, state: list[Any]) -> list[Any]:
            m, place = state
            return [put(emit.load(emit.at(x, block, BYTES)), place, m), builder.add(place, further)]

        def rest(nothing: Any, state: list[Any]) -> list[Any]:
            left = emit.first(builder.srem(count, lanes))
            return [put(emit.load_some(emit.at(x, whole, BYTES), left), state[1], state[0], left), state[1]]

        zero = ir.Constant(INT, 0)
        if BYTES < 64:  # no instruction puts the chosen entries of a vector side by side
            return emit.loop(count, [zero], scalar)[0]
        whole = builder.sdiv(count, lanes)
        state = emit.loop(whole, [zero, builder.mul(order, wide)], vector)
        return emit.loop(builder.sub(emit.blocks(count), whole), state, rest)[0]

    return types.intp(*pairs(x, where, values), types.intp, types.intp, types.boolean), code


def _each_size(builder: Any, size: Any, vectors: Any, emits: list[Emit], body: Any) -> None:
    """body(emit, v) where `vectors` is v and `size` the bytes of the emit's: a register has no number at run time."""
    for emit in emits:
        with builder.if_then(builder.icmp_signed("==", size, ir.Constant(INT, emit.lanes * emit.size))):
            for v in range(1, MOST + 1):
                with builder.if_then(builder.icmp_signed("==", vectors, ir.Constant(INT, v))):
                    body(emit, v)


@intrinsic
def add_products(
    typing: Any,
    acc: Any,
    a: Any,
    x: Any,
    x0: Any,
    where: Any,
    i: Any,
    values: Any,
    j: Any,
    chunks: Any,
    c: Any,
    count: Any,
    vectors: Any,
    size: Any,
    add: Any,
) -> Any:
    """acc[a + v lanes + l] = sum over m < count of values[j + m] * x[x0 + where[i + m] + chunks[c + v] + l].

    Where `add`, += that. For the lanes l of each of `vectors` vectors v, at most MOST, of `size` bytes: BYTES or half
    of that. All arrays are read as if they had one axis; where is int32, chunks are int64.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        short = ir.IntType(32)

        def sums(emit: Emit, vectors: int) -> None:
            acc, x, where, values, chunks = (emit.address(k) for k in range(0, 10, 2))
            step = emit.lanes * emit.size
            starts = [emit.at(x, emit.load(emit.at(chunks, v, 8), INT)) for v in range(vectors)]

            def body(m: Any, sums: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(INT, 0), builder.sext(emit.load(emit.at(where, m, 4), short), INT))
                value = emit.spread(emit.load(emit.at(values, m), emit.scalar))
                return [emit.fma(value, emit.load(builder.add(starts[v], along)), sums[v]) for v in range(vectors)]

            # What was there is added last: sums of a few products each keep more digits than one of all.
            zeros = [emit.constant(0)] * vectors
            for v, total in enumerate(emit.loop(arguments[10], zeros, body)):
                target = emit.at(acc, v, step)
                before = builder.select(arguments[13], emit.load(target), zeros[v])
                emit.store(builder.fadd(before, total), target)

        emits = [Emit(context, builder, signature, arguments, step) for step in (BYTES, BYTES // 2)]
        _each_size(builder, arguments[12], arguments[11], emits, sums)
        return context.get_dummy_value()

    size = types.intp
    return types.void(*pairs(acc, x, where, values, chunks), size, size, size, types.boolean), code


@intrinsic
def spread_products(
    typing: Any,
    x: Any,
    x0: Any,
    where: Any,
    i: Any,
    values: Any,
    j: Any,
    chunks: Any,
    c: Any,
    w: Any,
    w0: Any,
    count: Any,
    vectors: Any,
    size: Any,
) -> Any:
    """x[x0 + where[i + m] + chunks[c + v] + l] += values[j + m] * w[w0 + v lanes + l] for m < count, in that order.

    Lanes, vectors and arrays as in `add_products`.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        short = ir.IntType(32)

        def spread(emit: Emit, vectors: int) -> None:
            x, where, values, chunks, w = (emit.address(k) for k in range(0, 10, 2))
            starts = [emit.at(x, emit.load(emit.at(chunks, v, 8), INT)) for v in range(vectors)]
            weights = [emit.load(emit.at(w, v, emit.lanes * emit.size)) for v in range(vectors)]

            def body(m: Any, nothing: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(INT, 0), builder.sext(emit.load(emit.at(where, m, 4), short), INT))
                value = emit.spread(emit.load(emit.at(values, m), emit.scalar))
                for v in range(vectors):
                    place = builder.add(starts[v], along)
                    emit.store(emit.fma(value, weights[v], emit.load(place)), place)
                return []

            emit.loop(arguments[10], [], body)

        emits = [Emit(context, builder, signature, arguments, step) for step in (BYTES, BYTES // 2)]
        _each_size(builder, arguments[12], arguments[11], emits, spread)
        return context.get_dummy_value()

    return types.void(*pairs(x, where, values, chunks, w), types.intp, types.intp, types.intp), code
