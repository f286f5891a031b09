"""Loops that keep their sums in vector registers, which no compiler makes of plain loops: written in LLVM's terms.

Each has its meaning in one line of its docstring; `tests/test_kernels_vectors.py` holds it to that line. A vector has
`lanes(dtype)` entries, as many as a register of this processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from xconv.kernels.cpu.jit import jit

# Where Numba is told to compile for another processor ($NUMBA_CPU_NAME), nothing is known of its registers.
_FEATURES = {} if numba.config.CPU_NAME else llvmlite.binding.get_host_cpu_features()
_FUSED = _FEATURES.get("fma") or _FEATURES.get(
    "neon"
)  # without the instruction, a fused product is a call for each entry
BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16  # of a vector register
ROWS = 8  # of a tile; with two vectors a row, 16 sums are under way, more than a multiplier's latency asks for
WIDE = 2 if _FEATURES.get("avx512f") or BYTES == 16 else 1  # vectors in a tile's row; AVX2 has 16 registers, others 32
SHUT = 255  # stands in a map of maxima where ReLU lets nothing through

INT = ir.IntType(64)


def lanes(dtype: Any) -> int:
    """Entries of a vector."""
    return BYTES // np.dtype(dtype).itemsize


class Emit:
    """Addresses, vectors and loops for one intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any, size: int = BYTES) -> None:
        self.context, self.builder = context, builder
        self.types, self.values = signature.args, values
        self.scalar = context.get_value_type(signature.args[0].dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.lanes = size // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def address(self, i: int) -> Any:
        """Of array argument i from the entry on that argument i + 1 says, as an integer."""
        kind = self.types[i]
        array = self.context.make_array(kind)(self.context, self.builder, self.values[i])
        size = self.context.get_abi_sizeof(self.context.get_value_type(kind.dtype))
        return self.at(self.builder.ptrtoint(array.data, INT), self.values[i + 1], size)

    def at(self, base: Any, index: Any, size: int | None = None) -> Any:
        """base + index * size, an entry's size unless given."""
        if isinstance(index, int):
            index = ir.Constant(INT, index)
        return self.builder.add(base, self.builder.mul(index, ir.Constant(INT, size or self.size)))

    def load(self, address: Any, kind: Any = None) -> Any:
        """A vector, or one value of `kind`, from an address that need not be aligned beyond an entry."""
        value = self.builder.load(self.builder.inttoptr(address, (kind or self.vector).as_pointer()))
        value.align = 1 if kind == ir.IntType(8) else 4 if kind == ir.IntType(32) else 8 if kind is INT else self.size
        return value

    def first(self, count: Any) -> Any:
        """The mask of the first `count` lanes."""
        zero, all_ = ir.Constant(INT, 0), ir.Constant(INT, self.lanes)
        count = self.builder.select(self.builder.icmp_signed("<", count, zero), zero, count)
        count = self.builder.select(self.builder.icmp_signed(">", count, all_), all_, count)
        one = ir.Constant(INT, 1)
        bits = self.builder.trunc(self.builder.sub(self.builder.shl(one, count), one), ir.IntType(self.lanes))
        return self.builder.bitcast(bits, ir.VectorType(ir.IntType(1), self.lanes))

    def load_some(self, address: Any, mask: Any, kind: Any = None) -> Any:
        """The lanes of a vector where the mask is set, nothing else read; 0 elsewhere."""
        kind = kind or self.vector
        load = self._masked("load", kind, kind, [kind.as_pointer(), ir.IntType(32), mask.type, kind])
        size, zero = self.context.get_abi_sizeof(kind.element), 0 if isinstance(kind.element, ir.IntType) else 0.0
        nothing = ir.Constant(kind, [zero] * self.lanes)
        align = ir.Constant(ir.IntType(32), size)
        return self.builder.call(load, [self.builder.inttoptr(address, kind.as_pointer()), align, mask, nothing])

    def store_some(self, value: Any, address: Any, mask: Any) -> None:
        """Those lanes, nothing else written."""
        pointer = value.type.as_pointer()
        store = self._masked("store", value.type, ir.VoidType(), [value.type, pointer, ir.IntType(32), mask.type])
        align = ir.Constant(ir.IntType(32), self.context.get_abi_sizeof(value.type.element))
        self.builder.call(store, [value, self.builder.inttoptr(address, pointer), align, mask])

    def _masked(self, what: str, kind: Any, result: Any, arguments: list[Any]) -> Any:
        name = f"llvm.masked.{what}.{self._name(kind)}.p0"
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def _name(self, kind: Any) -> str:
        letter = "i" if isinstance(kind.element, ir.IntType) else "f"
        return f"v{self.lanes}{letter}{8 * self.context.get_abi_sizeof(kind.element)}"

    def compress(self, value: Any, mask: Any) -> Any:
        """The lanes where the mask is set side by side; what stands behind them has no meaning."""
        name = f"llvm.experimental.vector.compress.{self._name(value.type)}"
        kinds = [value.type, mask.type, value.type]
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(value.type, kinds), name)
        return self.builder.call(function, [value, mask, ir.Constant(value.type, ir.Undefined)])

    def count(self, mask: Any) -> Any:
        """How many lanes of the mask are set."""
        return self.builder.zext(self.builder.ctpop(self.builder.bitcast(mask, ir.IntType(self.lanes))), INT)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 4

    def spread(self, value: Any, kind: Any = None) -> Any:
        """A vector of one value."""
        nothing, where = ir.Constant(kind or self.vector, ir.Undefined), ir.VectorType(ir.IntType(32), self.lanes)
        one = self.builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(where, [0] * self.lanes))

    def shuffle(self, a: Any, b: Any, order: list[int]) -> Any:
        """The vector of those entries of a and b, b's counted on from a's."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))

    def blocks(self, count: Any) -> Any:
        """How many vectors `count` entries take."""
        lanes = ir.Constant(INT, self.lanes)
        return self.builder.sdiv(self.builder.add(count, ir.Constant(INT, self.lanes - 1)), lanes)

    def constant(self, value: float) -> Any:
        """A vector of one known value."""
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def whole(self, value: Any) -> Any:
        """A vector of one whole number, as wide as the scalars are: a known one, or one of type INT."""
        one = ir.IntType(8 * self.size)
        kind = ir.VectorType(one, self.lanes)
        if isinstance(value, int):
            return ir.Constant(kind, [value] * self.lanes)
        return self.spread(value if one == INT else self.builder.trunc(value, one), kind)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the processor can."""
        if not _FUSED:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        name = f"llvm.fma.{self._name(self.vector)}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def loop(self, count: Any, sums: list[Any], body: Any) -> list[Any]:
        """sums = body(i, sums) for i in 0..count, kept in registers; none of it where count is 0."""
        builder = self.builder
        before, function = builder.block, builder.function
        inside, after = function.append_basic_block("vectors"), function.append_basic_block("vectors.end")
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(INT, 0)), inside, after)
        builder.position_at_end(inside)
        i = builder.phi(INT)
        old = [builder.phi(value.type) for value in sums]
        new = body(i, old)
        following = builder.add(i, ir.Constant(INT, 1))
        for phi, start, then in zip([i, *old], [ir.Constant(INT, 0), *sums], [following, *new], strict=True):
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


