"""Each loop over vectors against plain loops made from its docstring; what it may not write keeps its guard value."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tolerances import TOLERANCES

numba = pytest.importorskip("numba")
sparse = pytest.importorskip("xconv.kernels.cpu.sparse")
vectors = pytest.importorskip("xconv.kernels.cpu.vectors")

GUARD = 77.5  # in float32, too, and no sum below comes near it
MARK = 119  # of integers
AWKWARD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0, -2.0, 3.0])


@numba.njit
def _window_maximum(acc, a, b, b0, best, y, where, i, taps, count):
    vectors.window_maximum(acc, a, b, b0, best, y, where, i, taps, count)


@numba.njit
def _transpose(x, x0, along, y, y0, across, rows, columns, add):
    vectors.transpose(x, x0, along, y, y0, across, rows, columns, add)


@numba.njit
def _collect(dy, d0, chosen, c0, windows, q0, taps, t0, where, i, values, j, count, n_taps):
    return sparse.collect(dy, d0, chosen, c0, windows, q0, taps, t0, where, i, values, j, count, n_taps)


@numba.njit
def _add_products(acc, a, x, x0, where, i, values, j, chunks, c, count, many, size, add):
    sparse.add_products(acc, a, x, x0, where, i, values, j, chunks, c, count, many, size, add)


@numba.njit
def _nonzero(x, x0, where, i, values, j, step, count, every):
    return sparse.nonzero(x, x0, where, i, values, j, step, count, every)


@numba.njit
def _copy(x, x0, y, y0, count):
    vectors.copy(x, x0, y, y0, count)


@numba.njit
def _lanes_of(a):
    return vectors.lanes_of(a)


@numba.njit
def _spread_products(x, x0, where, i, values, j, chunks, c, w, w0, count, many, size):
    sparse.spread_products(x, x0, where, i, values, j, chunks, c, w, w0, count, many, size)


def normal(seed, size, dtype):
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def same(got, expected, what=""):
    """To the bit but for the sign of a zero; NaN is NaN."""
    assert np.array_equal(got, expected, equal_nan=got.dtype.kind == "f"), what


def near(got, expected, dtype):
    """`expected` is float64; where nothing was to be written it holds GUARD, and so must `got` to the bit."""
    assert got.dtype == dtype
    same(got[expected == GUARD], expected[expected == GUARD].astype(dtype), "written outside")
    odd = ~np.isfinite(expected)
    same(got[odd].astype("f8"), expected[odd])
    scale = np.abs(expected[~odd & (expected != GUARD)]).max(initial=0.0)
    assert np.abs(got - expected)[~odd].max(initial=0.0) <= TOLERANCES["sum", dtype] * scale


def test_a_vector_is_a_register(dtype):
    size = np.dtype(dtype).itemsize
    assert vectors.BYTES in (16, 32, 64) and vectors.lanes(dtype) * size == vectors.BYTES
    assert vectors.lanes(np.dtype(dtype)) == vectors.lanes(dtype)


# ---------------------------------------------------------------------- tile


@pytest.mark.parametrize("wide", sorted({1, vectors.WIDE}))
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_tile(dtype, wide, count):
    """acc[a + i width + j] = sum over k of x[x0 + rows[r + i] + ks[k]] * w[w0 + k width + j], for ROWS rows i."""
    n, width = vectors.ROWS, wide * vectors.lanes(dtype)
    rng, a, x0, r, w0 = np.random.default_rng(count), 3, 5, 2, 1
    rows, ks = rng.integers(0, 90, n + 4), rng.integers(0, 60, count)
    x, w = normal(1, x0 + 150, dtype), normal(2, w0 + count * width + 3, dtype)
    acc = np.full(a + n * width + 3, GUARD, dtype)
    expected = acc.astype("f8")
    for i in range(n):
        for j in range(width):
            products = [float(x[x0 + rows[r + i] + ks[k]]) * float(w[w0 + k * width + j]) for k in range(count)]
            expected[a + i * width + j] = sum(products)
    vectors.tile(acc, a, x, x0, rows, r, ks, w, w0, width)
    near(acc, expected, dtype)


@pytest.mark.parametrize("wide", sorted({1, vectors.WIDE}))
def test_tile_lets_nan_and_infinity_through(dtype, wide):
    n, width = vectors.ROWS, wide * vectors.lanes(dtype)
    rows, ks = np.arange(n) * 4, np.arange(4)
    x, w = np.ones(n * 4, dtype), np.ones(4 * width, dtype)
    x[1], x[6], x[11], x[12], x[13] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    w[2 * width + 1] = 0  # beside an infinity: NaN
    acc, expected = np.empty(n * width, dtype), np.empty((n, width))
    with np.errstate(invalid="ignore"):
        for i in range(n):
            for j in range(width):
                expected[i, j] = sum(x[i * 4 + k] * w[k * width + j] for k in range(4))
    assert np.isnan(expected[0]).all() and np.isnan(expected[1, 1]) and expected[1, 0] == np.inf
    vectors.tile(acc, 0, x, 0, rows, 0, ks, w, 0, width)
    same(acc, expected.reshape(-1).astype(dtype))


# ---------------------------------------------------------------------- window_maximum


def first_maximum(entries):
    """The first of the largest, or the first NaN."""
    at = 0
    for t, value in enumerate(entries):
        if np.isnan(value):
            return t
        if value > entries[at]:
            at = t
    return at


@pytest.mark.parametrize("make", ["ties", "awkward", "normal"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 4, 9, vectors.SHUT - 1])
def test_window_maximum(dtype, make, count, taps):
    """best[y + j] = ReLU(b[b0 + j] + max over t of acc[a + t width + j]); where[i + j] = that t, or SHUT at 0."""
    width, a, b0, y, i = count * vectors.lanes(dtype), 2, 1, 3, 5
    rng = np.random.default_rng(taps)
    shape = taps * width + a + 4
    acc = {
        "ties": rng.integers(-2, 3, shape),
        "awkward": rng.choice(AWKWARD, shape),
        "normal": rng.standard_normal(shape),
    }[make].astype(dtype)
    b = (rng.standard_normal(width + 5) if make == "normal" else rng.choice([0.0, -1.0, 1.0], width + 5)).astype(dtype)
    best, where = np.full(width + 9, GUARD, dtype), np.full(width + 9, GUARD, dtype)
    whole = np.uint32 if dtype == "float32" else np.uint64
    values, bits = best.copy(), where.view(whole).copy()
    for j in range(width):
        entries = acc[a + j : a + taps * width : width][:taps]
        at = first_maximum(entries)
        value = entries[at] + b[b0 + j]
        values[y + j] = 0 if value <= 0 else value
        bits[i + j] = vectors.SHUT if value <= 0 else at
    _window_maximum(acc, a, b, b0, best, y, where, i, taps, count)
    same(best, values)
    same(where.view(whole), bits)


def test_of_two_nans_the_first_wins(dtype):
    lanes = vectors.lanes(dtype)
    acc = np.zeros((5, lanes), dtype)
    acc[1], acc[2], acc[3], acc[4] = 7, np.nan, np.inf, np.nan
    best, where = np.zeros(lanes, dtype), np.zeros(lanes, dtype)
    _window_maximum(acc.reshape(-1), 0, np.zeros(lanes, dtype), 0, best, 0, where, 0, 5, 1)
    assert np.isnan(best).all()
    assert (where.view(np.uint32 if dtype == "float32" else np.uint64) == 2).all()


# ---------------------------------------------------------------------- transpose


def _sizes(dtype):
    lanes = vectors.lanes(dtype)
    return sorted({0, 1, lanes // 2, lanes - 1, lanes})


@pytest.mark.parametrize("add", [False, True])
def test_transpose(dtype, add):
    """y[y0 + j across + i] = x[x0 + i along + j], or += where `add`."""
    lanes, x0, y0 = vectors.lanes(dtype), 3, 2
    for rows in _sizes(dtype):
        for columns in _sizes(dtype):
            along, across = columns + 2, rows + 3
            x = normal(rows, x0 + lanes * along + 4, dtype)
            x[x0] = np.nan
            x[x0 + 1] = np.inf
            y = normal(columns, y0 + lanes * across + 4, dtype)
            expected = y.copy()
            for i in range(rows):
                for j in range(columns):
                    at, value = y0 + j * across + i, x[x0 + i * along + j]
                    expected[at] = expected[at] + value if add else value
            _transpose(x, x0, along, y, y0, across, rows, columns, add)
            same(y, expected, f"{rows} x {columns}")


def test_transpose_overwrites_nan(dtype):
    """Without `add` what was there before does not matter."""
    lanes = vectors.lanes(dtype)
    x, y = normal(0, lanes * lanes, dtype), np.full(lanes * lanes, np.nan, dtype)
    _transpose(x, 0, lanes, y, 0, lanes, lanes, lanes, False)
    same(y, x.reshape(lanes, lanes).T.reshape(-1))


def test_transpose_to_bytes(dtype):
    """Where y is uint8, x holds the bits of integers."""
    lanes, x0, y0 = vectors.lanes(dtype), 1, 5
    whole = np.uint32 if dtype == "float32" else np.uint64
    for rows in _sizes(dtype):
        for columns in _sizes(dtype):
            along, across = columns + 1, rows + 2
            bits = np.random.default_rng(columns).integers(0, 256, x0 + lanes * along + 4).astype(whole)
            y = np.full(y0 + lanes * across + 4, MARK, np.uint8)
            expected = y.copy()
            for i in range(rows):
                for j in range(columns):
                    expected[y0 + j * across + i] = bits[x0 + i * along + j]
            _transpose(bits.view(dtype), x0, along, y, y0, across, rows, columns, False)
            same(y, expected, f"{rows} x {columns}")


# ---------------------------------------------------------------------- collect


@pytest.mark.parametrize("n_taps", [1, 4, 9, vectors.SHUT - 1])
@pytest.mark.parametrize("open_", [0.0, 0.3, 1.0])
def test_collect(dtype, n_taps, open_):
    """Of `count` windows those through which a gradient flows, their dy and where what was chosen begins."""
    lanes, (d0, c0, q0, t0, i, j) = vectors.lanes(dtype), (1, 2, 3, 4, 5, 6)
    for count in (0, 1, lanes - 1, lanes, lanes + 1, 3 * lanes + 5):
        rng = np.random.default_rng(count)
        dy = np.full(d0 + count + 5, GUARD, dtype)
        dy[d0 : d0 + count] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, *rng.standard_normal(9)], count)
        chosen = np.zeros(c0 + count + 5, np.uint8)
        chosen[c0 : c0 + count] = np.where(rng.random(count) < open_, rng.integers(0, n_taps, count), vectors.SHUT)
        windows = rng.integers(0, 10**6, q0 + count + 5).astype(np.int32)
        taps = rng.integers(0, 10**6, t0 + n_taps + 2).astype(np.int32)
        where, values = np.full(i + count + lanes + 3, MARK, np.int32), np.full(j + count + lanes + 3, GUARD, dtype)
        flows = [p for p in range(count) if chosen[c0 + p] != vectors.SHUT and dy[d0 + p] != 0]
        got = _collect(dy, d0, chosen, c0, windows, q0, taps, t0, where, i, values, j, count, n_taps)
        assert got == len(flows)
        begins = [windows[q0 + p] + taps[t0 + int(chosen[c0 + p])] for p in flows]
        same(where[i : i + got], np.array(begins, np.int32))
        same(values[j : j + got], np.array([dy[d0 + p] for p in flows], dtype))
        assert (where[:i] == MARK).all() and (where[i + count + lanes :] == MARK).all()
        assert (values[:j] == GUARD).all() and (values[j + count + lanes :] == GUARD).all()
        if not count:
            assert (where == MARK).all() and (values == GUARD).all()


def test_a_nan_flows_and_a_zero_does_not(dtype):
    dy = np.array([np.nan, 0.0, -0.0, 5.0, np.nan], dtype)
    chosen = np.array([0, 0, 0, 0, vectors.SHUT], np.uint8)
    where, values = np.zeros(99, np.int32), np.zeros(99, dtype)
    windows, taps = np.arange(5, dtype=np.int32), np.zeros(1, np.int32)
    assert _collect(dy, 0, chosen, 0, windows, 0, taps, 0, where, 0, values, 0, 5, 1) == 2
    assert where[:2].tolist() == [0, 3] and np.isnan(values[0]) and values[1] == 5


@pytest.mark.parametrize("every", [False, True])
def test_nonzero(dtype, every):
    """Of x[x0 + p], p < count, those that are not 0, or all of them where `every`, with p step."""
    lanes, (x0, i, j), step = vectors.lanes(dtype), (1, 2, 3), 7
    for count in (0, 1, lanes - 1, lanes, lanes + 1, 3 * lanes + 5):
        rng = np.random.default_rng(count)
        x = np.full(x0 + count + 5, GUARD, dtype)
        x[x0 : x0 + count] = rng.choice([np.nan, np.inf, 0.0, -0.0, 0.0, *rng.standard_normal(4)], count)
        where, values = np.full(i + count + lanes + 3, MARK, np.int32), np.full(j + count + lanes + 3, GUARD, dtype)
        chosen = [p for p in range(count) if every or x[x0 + p] != 0]
        got = _nonzero(x, x0, where, i, values, j, step, count, every)
        assert got == len(chosen)
        same(where[i : i + got], np.array([p * step for p in chosen], np.int32))
        same(values[j : j + got], x[[x0 + p for p in chosen]])
        assert (where[:i] == MARK).all() and (where[i + count + lanes :] == MARK).all()
        assert (values[:j] == GUARD).all() and (values[j + count + lanes :] == GUARD).all()


def test_copy_fills_the_last_vector_with_zeros(dtype):
    lanes = vectors.lanes(dtype)
    assert _lanes_of(np.zeros(1, dtype)) == lanes
    for count in (0, 1, lanes - 1, lanes, lanes + 1, 3 * lanes + 5):
        x, whole = normal(count, 2 + count + 3, dtype), -(-count // lanes) * lanes
        y = np.full(1 + whole + 3, GUARD, dtype)
        expected = y.copy()
        expected[1 : 1 + whole] = 0
        expected[1 : 1 + count] = x[2 : 2 + count]
        _copy(x, 2, y, 1, count)
        same(y, expected, f"{count}")


# ---------------------------------------------------------------------- products with what was collected


def _products(dtype, many, size, count):
    """(lanes, x, where, values, chunks) with places that overlap and an offset before each."""
    lanes = size // np.dtype(dtype).itemsize
    rng = np.random.default_rng(count * 31 + many)
    where = np.concatenate([[MARK] * 2, rng.integers(0, 200, count), [MARK] * 2]).astype(np.int32)
    chunks = np.concatenate([[MARK], rng.permutation(40)[:many] * lanes, [MARK]]).astype(np.int64)
    values = np.concatenate([[GUARD] * 3, rng.standard_normal(count), [GUARD]]).astype(dtype)
    return lanes, normal(many, 4 + 200 + 41 * lanes, dtype), where, values, chunks


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("size", [vectors.BYTES, vectors.BYTES // 2])
@pytest.mark.parametrize("many", range(1, sparse.MOST + 1))
def test_add_products(dtype, many, size, add):
    """acc[a + v lanes + l] = (itself where `add`) + sum over m < count of values[j + m] * x[x0 + where[i + m] + ..]."""
    for count in (0, 1, 2, 23):
        lanes, x, where, values, chunks = _products(dtype, many, size, count)
        acc = np.full(1 + many * lanes + 3, GUARD, dtype)
        acc[1 : 1 + many * lanes] = before = normal(5, many * lanes, dtype)
        expected = acc.astype("f8")
        for v in range(many):
            for k in range(lanes):
                at = 4 + chunks[1 + v] + k
                products = [float(values[3 + m]) * float(x[at + where[2 + m]]) for m in range(count)]
                expected[1 + v * lanes + k] = before[v * lanes + k] * add + sum(products)
        _add_products(acc, 1, x, 4, where, 2, values, 3, chunks, 1, count, many, size, add)
        near(acc, expected, dtype)


@pytest.mark.parametrize("size", [vectors.BYTES, vectors.BYTES // 2])
@pytest.mark.parametrize("many", range(1, sparse.MOST + 1))
def test_spread_products(dtype, many, size):
    """x[x0 + where[i + m] + chunks[c + v] + l] += values[j + m] * w[w0 + v lanes + l] for m < count, in that order."""
    for count in (0, 1, 2, 23):
        lanes, x, where, values, chunks = _products(dtype, many, size, count)
        w, x = normal(6, 2 + many * lanes + 1, dtype), np.full(x.size, GUARD, dtype)
        expected, written = x.astype("f8"), np.zeros(x.size, bool)
        for m in range(count):
            for v in range(many):
                at = 4 + where[2 + m] + chunks[1 + v]
                written[at : at + lanes] = True
        x[written] = expected[written] = 0
        for m in range(count):
            for v in range(many):
                for k in range(lanes):
                    expected[4 + where[2 + m] + chunks[1 + v] + k] += float(values[3 + m]) * float(w[2 + v * lanes + k])
        _spread_products(x, 4, where, 2, values, 3, chunks, 1, w, 2, count, many, size)
        near(x, expected, dtype)
        assert (x[~written] == GUARD).all() and written.any() == (count > 0)


@pytest.mark.parametrize("size", [vectors.BYTES, vectors.BYTES // 2])
def test_products_keep_nan_and_infinity(dtype, size):
    lanes = size // np.dtype(dtype).itemsize
    where, chunks, values = np.array([0, 1], np.int32), np.zeros(1, np.int64), np.array([1.0, np.nan], dtype)
    x, w, acc = np.ones(2 * lanes, dtype), np.ones(lanes, dtype), np.zeros(lanes, dtype)
    x[0] = np.inf
    _add_products(acc, 0, x, 0, where, 0, values, 0, chunks, 0, 1, 1, size, True)
    assert acc[0] == np.inf and (acc[1:] == 1).all()
    _add_products(acc, 0, x, 0, where, 0, values, 0, chunks, 0, 2, 1, size, False)
    assert np.isnan(acc).all()
    _spread_products(x, 0, where, 0, values, 0, chunks, 0, w, 0, 2, 1, size)
    assert x[0] == np.inf and np.isnan(x[1 : lanes + 1]).all() and (x[lanes + 1 :] == 1).all()
