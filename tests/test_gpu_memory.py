"""Memory that is short: nothing is lost, results are the same or it says that they are not, and it says what fits."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from tests import standin
from tests.standin import state
from tests.standin.device import MemoryPool
from xconv import layers, losses, optimizers
from xconv.backend import gpu_memory
from xconv.errors import ConfigError, OutOfMemoryError, OutOfMemoryWarning
from xconv.models import Model, rescue
from xconv.models.memory import fitting_batch

RNG = np.random.default_rng(0)
N = 24
X, T, W = RNG.normal(size=(N, 8, 8, 2)).astype("f4"), RNG.integers(0, 5, N), RNG.random(N).astype("f4")


# ---------------------------------------------------------------------- $XCONV_GPU_MEMORY


@pytest.mark.parametrize(
    ("asked", "size"),
    [(None, None), ("", None), ("80000000", 80_000_000), ("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29),
     (" 50% ", 8 * 10**9), ("0.25", 4 * 10**9), (".5", 8 * 10**9), ("1.0", 16 * 10**9), ("100%", 16 * 10**9)],
)  # fmt: skip
def test_a_size_or_a_share(monkeypatch, asked, size):
    monkeypatch.delenv("XCONV_GPU_MEMORY", raising=False)
    if asked is not None:
        monkeypatch.setenv("XCONV_GPU_MEMORY", asked)
    assert gpu_memory.limit_bytes(16 * 10**9) == size


@pytest.mark.parametrize("asked", ["much", "150%", "-1", "0", "12", "1 MB", "2 TB", "1e9", "0.001"])
def test_what_is_neither_is_refused(monkeypatch, asked):
    monkeypatch.setenv("XCONV_GPU_MEMORY", asked)
    with pytest.raises(ConfigError, match=rf"^XCONV_GPU_MEMORY must be .* Received: '{re.escape(asked)}'$"):
        gpu_memory.limit_bytes(16 * 10**9)


@pytest.fixture
def cupy():
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    yield standin.install()
    state.default_pool.set_limit(0)


def test_the_limit_is_the_pools(cupy, monkeypatch):
    monkeypatch.setenv("XCONV_GPU_MEMORY", "200MB")
    monkeypatch.setattr(state, "default_pool", MemoryPool())  # other tests' streams hold workspaces of cuBLAS's
    try:
        made = standin.fresh_backend()
        assert made.memory_limit == made.describe()["memory_limit"] == state.default_pool.get_limit() == 200_000_000
        assert made.free_bytes() == 200_000_000 - state.default_pool.used_bytes()
        held = made.empty((10_000_000,), "uint8")
        assert made.free_bytes() == 200_000_000 - state.default_pool.used_bytes()
        with pytest.raises(MemoryError):
            made.empty((191_000_000,), "uint8")
        del held
        made.release()
        assert state.default_pool.free_bytes() == 0
        made.empty((90_000_000,), "uint8")
    finally:
        state.module = cupy.xp


def test_without_a_limit_all_that_is_free_can_be_taken(cupy):
    assert cupy.free_bytes() == (1 << 34) - state.default_pool.used_bytes()


# ---------------------------------------------------------------------- a training step


def network(backend, *, norm=False, dropout=False, dtype="float32"):
    x = layers.Input((8, 8, 2))
    y = layers.Conv2D(6, 3, padding="same", activation=None if norm else "relu")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y)) if norm else y
    y = layers.Flatten()(layers.MaxPool2D(2)(y))
    y = layers.Dropout(0.5)(y) if dropout else y
    y = layers.Dense(5, activation="softmax", kernel_regularizer="l2")(y)
    model = Model(x, y, backend=backend, seed=2, dtype=dtype)
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"], record=False)
    return model


def placed(model, n=N, weighted=False):
    a = model.backend.asarray
    return [a(X[:n], model.dtype)], [a(T[:n])], a(W[:n], model.dtype) if weighted else None


def all_of(model):
    """Everything that a step changes."""
    host, arrays = model.backend.to_numpy, model.optimizer.state_arrays()
    kept = {name: host(a).tobytes() for name, a in arrays.items()}
    kept |= {name: a.tobytes() for name, a in model.params.to_numpy().items()}
    return kept | {
        "steps": (model.optimizer.steps, model.optimizer.lr, host(model._steps).tobytes(), host(model.totals).tobytes())
    }


def begun(cupy, **kind):
    """A model that took one step, and what the second makes of it without a limit."""
    state.default_pool.set_limit(0)
    models = [network(cupy, **kind) for _ in range(2)]
    for model in models:
        model.train_step(*placed(model))
    values = [cupy.to_numpy(v) for v in models[1].train_step(*placed(models[1]))]
    return models[0], all_of(models[1]), {n: a.copy() for n, a in models[1].params.to_numpy().items()}, values


def limited(model, room):
    """From now on so many bytes may be taken beside what is held."""
    model.backend.release()
    state.default_pool.set_limit(state.default_pool.used_bytes() + room)


@pytest.mark.parametrize("kind", [{}, {"norm": True}, {"dropout": True}], ids=["plain", "norm", "dropout"])
def test_a_step_is_done_or_left_undone_whatever_memory_there_is(cupy, kind):
    """In full, in halves, or not at all: then the model is as it was, and goes on once there is memory."""
    seen = set()
    for room in [0, *(int(2**k) for k in np.arange(10, 20.1, 0.5))]:
        model, after, weights, values = begun(cupy, **kind)
        batch, before = placed(model), all_of(model)
        limited(model, room)
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                got = [cupy.to_numpy(v) for v in model.train_step(*batch)]
        except OutOfMemoryError as error:
            seen.add("refused")
            state.default_pool.set_limit(0)
            assert "as it was before" in str(error)
            assert all_of(model) == before
            model._rescue.most = None
            model.train_step(*batch)
            assert all_of(model) == after
            continue
        state.default_pool.set_limit(0)
        if told:
            seen.add("halves")
            assert [w.category for w in told] == [OutOfMemoryWarning] and "two halves" in str(told[0].message)
            for name, w in weights.items():
                np.testing.assert_allclose(model.params.to_numpy()[name], w, rtol=0, atol=1e-4 * np.abs(w).max())
            for a, b in zip(got, values, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5)
            assert model.optimizer.steps == 2
        else:
            seen.add("whole")
            assert all_of(model) == after
            assert [a.tobytes() for a in got] == [b.tobytes() for b in values]
    assert seen == ({"refused", "whole"} if kind else {"refused", "halves", "whole"})


@pytest.mark.parametrize("kind", [{}, {"norm": True}], ids=["plain", "norm"])
def test_a_step_that_fails_anywhere_is_done_again_from_where_it_began(cupy, monkeypatch, kind):
    """Each request for memory of a step fails in turn, once: the second try gives the same bits.

    None comes once something was changed: that would be an OutOfMemoryError, which is not tried again.
    """
    from tests.standin.device import MemoryPool, OutOfMemoryError

    asked, fails, malloc = [0], [None], MemoryPool.malloc

    def counted(pool, size):
        asked[0] += 1
        if asked[0] == fails[0]:
            raise OutOfMemoryError("this once")
        return malloc(pool, size)

    model, after, *_ = begun(cupy, **kind)
    batch = placed(model)
    monkeypatch.setattr(state, "allocator", lambda size: counted(state.default_pool, size))
    model.train_step(*batch)
    assert all_of(model) == after
    count = asked[0]
    assert count > 20
    for k in range(1, count + 1):
        model, after, *_ = begun(cupy, **kind)
        batch, asked[0], fails[0] = placed(model), 0, k
        model.train_step(*batch)
        assert asked[0] > k  # it was tried again
        fails[0] = None
        assert all_of(model) == after, k


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [2, 7, 24])
def test_halves_give_the_gradient_of_the_whole(cupy, n, weighted):
    """In float64 against the whole step: losses, metrics, penalties and weights of examples included."""
    for backend in ("numpy", cupy):
        ended, told = [], []
        for way in (lambda m, *b: m.train_step(*b), rescue.halves):
            model = network(backend, dtype="float64")
            batch = placed(model, n, weighted)
            told.append([model.backend.to_numpy(v) for v in way(model, *batch)])
            ended.append(model._grads.to_numpy())
            assert model.backend.to_numpy(model._steps)[0] == 1
        for name, g in ended[0].items():
            assert np.abs(ended[1][name] - g).max() <= 1e-12 * np.abs(g).max(), name
        for a, b in zip(*told, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "why"),
    [({"norm": True}, "normalises by the whole batch"), ({"dropout": True}, "draws its mask for the whole batch")],
)
def test_what_depends_on_the_batch_is_never_cut(cupy, kind, why):
    model = network(cupy, **kind)
    assert why in rescue.undivided(model, N)
    frozen = network(cupy, **kind)
    frozen.freeze(*[layer.name for layer in frozen.layers if isinstance(layer, layers.BatchNormalization)])
    assert (rescue.undivided(frozen, N) == "") == ("norm" in kind)


class Spread(losses.MeanSquaredError):
    """Code of one's own."""

    name = "spread"


