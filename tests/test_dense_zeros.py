"""Dense layers on Numba skip what is zero: forced on and off, against float64, and never at the price of a NaN.

And a few examples alone, which have a kernel of their own.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks import close
from tests.conftest import load
from xconv.backend import Need

SIZES = [(9, 256, 16), (11, 300, 17), (100, 257, 33), (129, 300, 100), (64, 512, 150), (300, 448, 64)]
WAYS = {"skipping": 1.0, "blas": -1.0}  # the share of entries that may be there for zeros to be skipped


@pytest.fixture
def numba():
    return load("numba")


@pytest.fixture
def kernels(numba):
    """The kernels, and those of them that were called."""
    dense = pytest.importorskip("xconv.kernels.cpu.dense")
    if pytest.importorskip("xconv.kernels.cpu.vectors").BYTES != 64:
        pytest.skip("this processor has no vectors of 64 bytes, for which alone skipping was found to pay")
    return dense


def spied(monkeypatch, dense):
    called = []
    for name in ("forward", "backward", "forward_few"):
        real = getattr(dense, name)
        monkeypatch.setattr(dense, name, lambda *a, real=real, name=name: (called.append(name), real(*a))[1])
    return called


def drawn(n, k, o, dtype, zeros=0.5):
    rng = np.random.default_rng(n + k + o)
    x, w, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((n, k), (k, o), (o,), (n, o)))
    x[rng.random(x.shape) < zeros] = 0
    dy[rng.random(dy.shape) < zeros] = 0
    return x, w, b, dy


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("n", "k", "o"), [(9, 256, 16), (1, 300, 7), (20, 257, 33)])
def test_weights_from_memory_are_read_once(kernels, monkeypatch, dtype, n, k, o, threads):
    """Then each thread has a part of the inputs, whatever is zero."""
    from tests.algorithms import Forced
    from xconv.backend import numba_dense

    monkeypatch.setattr(numba_dense, "FAR", 0)
    monkeypatch.setattr(numba_dense, "ALONE", 0)
    called = spied(monkeypatch, kernels)
    backend = Forced(None, threads)
    x, w, b, _ = drawn(n, k, o, dtype)
    exact = x.astype("f8") @ w.astype("f8")
    with backend.running():
        close(backend, backend.dense(x, w, b), exact + b, "sum", scale=np.abs(exact).max())
        into = np.full((n, o), np.nan, dtype)
        assert backend.matmul(x, w, into) is into
    close(backend, into, exact, "sum", scale=np.abs(exact).max())
    assert called == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "k", "o"), SIZES)
def test_products(numba, kernels, monkeypatch, dtype, n, k, o, way):
    from xconv.backend import numba_dense

    monkeypatch.setattr(numba_dense, "FEW", WAYS[way])
    called = spied(monkeypatch, kernels)
    x, w, b, dy = drawn(n, k, o, dtype)
    with numba.running():
        y = numba.dense(x, w, b)
        into = np.full_like(w, np.nan)
        dx, dw, db = numba.dense_backward(dy, x, w, Need(dw=into))
    assert dw is into
    x, w, b, dy = (a.astype("f8") for a in (x, w, b, dy))
    for got, expected in ((y, x @ w + b), (dx, dy @ w.T), (dw, x.T @ dy), (db, dy.sum(axis=0))):
        close(numba, got, expected, "sum")
    assert set(called) == ({"forward", "backward"} if way == "skipping" else set())


@pytest.mark.parametrize("way", WAYS)
def test_behind_a_relu(numba, kernels, monkeypatch, dtype, way):
    from xconv.backend import numba_dense

    monkeypatch.setattr(numba_dense, "FEW", WAYS[way])
    x, w, b, dy = drawn(100, 300, 40, dtype)
    with numba.running():
        y = numba.dense(x, w, b, "relu")
        dx, dw, db = numba.dense_backward(dy, x, w, y=y)
    x, w, b, dy = (a.astype("f8") for a in (x, w, b, dy))
    before = x @ w + b
    assert np.abs(before).min() > 1e-4  # no sum near enough to 0 to change its side
    close(numba, y, np.where(before > 0, before, 0), "sum")
    dy = np.where(before > 0, dy, 0)
    for got, expected in ((dx, dy @ w.T), (dw, x.T @ dy), (db, dy.sum(axis=0))):
        close(numba, got, expected, "sum")


@pytest.mark.parametrize("zeros", [0.0, 0.1, 0.9, 1.0])
def test_what_decides_is_how_much_is_zero(numba, kernels, monkeypatch, zeros):
    called = spied(monkeypatch, kernels)
    x, w, b, dy = drawn(50, 300, 40, "f4", zeros)
    numba.dense(x, w, b)
    numba.dense_backward(dy, x, w)
    assert set(called) == ({"forward", "backward"} if zeros > 0.5 else set())


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize(
    ("k", "o"), [(1, 1), (5, 7), (63, 9), (64, 1), (65, 16), (128, 17), (300, 150), (700, 160), (2, 1000), (4320, 100)]
)
def test_few_examples(numba, monkeypatch, dtype, n, k, o, activation):
    dense = pytest.importorskip("xconv.kernels.cpu.dense")
    called = spied(monkeypatch, dense)
    x, w, b, _ = drawn(n, k, o, dtype)
    with numba.running():
        y = numba.dense(x, w, b, activation)
    expected = x.astype("f8") @ w.astype("f8") + b
    close(numba, y, np.maximum(expected, 0) if activation else expected, "sum")
    assert called == ["forward_few"]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_example_beside_weights_that_are_not_finite(numba, dtype, odd):
    """Only the output that such a weight belongs to knows of it, whether its input is zero or not."""
    x, w, b, _ = drawn(1, 300, 40, dtype)
    w[150, 7] = w[299, 39] = w[0, 0] = odd
    x[0, :2] = x[0, 150] = 0
    x[0, 299] = 2
    with numba.running():
        y = numba.dense(x, w, b)[0]
    assert np.isnan(y[[0, 7]]).all() and np.array_equal(y[39], odd, equal_nan=True)
    assert np.isfinite(np.delete(y, [0, 7, 39])).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("k", "o"), [(300, 40), (40, 300), (7, 3), (4320, 100)])
def test_the_way_back_of_one_example(numba, monkeypatch, dtype, k, o, way):
    numba_dense = pytest.importorskip("xconv.backend.numba_dense")
    monkeypatch.setattr(numba_dense, "FEW", WAYS[way])
    x, w, _, dy = drawn(1, k, o, dtype)
    with numba.running():
        got = numba.dense_backward(dy, x, w)
    x, w, dy = (a.astype("f8") for a in (x, w, dy))
    for mine, expected in zip(got, (dy @ w.T, x.T @ dy, dy[0]), strict=True):
        close(numba, mine, expected, "sum")


def test_one_example_of_many_weights_is_for_blas(numba, monkeypatch):
    dense = pytest.importorskip("xconv.kernels.cpu.dense")
    called = spied(monkeypatch, dense)
    x, w, b, _ = drawn(1, 1025, 512, "f4")
    close(numba, numba.dense(x, w, b), x.astype("f8") @ w.astype("f8") + b, "sum")
    assert not called


def test_few_inputs_and_few_outputs_are_not_worth_it(numba, kernels, monkeypatch):
    called = spied(monkeypatch, kernels)
    for n, k, o in ((50, 100, 40), (50, 300, 10)):
        x, w, b, dy = drawn(n, k, o, "f4")
        numba.dense(x, w, b)
        numba.dense_backward(dy, x, w)
    assert not called


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_zero_times_a_weight_that_is_not_finite_is_nan(numba, kernels, monkeypatch, dtype, odd):
    called = spied(monkeypatch, kernels)
    x, w, b, _ = drawn(20, 300, 40, dtype)
    w[150, 7] = odd  # where some examples have a zero
    assert (x[:, 150] == 0).any() and (x[:, 150] != 0).any()
    with numba.running():
        got = numba.dense(x, w, b)
    with np.errstate(invalid="ignore"):
        expected = (x.astype("f8") @ w + b).astype(dtype)
    assert called
    assert np.array_equal(np.isnan(got), np.isnan(expected)) and np.isnan(got[x[:, 150] == 0, 7]).all()
    assert np.array_equal(got[:, 7][np.isinf(expected[:, 7])], expected[:, 7][np.isinf(expected[:, 7])])


def test_no_examples(numba):
    x, w = np.zeros((0, 300), "f4"), np.ones((300, 64), "f4")
    assert numba.dense(x, w, np.zeros(64, "f4"), "relu").shape == (0, 64)
    dx, dw, db = numba.dense_backward(np.zeros((0, 64), "f4"), x, w)
    assert dx.shape == (0, 300) and not dw.any() and not db.any()


def test_an_input_that_is_not_finite_shows(numba, kernels, dtype):
    x, w, b, _ = drawn(20, 300, 40, dtype)
    x[3, 100] = np.nan
    got = numba.dense(x, w, b)
    assert np.isnan(got[3]).all() and np.isfinite(np.delete(got, 3, axis=0)).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_same_bits_on_any_number_of_threads(numba, kernels, monkeypatch, threads):
    from xconv.backend.threads import Team

    x, w, b, dy = drawn(100, 700, 40, "f4")
    expected = numba.dense(x, w, b), *numba.dense_backward(dy, x, w)
    monkeypatch.setattr(numba, "team", Team(threads))
    got = numba.dense(x, w, b), *numba.dense_backward(dy, x, w)
    for a, e in zip(got, expected, strict=True):
        assert np.array_equal(a, e)
