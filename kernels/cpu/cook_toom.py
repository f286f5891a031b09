"""The matrices of minimal filtering F(m, r): m outputs of a filter of r entries by m + r - 1 products (Winograd 1980).

    y = A' [(G w) (*) (B' x)]        (*) entry by entry

They come of a product of polynomials (Toom 1963, Cook 1966), whose transpose filtering is: G evaluates the filter at
m + r - 2 points and infinity, A' evaluates the transposed outputs there, B' interpolates. Small points whose negatives
are points, too, round least (Barabasz et al. 2018), and let two lines share their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

Matrix = list[list[Fraction]]
POINTS = [Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2")]  # with its negative right behind each


def cook_toom(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """A'[m,n], G[n,r] and B'[n,n] for n = m + r - 1."""
    points = POINTS[: m + r - 2]
    at = [[p**i for i in range(max(m, r))] for p in points]
    others = [[q for q in points if q != p] for p in points]
    outputs = [[*(powers[i] for powers in at), Fraction(i == m - 1)] for i in range(m)]
    filters = [
        [power / prod(p - q for q in rest) for power in powers[:r]]
        for p, powers, rest in zip(points, at, others, strict=True)
    ]
    inputs = [[*_product_of_roots(rest), Fraction(0)] for rest in others]
    return outputs, [*filters, [Fraction(i == r - 1) for i in range(r)]], [*inputs, _product_of_roots(points)]


def _product_of_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of all (x - root), that of 1 first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def transposed(matrix: Matrix) -> Matrix:
    """The transpose."""
    return [list(row) for row in zip(*matrix, strict=True)]


def multiply(emit: Any, matrix: Matrix, lines: Sequence[Any]) -> list[Any]:
    """The lines of `matrix` times `lines`, which are vectors of LLVM's; `emit` is an `Emit`.

    Lines of the matrix, or else its columns, that belong to a point and its negative differ in signs alone: what they
    have in common, and what they have not, is computed once.
    """
    add, subtract = emit.builder.fadd, emit.builder.fsub
    if not _pairs(matrix) and (starts := _pairs(transposed(matrix))):
        halves, columns = list(lines), transposed(matrix)
        for j in starts:
            halves[j : j + 2] = add(*lines[j : j + 2]), subtract(*lines[j : j + 2])
            columns[j : j + 2] = _halves(*columns[j : j + 2])
        return [_combination(emit, row, halves) for row in transposed(columns)]
    starts, results = _pairs(matrix), []
    for i, row in enumerate(matrix):
        if i in starts:
            both, sign = (_combination(emit, half, lines) for half in _halves(row, matrix[i + 1]))
            results += [add(both, sign), subtract(both, sign)]
        elif i - 1 not in starts:
            results.append(_combination(emit, row, lines))
    return results


def _pairs(matrix: Matrix) -> list[int]:
    """Where a line and the next differ in signs alone, and not in all."""
    found: list[int] = []
    for i, (one, other) in enumerate(pairwise(matrix)):
        signs = {a == b for a, b in zip(one, other, strict=True) if a}
        if len(signs) == 2 and [abs(a) for a in one] == [abs(b) for b in other] and i - 1 not in found:
            found.append(i)
    return found


def _halves(one: list[Fraction], other: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Of two such lines, what is the same and what has another sign."""
    same = [a if a == b else Fraction(0) for a, b in zip(one, other, strict=True)]
    return same, [a - b for a, b in zip(one, same, strict=True)]


def _combination(emit: Any, row: list[Fraction], lines: Sequence[Any]) -> Any:
    """The sum of factor * line; nothing is done for factors of 0 and little for 1 and -1."""
    total = None
    for factor, line in sorted(zip(row, lines, strict=True), key=lambda term: abs(term[0]) != 1):
        if factor and total is None:
            total = line if factor == 1 else emit.builder.fmul(line, emit.constant(factor))
        elif factor in (1, -1):
            total = (emit.builder.fadd if factor == 1 else emit.builder.fsub)(total, line)
        elif factor:
            total = emit.fma(line, emit.constant(factor), total)
    return total