def test_code_of_ones_own_is_never_cut():
    model = network("numpy")
    assert rescue.undivided(model, N) == "" and "single example" in rescue.undivided(model, 1)
    model.compile("sgd", Spread())
    assert "spread" in rescue.undivided(model, N)


def test_the_message_names_a_batch_that_fits(cupy):
    model, *_ = begun(cupy, norm=True)
    batch = placed(model)
    limited(model, 60_000)
    with pytest.raises(OutOfMemoryError) as caught:
        model.train_step(*batch)
    told = re.search(
        r"a training step of 24 examples does not fit into memory, nor can it be cut: .*BatchNormalization.*; it needs "
        r"about .*, and .* are free: batch_size=(\d+) would fit\. .* Received: a batch of 24$",
        str(caught.value),
    )
    assert told, str(caught.value)
    fits = int(told[1])
    assert 1 <= fits < 24
    del batch
    state.default_pool.set_limit(0)
    smaller = placed(model, fits)
    limited(model, 60_000)
    model.train_step(*smaller)  # it does


def test_the_batch_that_fits_grows_with_memory():
    model = network("numpy")
    found = [fitting_batch(model, 100, free) for free in (0, 20_000, 40_000, 10**6, 10**9)]
    assert found == sorted(found) and found[0] == 0 and found[-1] == 100 and 0 < found[2] < 100