def larger(emit: Emit, top: Any, chosen: Any, value: Any, place: Any) -> tuple[Any, Any]:
    """(value, place) where value is greater than top or the first NaN, else (top, chosen)."""
    builder = emit.builder
    better = builder.and_(builder.fcmp_unordered(">", value, top), builder.fcmp_ordered("ord", top, top))
    return builder.select(better, value, top), builder.select(better, place, chosen)


def closed_below_zero(emit: Emit, value: Any, chosen: Any) -> tuple[Any, Any]:
    """ReLU, and the bits of `chosen`, or SHUT where it lets nothing through."""
    builder, zero = emit.builder, emit.constant(0)
    closed = builder.fcmp_ordered("<=", value, zero)
    place = builder.select(closed, emit.whole(SHUT), chosen)
    return builder.select(closed, zero, value), builder.bitcast(place, emit.vector)


def pairs(*arrays: Any) -> Iterator[Any]:
    """The types of arguments (array, first entry) for each array."""
    for array in arrays:
        yield from (array, types.intp)


@intrinsic
def lanes_of(typing: Any, a: Any) -> Any:
    """lanes(a.dtype), known when a kernel is compiled, so that loops over them are unrolled and masks left out."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return ir.Constant(INT, BYTES // context.get_abi_sizeof(context.get_value_type(a.dtype)))

    return types.intp(a), code


def _tile_of(wide: int) -> Any:
    @intrinsic
    def tile(
        typing: Any, acc: Any, a: Any, x: Any, x0: Any, rows: Any, r: Any, ks: Any, k0: Any, w: Any, w0: Any, count: Any
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit = Emit(context, builder, signature, values)
            acc, x, rows, ks, w = (emit.address(i) for i in range(0, 10, 2))
            starts = [emit.at(x, emit.load(emit.at(rows, i, 8), INT)) for i in range(ROWS)]
            zeros = [emit.constant(0)] * (ROWS * wide)

            def body(k: Any, sums: list[Any]) -> list[Any]:
                along = emit.at(ir.Constant(INT, 0), emit.load(emit.at(ks, k, 8), INT))
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

        return types.void(*pairs(acc, x, rows, ks, w), types.intp), code

    return tile


_tile_wide, _tile_narrow = _tile_of(WIDE), _tile_of(1)


@jit
def tile(acc, a, x, x0, rows, r, ks, w, w0, width):
    """acc[a + i width + j] = sum over k of x[x0 + rows[r + i] + ks[k]] * w[w0 + k width + j], for ROWS rows i.

    All arrays are read as if they had one axis; rows and ks are int64. j < width, one vector or WIDE of them.
    """
    if width * x.itemsize == BYTES:
        _tile_narrow(acc, a, x, x0, rows, r, ks, 0, w, w0, ks.size)
    else:
        _tile_wide(acc, a, x, x0, rows, r, ks, 0, w, w0, ks.size)


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
    """best[y + j] = ReLU(b[b0 + j] + max over t < taps of acc[a + t width + j]); where[i + j] = that t, or SHUT at 0.

    j counts `vectors` vectors, width entries in all; where has acc's dtype and gets the bits of an integer, for
    `transpose` to make uint8 of. The first maximum or NaN wins.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emit(context, builder, signature, values)
        acc, b, best, where = (emit.address(i) for i in range(0, 8, 2))
        taps, vectors = values[8:]
        one = ir.Constant(INT, 1)

        def column(v: Any, nothing: list[Any]) -> list[Any]:
            first = emit.at(acc, v, BYTES)

            def tap(t: Any, state: list[Any]) -> list[Any]:
                t = builder.add(t, one)
                value = emit.load(emit.at(first, builder.mul(t, vectors), BYTES))
                return list(larger(emit, *state, value, emit.whole(t)))

            top, chosen = emit.loop(builder.sub(taps, one), [emit.load(first), emit.whole(0)], tap)
            value = builder.fadd(top, emit.load(emit.at(b, v, BYTES)))
            value, bits = closed_below_zero(emit, value, chosen)
            emit.store(value, emit.at(best, v, BYTES))
            emit.store(bits, emit.at(where, v, BYTES))
            return []

        emit.loop(vectors, [], column)
        return context.get_dummy_value()

    return types.void(*pairs(acc, b, best, where), types.intp, types.intp), code


