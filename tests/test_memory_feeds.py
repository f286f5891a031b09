"""Memory that is short while kernels are compiled and batches are made: another way, or a typed error with the cure."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests import standin
from tests.standin import device, state
from tests.test_gpu_memory import N, T, X, limited, network
from xconv import get_backend, optimizers
from xconv.errors import OutOfMemoryError, OutOfMemoryWarning
from xconv.models import feed
from xconv.models.feed import ResidentFeed, StagedFeed
from xconv.parameters import Parameters


@pytest.fixture
def cupy():
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    yield standin.install()
    state.default_pool.set_limit(0)


@pytest.fixture
def feeds(monkeypatch):
    """The feeds that `fit` takes, in turn."""
    seen = []
    monkeypatch.setattr("xconv.models.training.feed", lambda *given: seen.append(feed.feed(*given)) or seen[-1])
    return seen


def failing(monkeypatch, when):
    """Each request for memory of the device fails for which when(its number, its size) says so; how many came."""
    count = [0]

    def allocator(size):
        count[0] += 1
        if when(count[0], size):
            raise device.OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return state.default_pool.malloc(size)

    monkeypatch.setattr(state, "allocator", allocator)
    return count


def train(model, **more):
    return model.fit(X, T, 7, 2, verbose=0, **more).history["loss"]


def test_a_data_set_that_does_not_fit_goes_batch_by_batch(cupy, monkeypatch, feeds):
    whole, model = network(cupy), network(cupy)
    expected = train(whole)
    with monkeypatch.context() as patch, pytest.warns(OutOfMemoryWarning, match="each batch is sent there") as told:
        failing(patch, lambda number, size: size == X.nbytes)
        assert train(model) == expected
    assert len(told) == 1 and [type(f) for f in feeds] == [ResidentFeed, StagedFeed]
    assert [a.tobytes() for a in model.get_weights()] == [a.tobytes() for a in whole.get_weights()]


def test_no_pinned_memory(cupy, monkeypatch):
    model = network(cupy)
    monkeypatch.setattr(feed, "BUDGET", 0)

    def refused(status):
        def alloc(size):
            raise device.CUDARuntimeError(status, "cudaErrorOf some kind")

        return alloc

    monkeypatch.setattr(cupy.xp.cuda, "alloc_pinned_memory", refused(2))
    with pytest.raises(
        OutOfMemoryError,
        match=r"what sends batches of 7 examples does not fit into memory; .* are free: take a smaller batch_size\. "
        r"Received: no pinned memory of \d+ bytes: cudaErrorOf some kind$",
    ):
        train(model)
    monkeypatch.setattr(cupy.xp.cuda, "alloc_pinned_memory", refused(700))
    with pytest.raises(device.CUDARuntimeError):  # another failure is not a matter of memory
        train(model)


def test_a_warm_up_without_room(cupy):
    model = network(cupy)
    before = model.get_weights()
    limited(model, 0)
    with pytest.raises(
        OutOfMemoryError,
        match=r"a training step of 2 examples, from which kernels are compiled, does not fit into memory; 0 MB are "
        r'free: take a smaller network, .* backend="numba"\. Received: Out of memory allocating',
    ):
        model.warm_up()
    state.default_pool.set_limit(0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.warm_up() >= 0


@pytest.mark.parametrize("way", ["resident", "staged", "generator"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_each_request_that_fails_in_fit(cupy, monkeypatch, way, lasting):
    """Once: the same losses. For good: the same, or an OutOfMemoryError, and never CuPy's; then it goes on."""
    if way == "staged":
        monkeypatch.setattr(feed, "BUDGET", 0)

    def run(model):
        if way == "generator":
            batches = ((X[i : i + 12], T[i : i + 12]) for i in (0, 12, 0, 12))
            return model.fit(batches, epochs=2, steps_per_epoch=2, verbose=0).history["loss"]
        return model.fit(X, T, 12, 2, verbose=0).history["loss"]

    def built():
        state.default_pool.set_limit(0)
        model = network(cupy, norm=True)
        model.params  # noqa: B018  made now
        return model

    expected = run(built())
    with monkeypatch.context() as patch:
        count = failing(patch, lambda number, size: False)
        run(built())
        total = count[0]
    ended = set()
    for k in np.unique(np.linspace(1, total + 1, 9 if lasting else 14).astype(int)):
        model = built()
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", OutOfMemoryWarning)
            failing(patch, lambda number, size, k=k: number >= k if lasting else number == k)
            try:
                assert run(model) == expected
                ended.add("done")
            except OutOfMemoryError as error:
                ended.add("told")
                assert lasting, error
                assert "Received: " in str(error)
    assert np.isfinite(run(model)).all()
    assert ended == ({"done", "told"} if lasting else {"done"})


def test_an_optimizers_state_is_made_whole_or_not_at_all(cupy, monkeypatch):
    """Moved here from the host, and from arrays by name to one flat buffer, whichever request fails."""
    plain = get_backend("numpy")
    values = {name: np.ones(3) for name in ("a", "b")}

    def used():
        rule, params = optimizers.Adam(0.1), Parameters(plain, dict.fromkeys(values, (3,)), "float64")
        with monkeypatch.context() as patch:
            patch.setenv("XCONV_BACKEND", "numpy")
            rule.update(params, values)  # by name
        return rule, params.to(cupy)

    rule, params = used()
    with monkeypatch.context() as patch:
        count = failing(patch, lambda number, size: False)
        rule.ready(params)
    expected = {name: cupy.to_numpy(a).tobytes() for name, a in rule.state_arrays().items()}
    assert count[0] > 4 and set(expected) == {"hyper", "m", "v"}
    for k in range(1, count[0] + 1):
        rule, params = used()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            failing(patch, lambda number, size, k=k: number == k)
            rule.ready(params)
        rule.ready(params)
        assert {name: cupy.to_numpy(a).tobytes() for name, a in rule.state_arrays().items()} == expected


def test_memory_of_the_host_is_told_likewise(monkeypatch):
    model = network("numpy")
    inner = model.backend.asarray

    def asarray(a, dtype=None):
        if np.size(a) == 7 * X[0].size:
            raise MemoryError("no room")
        return inner(a, dtype)

    monkeypatch.setattr(model.backend, "asarray", asarray)
    with pytest.raises(OutOfMemoryError, match=r"take a smaller batch_size\. Received: no room$"):
        train(model)
    monkeypatch.undo()
    assert len(train(model)) == 2 and len(X) == N
