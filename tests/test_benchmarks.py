"""The benchmarks' own pieces: a peer that computed something else would be no peer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import xconv
from xconv.optimizers import AdaGrad

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """load(name): a module of the benchmarks folder."""
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks folder is not beside the tests")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


@pytest.fixture
def book(load):
    return load("book_algorithm")


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


@pytest.mark.parametrize("name", ["simple-convnet", "keras-mnist", "mnist-dropout", "vgg16-bn-cifar10"])
def test_pytorch_starts_as_the_same_network(load, name):
    torch = pytest.importorskip("torch")
    contestants = load("contestants")
    model = contestants.network(name, "numpy")
    x, t = (part[0] for part in contestants.batches(3, name))
    with torch.inference_mode():
        theirs = contestants.torch_net(torch, name).eval()(torch.from_numpy(x)).numpy()
    mine = x if model.data_format == "channels_first" else x.transpose(0, 2, 3, 1)
    ours = model.predict(mine)
    if model.graph.nodes[-1].hidden:  # probabilities
        theirs = np.exp(theirs - theirs.max(axis=1, keepdims=True))
        theirs /= theirs.sum(axis=1, keepdims=True)
    assert np.abs(theirs - ours).max() <= 1e-5 * np.abs(ours).max()
    assert model.loss(mine, t) > 0


def test_ratios_pair_the_turns_of_a_round(load):
    peers = load("peers")
    results = {
        "xconv numpy float32": {"train": [1.0, 2.0, 4.0]},
        "book float32": {"train": [3.0, 4.0, 20.0]},
        "xconv numba float32": {"error": "none here"},
    }
    assert peers.ratio(results, "train", ("book float32",), "xconv numpy float32") == {
        "median": 3.0,
        "least": 2.0,
        "most": 5.0,
        "best_turns": 3.0,
    }
    assert [row["target"] for row in peers.ratios(results, "simple-convnet")] == [
        1.2
    ]  # what did not run is not in the report


def test_ratios_take_the_better_peer_of_the_whole_run(load):
    peers = load("peers")
    results = {"a": {"train": [9.0, 1.0, 9.0]}, "b": {"train": [8.0, 8.0, 8.0]}, "ours": {"train": [4.0, 4.0, 4.0]}}
    assert peers.ratio(results, "train", ("a", "b"), "ours")["median"] == 2.0


class Pipe:
    """A contestant that answers with the next of `answers`: (median seconds, processor seconds used)."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def send(self, request):
        pass

    def recv(self):
        return self.answers.pop(0)


def test_a_disturbed_turn_is_repeated_while_patience_lasts(load, monkeypatch):
    peers = load("peers")
    monkeypatch.setattr(peers, "PAUSE", 1e-3)
    seen = iter([0.0, 1e6, 1e6, 1e6])  # others used a million seconds during the first turn, none in the second
    monkeypatch.setattr(peers, "busy_seconds", lambda: next(seen))
    referee = peers.Referee(patience=60)
    assert referee.turn(Pipe((3.0, 0.0), (2.0, 0.0)), "train", 0.0) == 2.0
    assert (referee.turns, referee.disturbed) == (1, 0)


def test_a_disturbed_turn_that_is_kept_is_counted(load, monkeypatch):
    peers = load("peers")
    seen = iter([0.0, 1e6])
    monkeypatch.setattr(peers, "busy_seconds", lambda: next(seen))
    referee = peers.Referee(patience=0)
    assert referee.turn(Pipe((3.0, 0.0)), "train", 0.0) == 3.0
    assert (referee.turns, referee.disturbed) == (1, 1)