@intrinsic
def copy(typing: Any, x: Any, x0: Any, y: Any, y0: Any, count: Any) -> Any:
    """y[y0 + i] = x[x0 + i] for i < count, and 0 from there to the end of the last vector."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emit(context, builder, signature, values)
        x, y = emit.address(0), emit.address(2)
        lanes = ir.Constant(INT, emit.lanes)
        whole = builder.sdiv(values[4], lanes)

        def one(i: Any, nothing: list[Any]) -> list[Any]:
            emit.store(emit.load(emit.at(x, i, BYTES)), emit.at(y, i, BYTES))
            return []

        def rest(i: Any, nothing: list[Any]) -> list[Any]:
            left = emit.first(builder.srem(values[4], lanes))
            emit.store(emit.load_some(emit.at(x, whole, BYTES), left), emit.at(y, whole, BYTES))
            return []

        emit.loop(whole, [], one)
        emit.loop(builder.sub(emit.blocks(values[4]), whole), [], rest)
        return context.get_dummy_value()

    return types.void(*pairs(x, y), types.intp), code


@intrinsic
def transpose(
    typing: Any, x: Any, x0: Any, along: Any, y: Any, y0: Any, across: Any, rows: Any, columns: Any, add: Any
) -> Any:
    """y[y0 + j across + i] = x[x0 + i along + j], or += where `add`; i < rows, j < columns, both at most `lanes`.

    Where y is uint8, x holds the bits of integers, and nothing can be added.
    """

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emit(context, builder, signature, values)
        small = signature.args[3].dtype == types.uint8
        along, across, (rows, columns, add) = values[2], values[5], values[6:]
        x, y = emit.address(0), emit.address(3)
        none = ir.Constant(ir.VectorType(ir.IntType(1), emit.lanes), [0] * emit.lanes)

        def masks(count: Any, width: Any) -> list[Any]:
            """For each i the first `width` lanes where i < count, else none."""
            some, size = emit.first(width), range(emit.lanes)
            return [builder.select(builder.icmp_signed("<", ir.Constant(INT, i), count), some, none) for i in size]

        lines = [
            emit.load_some(emit.at(x, builder.mul(ir.Constant(INT, i), along)), seen)
            for i, seen in enumerate(masks(rows, columns))
        ]
        half = emit.lanes // 2
        low = [i // 2 + emit.lanes * (i % 2) for i in range(emit.lanes)]
        for _ in range(emit.lanes.bit_length() - 1):  # each pass deals two halves of the lines out in turn
            lines = [
                emit.shuffle(lines[i // 2], lines[i // 2 + half], [k + half * (i % 2) for k in low])
                for i in range(emit.lanes)
            ]
        for j, (line, seen) in enumerate(zip(lines, masks(columns, rows), strict=True)):
            target = emit.at(y, builder.mul(ir.Constant(INT, j), across), 1 if small else None)
            if small:
                whole = builder.bitcast(line, ir.VectorType(ir.IntType(8 * emit.size), emit.lanes))
                line = builder.trunc(whole, ir.VectorType(ir.IntType(8), emit.lanes))
            else:
                line = builder.fadd(line, emit.load_some(target, builder.select(add, seen, none)))
            emit.store_some(line, target, seen)
        return context.get_dummy_value()

    size = types.intp
    return types.void(x, size, size, y, size, size, size, size, types.boolean), code