def test_fit_goes_on_in_halves_and_says_so_once(cupy):
    model = network(cupy)
    model.fit(X, T, N, 1, verbose=0)
    state.default_pool.set_limit(0)
    reference = network(cupy)
    reference.fit(X, T, N, 1, verbose=0)
    reference.fit(X, T, N, 4, initial_epoch=1, verbose=0)
    calls = []
    inner = model._recorded
    model._recorded = type(inner)()
    model._recorded.ask(model, False)
    step = type(inner).__call__

    def counted(self, *given):
        calls.append(len(given[1][0]))
        return step(self, *given)

    limited(model, 130_000)
    with pytest.MonkeyPatch.context() as patch, pytest.warns(OutOfMemoryWarning) as told:
        patch.setattr(type(inner), "__call__", counted)
        model.fit(X, T, N, 4, initial_epoch=1, verbose=0)
    state.default_pool.set_limit(0)
    assert len(told) == 1 and calls == [N, N]  # tried whole twice, in the first step; never again
    for name, w in reference.params.to_numpy().items():
        np.testing.assert_allclose(model.params.to_numpy()[name], w, rtol=0, atol=1e-3 * np.abs(w).max())


# ---------------------------------------------------------------------- predictions


def test_predictions_are_cut_and_say_so(cupy):
    model = network(cupy, norm=True, dropout=True)
    expected, judged = model.predict(X), model.evaluate(X, T)
    limited(model, 40_000)
    with pytest.warns(OutOfMemoryWarning, match="batches of 24 examples do not fit and are cut"):
        got = model.predict(X)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    with pytest.warns(OutOfMemoryWarning):
        np.testing.assert_allclose(model.evaluate(X, T), judged, rtol=1e-5)
    limited(model, 1000)
    with (
        pytest.warns(OutOfMemoryWarning),
        pytest.raises(OutOfMemoryError, match="a single example does not fit into memory"),
    ):
        model.predict(X)


def test_memory_errors_of_the_host_are_the_same(monkeypatch):
    """NumPy's, too: the step that fails is done in halves, and a prediction in parts."""
    model, whole = network("numpy"), network("numpy")
    inner = model.backend.conv2d
    expected = whole.predict(X)

    def conv2d(x, *args, **kwargs):
        if len(x) > 12:
            raise MemoryError(f"no room for {len(x)}")
        return inner(x, *args, **kwargs)

    whole.train_step(*placed(whole))
    monkeypatch.setattr(model.backend, "conv2d", conv2d)
    with pytest.warns(OutOfMemoryWarning):
        np.testing.assert_allclose(model.predict(X), expected, atol=1e-6)
    with pytest.warns(OutOfMemoryWarning, match="take a smaller batch_size"):
        model.train_step(*placed(model))
    for name, w in whole.params.to_numpy().items():
        np.testing.assert_allclose(model.params.to_numpy()[name], w, rtol=0, atol=1e-5 * np.abs(w).max())
