"""Loops that keep their sums in vector registers, which no compiler makes of plain loops: written in LLVM's terms.

Each has its meaning in one line of its docstring; `tests/test_kernels_vectors.py` holds it to that line. A vector has
`lanes(dtype)` entries, as many as a register of this processor.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from xconv.kernels.cpu.jit import jit

_FEATURES = llvmlite.binding.get_host_cpu_features()
BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16  # of a vector register
ROWS = 8  # of a tile; with two vectors a row, 16 sums are under way, more than a multiplier's latency asks for
WIDE = 2 if _FEATURES.get("avx512f") or BYTES == 16 else 1  # vectors in a tile's row; AVX2 has 16 registers, others 32
SHUT = 255  # stands in a map of maxima where ReLU lets nothing through
MOST = 9  # vectors that `add_products` and `spread_products` take at once

_INT = ir.IntType(64)


def lanes(dtype: Any) -> int:
    """Entries of a vector."""
    return BYTES // np.dtype(dtype).itemsize


class _Emit:
    """Addresses, vectors and loops for one intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any, size: int = BYTES) -> None:
        self.context, self.builder = context, builder
        self.types, self.values = signature.args, values
        self.scalar = context.get_value_type(signature.args[0].dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.lanes = size // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name
        )

    def address(self, i: int) -> Any:
        """Of array argument i from the entry on that argument i + 1 says, as an integer."""
        kind = self.types[i]
        array = self.context.make_array(kind)(self.context, self.builder, self.values[i])
        size = self.context.get_abi_sizeof(self.context.get_value_type(kind.dtype))
        return self.at(self.builder.ptrtoint(array.data, _INT), self.values[i + 1], size)

    def at(self, base: Any, index: Any, size: int | None = None) -> Any:
        """base + index * size, an entry's size unless given."""
        if isinstance(index, int):
            index = ir.Constant(_INT, index)
        return self.builder.add(base, self.builder.mul(index, ir.Constant(_INT, size or self.size)))

    def load(self, address: Any, kind: Any = None) -> Any:
        """A vector, or one value of `kind`, from an address that need not be aligned beyond an entry."""
        value = self.builder.load(self.builder.inttoptr(address, (kind or self.vector).as_pointer()))
        value.align = 8 if kind is _INT else self.size
        return value

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 4

    def spread(self, value: Any, kind: Any = None) -> Any:
        """A vector of one value."""
        nothing, where = ir.Constant(kind or self.vector, ir.Undefined), ir.VectorType(ir.IntType(32), self.lanes)
        one = self.builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(where, [0] * self.lanes))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.call(self._fma, [a, b, c])

    def loop(self, count: Any, sums: list[Any], body: Any) -> list[Any]:
        """sums = body(i, sums) for i in 0..count, kept in registers; none of it where count is 0."""
        builder = self.builder
        before, function = builder.block, builder.function
        inside, after = function.append_basic_block("vectors"), function.append_basic_block("vectors.end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(_INT, 0)), inside, after)
        builder.position_at_end(inside)
        i = builder.phi(_INT)
        old = [builder.phi(value.type) for value in sums]
        new = body(i, old)
        following = builder.add(i, ir.Constant(_INT, 1))
        for phi, start, then in zip([i, *old], [ir.Constant(_INT, 0), *sums], [following, *new], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(then, builder.block)
        last = builder.block
        builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
        builder.position_at_end(after)
        results = []
        for start, then in zip(sums, new, strict=True):
            phi = builder.phi(start.type)
            phi.add_incoming(start, before)
            phi.add_incoming(then, last)
            results.append(phi)
        return results


def _tile_of(wide: int) -> Any:
    @intrinsic
    def tile(
        typing: Any, acc: Any, a: Any, x: Any, x0: Any, rows: Any, r: Any, ks: Any, k0: Any, w: Any, w0: Any, count: Any
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit = _Emit(context, builder, signature, values)
            acc, x, rows, ks, w = (emit.address(i) for i in range(0, 10, 2))
            starts = [emit.at(x, emit.load(emit.at(rows, i, 8), _INT)) for i in range(ROWS)]
            zeros = [ir.Constant(emit.vector, [0.0] * emit.lanes)] * (ROWS * wide)

            def body(k: Any, sums: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(_INT, 0), emit.load(emit.at(ks, k, 8), _INT))
                line = emit.at(w, k, BYTES * wide)
                weights = [emit.load(emit.at(line, v, BYTES)) for v in range(wide)]
                new = []
                for i in range(ROWS):
                    value = emit.spread(emit.load(builder.add(starts[i], along), emit.scalar))
                    new += [emit.fma(value, weights[v], sums[i * wide + v]) for v in range(wide)]
                return new

            for i, total in enumerate(emit.loop(values[10], zeros, body)):
                emit.store(total, emit.at(acc, i, BYTES))
            return context.get_dummy_value()

        return _signature(acc, x, rows, ks, w), code

    return tile


_tile_wide, _tile_narrow = _tile_of(WIDE), _tile_of(1)


@jit
def tile(acc, a, x, x0, rows, r, ks, w, w0, width):
    """acc[a + i width + j] = sum over k of x[x0 + rows[r + i] + ks[k]] * w[w0 + k width + j], ROWS rows i, width entries j.

    All arrays are read as if they had one axis; rows and ks are int64. `width` is one vector or WIDE of them.
    """
    if width * x.itemsize == BYTES:
        _tile_narrow(acc, a, x, x0, rows, r, ks, 0, w, w0, ks.size)
    else:
        _tile_wide(acc, a, x, x0, rows, r, ks, 0, w, w0, ks.size)


def _signature(*arrays: Any) -> Any:
    """Of an intrinsic of pairs (array, first entry) and a count."""
    return types.void(*(kind for array in arrays for kind in (array, types.intp)), types.intp)


def _add_of(vectors: int) -> Any:
    @intrinsic
    def add(
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
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit = _Emit(context, builder, signature, arguments)
            acc, x, where, values, chunks = (emit.address(i) for i in range(0, 10, 2))
            starts = [emit.at(x, emit.load(emit.at(chunks, v, 8), _INT)) for v in range(vectors)]
            sums = [emit.load(emit.at(acc, v, BYTES)) for v in range(vectors)]

            def body(m: Any, sums: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(_INT, 0), emit.load(emit.at(where, m, 8), _INT))
                value = emit.spread(emit.load(emit.at(values, m), emit.scalar))
                return [emit.fma(value, emit.load(builder.add(starts[v], along)), sums[v]) for v in range(vectors)]

            for v, total in enumerate(emit.loop(arguments[10], sums, body)):
                emit.store(total, emit.at(acc, v, BYTES))
            return context.get_dummy_value()

        return _signature(acc, x, where, values, chunks), code

    return add


def _spread_of(vectors: int) -> Any:
    @intrinsic
    def spread(
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
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit = _Emit(context, builder, signature, arguments)
            x, where, values, chunks, w = (emit.address(i) for i in range(0, 10, 2))
            starts = [emit.at(x, emit.load(emit.at(chunks, v, 8), _INT)) for v in range(vectors)]
            weights = [emit.load(emit.at(w, v, BYTES)) for v in range(vectors)]

            def body(m: Any, nothing: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(_INT, 0), emit.load(emit.at(where, m, 8), _INT))
                value = emit.spread(emit.load(emit.at(values, m), emit.scalar))
                for v in range(vectors):
                    place = builder.add(starts[v], along)
                    emit.store(emit.fma(value, weights[v], emit.load(place)), place)
                return []

            emit.loop(arguments[10], [], body)
            return context.get_dummy_value()

        return _signature(x, where, values, chunks, w), code

    return spread


(_add1, _add2, _add3, _add4, _add5, _add6, _add7, _add8, _add9) = (_add_of(vectors) for vectors in range(1, MOST + 1))
(_spread1, _spread2, _spread3, _spread4, _spread5, _spread6, _spread7, _spread8, _spread9) = (
    _spread_of(vectors) for vectors in range(1, MOST + 1)
)


@jit
def add_products(acc, a, x, where, values, count, chunks, c, vectors):
    """acc[a + v lanes + l] += sum over m < count of values[m] * x[where[m] + chunks[c + v] + l], lanes l of each vector v.

    All arrays are read as if they had one axis; where and chunks are int64; `vectors` is from 1 to MOST.
    """
    if vectors == 1:
        _add1(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 2:
        _add2(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 3:
        _add3(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 4:
        _add4(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 5:
        _add5(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 6:
        _add6(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 7:
        _add7(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    elif vectors == 8:
        _add8(acc, a, x, 0, where, 0, values, 0, chunks, c, count)
    else:
        _add9(acc, a, x, 0, where, 0, values, 0, chunks, c, count)


@jit
def spread_products(x, where, values, count, chunks, c, w, w0, vectors):
    """x[where[m] + chunks[c + v] + l] += values[m] * w[w0 + v lanes + l], for m < count in that order.

    The arguments are those of `add_products`.
    """
    if vectors == 1:
        _spread1(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 2:
        _spread2(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 3:
        _spread3(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 4:
        _spread4(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 5:
        _spread5(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 6:
        _spread6(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 7:
        _spread7(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    elif vectors == 8:
        _spread8(x, 0, where, 0, values, 0, chunks, c, w, w0, count)
    else:
        _spread9(x, 0, where, 0, values, 0, chunks, c, w, w0, count)


@intrinsic
def window_maximum(
    typing: Any,
    acc: Any,
    a: Any,
    b: Any,
    b0: Any,
    best: Any,
    y: Any,
    where: Any,
    i: Any,
    taps: Any,
    vectors: Any,
) -> Any:
    """best[y + j] = ReLU(b[b0 + j] + max over t < taps of acc[a + t width + j]); where[i + j] = that t, SHUT below zero.

    j counts `vectors` vectors, width entries in all; where is uint8. The first maximum or NaN wins.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = _Emit(context, builder, signature, values)
        acc, b, best, where = (emit.address(i) for i in range(0, 8, 2))
        taps, vectors = values[8:]
        ints, one = ir.VectorType(ir.IntType(32), emit.lanes), ir.Constant(_INT, 1)
        zero, none = ir.Constant(emit.vector, [0.0] * emit.lanes), ir.Constant(ints, [0] * emit.lanes)
        shut = ir.Constant(ints, [SHUT] * emit.lanes)

        def column(v: Any, nothing: list[Any]) -> list[Any]:
            first = emit.at(acc, v, BYTES)

            def tap(t: Any, state: list[Any]) -> list[Any]:
                top, chosen = state
                t = builder.add(t, one)
                value = emit.load(emit.at(first, builder.mul(t, vectors), BYTES))
                better = builder.and_(builder.fcmp_unordered(">", value, top), builder.fcmp_ordered("ord", top, top))
                t = emit.spread(builder.trunc(t, ir.IntType(32)), ints)
                return [builder.select(better, value, top), builder.select(better, t, chosen)]

            top, chosen = emit.loop(builder.sub(taps, one), [emit.load(first), none], tap)
            value = builder.fadd(top, emit.load(emit.at(b, v, BYTES)))
            closed = builder.fcmp_ordered("<=", value, zero)
            emit.store(builder.select(closed, zero, value), emit.at(best, v, BYTES))
            small = builder.trunc(builder.select(closed, shut, chosen), ir.VectorType(ir.IntType(8), emit.lanes))
            emit.store(small, emit.at(where, builder.mul(v, ir.Constant(_INT, emit.lanes)), 1))
            return []

        emit.loop(vectors, [], column)
        return context.get_dummy_value()

    pairs = (kind for array in (acc, b, best, where) for kind in (array, types.intp))
    return types.void(*pairs, types.intp, types.intp), code


@intrinsic
def transpose(
    typing: Any, x: Any, x0: Any, along: Any, y: Any, y0: Any, across: Any, rows: Any, columns: Any, add: Any
) -> Any:
    """y[y0 + j across + i] = x[x0 + i along + j], or += where `add`, for i < rows, j < columns, both at most `lanes`."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = _Emit(context, builder, signature, values)
        base_x, along = emit.address(0), values[2]
        array = context.make_array(signature.args[3])(context, builder, values[3])
        base_y, across = emit.at(builder.ptrtoint(array.data, _INT), values[4]), values[5]
        rows, columns, add = values[6:]
        ints = ir.VectorType(_INT, emit.lanes)
        order = ir.Constant(ints, list(range(emit.lanes)))
        none = ir.Constant(emit.vector, [0.0] * emit.lanes)
        bits = ir.VectorType(ir.IntType(1), emit.lanes)
        kind = f"v{emit.lanes}f{8 * emit.size}.p0"
        pointer = emit.vector.as_pointer()
        load = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(emit.vector, [pointer, ir.IntType(32), bits, emit.vector]),
            f"llvm.masked.load.{kind}",
        )
        store = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [emit.vector, pointer, ir.IntType(32), bits]),
            f"llvm.masked.store.{kind}",
        )
        align = ir.Constant(ir.IntType(32), emit.size)
        nothing = ir.Constant(_INT, 0)

        def mask(i: int, count: Any, width: Any) -> Any:
            """The first `width` lanes for i < count, else none."""
            here = builder.select(builder.icmp_signed("<", ir.Constant(_INT, i), count), width, nothing)
            return builder.icmp_signed("<", order, emit.spread(here, ints))

        def place(base: Any, i: int, stride: Any) -> Any:
            return builder.inttoptr(emit.at(base, builder.mul(ir.Constant(_INT, i), stride)), pointer)

        lines = [
            builder.call(load, [place(base_x, i, along), align, mask(i, rows, columns), none])
            for i in range(emit.lanes)
        ]
        half = emit.lanes // 2
        low = [i // 2 + emit.lanes * (i % 2) for i in range(emit.lanes)]
        which = ir.VectorType(ir.IntType(32), emit.lanes)
        for _ in range(emit.lanes.bit_length() - 1):  # each pass deals two halves of the lines out in turn
            lines = [
                builder.shuffle_vector(
                    lines[i // 2], lines[i // 2 + half], ir.Constant(which, [k + half * (i % 2) for k in low])
                )
                for i in range(emit.lanes)
            ]
        for j, line in enumerate(lines):
            seen, target = mask(j, columns, rows), place(base_y, j, across)
            before = builder.call(
                load, [target, align, builder.select(add, seen, ir.Constant(bits, [0] * emit.lanes)), none]
            )
            builder.call(store, [builder.fadd(line, before), target, align, seen])
        return context.get_dummy_value()

    size = types.intp
    return types.void(x, size, size, y, size, size, size, size, types.boolean), code


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
    stride: Any,
    count: Any,
) -> Any:
    """Of `count` windows those through which a gradient flows: how many.

    Their dy[d0 + p] go to values[j], values[j + 1], .. and their windows[q0 + p] + taps[t0 + t] to where[i], .., t being
    chosen[c0 + p stride]. None flows where t is SHUT or dy is 0. Both arrays have room for `count` more.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Emit(context, builder, signature, arguments)
        dy, chosen, windows, taps, where, values = (emit.address(k) for k in range(0, 12, 2))
        stride, count = arguments[12:]
        byte = ir.IntType(8)

        def body(p: Any, state: list[Any]) -> list[Any]:
            m = state[0]
            value = emit.load(emit.at(dy, p), emit.scalar)
            tap = builder.load(builder.inttoptr(builder.add(chosen, builder.mul(p, stride)), byte.as_pointer()))
            shift = emit.load(emit.at(taps, builder.zext(tap, _INT), 8), _INT)
            emit.store(builder.add(emit.load(emit.at(windows, p, 8), _INT), shift), emit.at(where, m, 8))
            emit.store(value, emit.at(values, m))
            flows = builder.and_(
                builder.icmp_unsigned("!=", tap, ir.Constant(byte, SHUT)),
                builder.fcmp_unordered("!=", value, ir.Constant(emit.scalar, 0.0)),
            )
            return [builder.add(m, builder.zext(flows, _INT))]

        return emit.loop(count, [ir.Constant(_INT, 0)], body)[0]

    pairs = (kind for array in (dy, chosen, windows, taps, where, values) for kind in (array, types.intp))
    return types.intp(*pairs, types.intp, types.intp), code
