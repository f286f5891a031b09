"""The book's algorithm as a peer: one that computed something else would be no peer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import xconv
from xconv import zoo
from xconv.measure.contestants import Xconv, recipe_of
from xconv.optimizers import AdaGrad

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def book(script):
    return script("book_algorithm")


@pytest.fixture
def batch():
    rng = np.random.default_rng(7)
    return rng.random((20, 1, 28, 28)), rng.integers(0, 10, 20)


def test_book_gradients_are_xconvs(book, batch):
    x, t = batch
    model = xconv.SimpleConvNet(weight_init_std="he", backend="numpy", seed=3, dtype="float64")
    expected = model.gradient(x, t).to_numpy()
    loss, grads = book.BookConvNet(model.params.to_numpy(), "float64").gradient(x, t)
    assert loss == pytest.approx(model.loss(x, t), rel=1e-5)  # the book adds 1e-7 inside its logarithm
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        assert grads[name].shape == value.shape
        assert np.abs(grads[name] - value).max() <= 1e-12 * np.abs(value).max(), name


def test_ten_book_steps_are_xconvs(book, batch):
    x, t = batch
    model = xconv.SimpleConvNet(weight_init_std="he", backend="numpy", seed=3, dtype="float64")
    peer, theirs, ours = book.BookConvNet(model.params.to_numpy(), "float64"), book.AdaGrad(0.01), AdaGrad(0.01)
    for _ in range(10):
        theirs.update(peer.params, peer.gradient(x, t)[1])
        ours.update(model.params, model.gradient(x, t))
    for name, value in model.params.to_numpy().items():
        assert np.abs(peer.params[name] - value).max() <= 1e-10 * np.abs(value).max(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_book_stays_in_its_dtype(book, batch, dtype):
    x, t = batch
    model = xconv.SimpleConvNet(backend="numpy", dtype=dtype)
    peer = book.BookConvNet(model.params.to_numpy(), dtype)
    logits = peer.predict(x.astype(dtype))
    _, grads = peer.gradient(x.astype(dtype), t)
    assert {logits.dtype, *(g.dtype for g in grads.values())} == {np.dtype(dtype)}


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(5, 1, 0), (3, 2, 1), (2, 2, 0)])
def test_book_columns_are_xconvs(book, kernel, stride, pad):
    x = np.random.default_rng(1).random((2, 3, 9, 11))
    backend, pads = xconv.get_backend("numpy"), (pad,) * 4
    col = book.im2col(x, kernel, kernel, stride, pad)
    assert np.array_equal(col, backend.im2col(x, (kernel, kernel), (stride, stride), pads))
    back = backend.col2im(col, x.shape, (kernel, kernel), (stride, stride), pads)
    np.testing.assert_allclose(book.col2im(col, x.shape, kernel, kernel, stride, pad), back, rtol=1e-13)


def test_the_book_competes_from_the_same_weights_and_batches(script):
    """After the same steps it has the loss that xconv has."""
    theirs = script("contestants").book(20)["book float64"]().ready()
    ours = Xconv(20, "numpy", "float64").ready()
    assert theirs["first_loss"] == pytest.approx(ours["first_loss"], rel=1e-6)  # the book's logarithm of x + 1e-7


def test_targets_are_of_contestants_there_are(script):
    peers = script("peers")
    assert set(peers.DEMANDS) <= set(zoo.ZOO)
    for name, asked in peers.DEMANDS.items():
        found = {**peers.entrants(peers.Network(name, recipe_of(name)), 8, ["numpy", "numba"])}
        known = {*found, *peers.TORCH}
        for demand in asked:
            assert {*demand.slower, demand.faster} <= known
            assert set(demand.targets) <= {"train", "infer", "fit", "book", "memory"}
