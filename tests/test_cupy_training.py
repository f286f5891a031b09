"""Training on the CuPy backend: as NumPy trains, and step by step in a recorded graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests import standin
from tests.standin import record
from xconv import optimizers
from xconv.book import SimpleConvNet
from xconv.data import mnist

SMALL = {"conv_param": {"filter_num": 6, "filter_size": 5, "pad": 0, "stride": 1}, "hidden_size": 20}


@pytest.fixture(scope="module")
def images():
    x, t, _, _ = mnist.load("mnist-sample").arrays()
    return x[:300], t[:300]


def weights(model):
    return {name: np.array(a) for name, a in model.params.to_numpy().items()}


def far(got, expected):
    """The largest difference of any tensor over its largest entry."""
    return max(np.abs(got[name] - w).max() / np.abs(w).max() for name, w in expected.items())


# Equality over steps, as xconv defines it: SGD per tensor; adaptive optimizers by norms in float32.
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(("dtype", "steps", "limit"), [("float32", 10, 1e-4), ("float64", 30, 1e-10)])
def test_trains_as_numpy_does(cupy, images, dtype, steps, limit, fuse, monkeypatch):
    x, t = images[0][: 10 * steps], images[1][: 10 * steps]
    seen, ended, histories = [], [], []
    for backend in (cupy, "numpy"):
        model = SimpleConvNet(**SMALL, backend=backend, seed=3, dtype=dtype, fuse=fuse)
        ended.append([weights(model)])
        batches = []
        inner = model.train_step

        def train_step(bx, bt, weights, inner=inner, batches=batches, model=model):
            batches.append(tuple(model.backend.to_numpy(a).tobytes() for a in (*bx, *bt)))
            return inner(bx, bt, weights)

        monkeypatch.setattr(model, "train_step", train_step)
        model.compile(optimizers.SGD(0.01))
        histories.append(model.fit(x, t, 10, verbose=0))
        seen.append(batches)
        ended[-1].append(weights(model))
    assert len(seen[0]) == steps and seen[0] == seen[1]  # the same images in the same order, to the bit
    for name, start in ended[1][0].items():
        assert start.tobytes() == ended[0][0][name].tobytes(), name
    assert far(ended[0][1], ended[1][1]) <= limit
    assert far(ended[1][0], ended[1][1]) > 10 * limit, "nothing was learnt"


@pytest.mark.parametrize("name", sorted(optimizers.NAMED))
def test_every_optimizer_trains_as_numpy_does(cupy, images, name):
    x, t = images[0][:30], images[1][:30]
    ended = []
    for backend in (cupy, "numpy"):
        model = SimpleConvNet(**SMALL, backend=backend, seed=1, dtype="float64")
        model.compile(name)
        model.fit(x, t, 10, 2, verbose=0)
        ended.append(weights(model))
    assert far(*ended) <= 1e-10


def test_it_learns(cupy, images):
    model = SimpleConvNet(**SMALL, weight_init_std="he", backend=cupy, seed=0)
    model.compile(optimizers.Adam(0.005))
    model.fit(*images, 15, 3, verbose=0)
    assert model.accuracy(*images) > 0.9
    numpy = SimpleConvNet(**SMALL, backend="numpy")
    for key, value in model.params.to_numpy().items():
        numpy.params[key] = value
    expected = numpy.predict(images[0])
    assert np.abs(model.predict(images[0]) - expected).max() <= 1e-5 * np.abs(expected).max()


class AdaGradOfTheBook:
    """As a reader of the book writes it, with NumPy's names (section 6.1.5)."""

    def __init__(self, lr=0.01):
        self.lr, self.h = lr, None

    def update(self, params, grads):
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.h[key] += grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


def test_an_optimizer_written_for_numpy_works_on_the_device(cupy, images):
    x, t = images[0][:20], images[1][:20]
    ended = []
    for backend in (cupy, "numpy"):
        model, optimizer = SimpleConvNet(**SMALL, backend=backend), AdaGradOfTheBook()
        pointer = model.params["W1"]
        for _ in range(3):
            optimizer.update(model.params, model.gradient(x, t))
        assert model.params["W1"] is pointer
        ended.append(weights(model))
    assert far(*ended) <= 1e-4


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", sorted(optimizers.NAMED))
def test_a_step_can_be_recorded_and_replayed(cupy, images, name, fuse):
    """Warm-up, capture, then batch after batch through one buffer: to the bit what as many eager steps give."""
    batches = [(images[0][i : i + 10], images[1][i : i + 10]) for i in range(0, 60, 10)]
    eager = SimpleConvNet(**SMALL, backend=cupy, seed=2, fuse=fuse)
    eager.compile(name, record=False)
    losses = []
    for x, t in [batches[0]] * 3 + batches:
        loss, _ = eager.train_step(cupy.asarray(x), cupy.asarray(t))
        losses.append(cupy.to_numpy(loss).tobytes())

    model = SimpleConvNet(**SMALL, backend=cupy, seed=2, fuse=fuse)
    x, t = (cupy.asarray(a) for a in batches[0])
    model.compile(name, record=False)
    launch, (loss, _) = record(cupy, lambda: model.train_step(x, t), warm_up=3)
    for k, batch in enumerate(batches):
        x[...], t[...] = (cupy.asarray(a) for a in batch)
        launch()
        assert cupy.to_numpy(loss).tobytes() == losses[3 + k], f"replay {k}"
    for key, value in weights(eager).items():
        assert value.tobytes() == weights(model)[key].tobytes(), key

    model.optimizer.lr = 0.0  # the graph reads the learning rate from the device
    before = weights(model)
    launch()
    if name in ("sgd", "adagrad", "rmsprop", "adam", "adamw"):
        assert all(value.tobytes() == weights(model)[key].tobytes() for key, value in before.items())


def test_threads_predict_the_same_bytes(cupy, images):
    model = SimpleConvNet(**SMALL, backend=cupy)
    expected = model.predict(images[0][:50], batch_size=10).tobytes()
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: model.predict(images[0][:50], batch_size=10).tobytes(), range(12)))
    assert set(got) == {expected}


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
def test_a_step_meets_the_host_nowhere(images):
    cupy = standin.install()
    model = SimpleConvNet(**SMALL, backend=cupy)
    x, t = cupy.asarray(images[0][:10]), cupy.asarray(images[1][:10])
    model.train_step(x, t)
    before = standin.state.transfers
    model.train_step(x, t)
    assert standin.state.transfers == before
