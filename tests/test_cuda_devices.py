"""Several GPUs: a backend for each, chosen as "cupy:1", whose operations run on it and refuse another's arrays."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import xconv
from tests import standin
from tests.standin import state
from xconv import backend as registry
from xconv.book import SimpleConvNet
from xconv.errors import BackendError

pytestmark = pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")


@pytest.fixture
def two(monkeypatch):
    """A stand-in with two devices; no backend made yet."""
    from tests.standin import module

    before = state.module
    monkeypatch.setattr(state, "devices", 2)
    monkeypatch.setattr(registry, "_made", {})
    monkeypatch.setattr(registry, "_chosen", None)
    monkeypatch.delenv("XCONV_BACKEND", raising=False)
    with standin.modules(module.build(), module.pathfinder()):
        yield
    state.module = before
    assert state.device_stack() == [0], "a device was left current"


@pytest.mark.usefixtures("two")
def test_each_device_has_one_backend(monkeypatch):
    first, second = xconv.get_backend("cupy"), xconv.get_backend("cupy:1")
    assert xconv.get_backend("cupy:0") is first and xconv.get_backend("cupy:1") is second is not first
    assert (first.name, second.name) == ("cupy", "cupy")
    assert (first.address, second.address) == ("cupy", "cupy:1")
    assert [b.describe()["address"] for b in (first, second)] == ["cupy", "cupy:1"]
    monkeypatch.setenv("XCONV_BACKEND", "cupy:1")
    assert xconv.get_backend() is second and SimpleConvNet().backend is second
    assert registry.backend_of(first.asarray(np.zeros(2))) is first
    assert registry.backend_of(second.asarray(np.zeros(2))) is second


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", ["cupy:2", "cupy:17"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(name):
    with pytest.raises(BackendError, match=rf"there is no CUDA device {name[5:]}; .*2 devices, 'cupy:0' to 'cupy:1'"):
        xconv.get_backend(name)


@pytest.mark.usefixtures("two")
def test_one_device_has_no_second(monkeypatch):
    monkeypatch.setattr(state, "devices", 1)
    with pytest.raises(BackendError, match=r"there is no CUDA device 1; take one that is there .one device, 'cupy'."):
        xconv.get_backend("cupy:1")


@pytest.mark.parametrize("name", ["cupy:", "cupy:-1", "cupy:01", "cupy:x", "cupy:1:1", "numpy:0", "numba:1", "auto:1"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(BackendError, match=r"unknown backend: .*'cupy:1' for the second of several GPUs"):
        xconv.get_backend(name)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.usefixtures("two")
def test_arrays_of_another_device_are_refused():
    first, second = xconv.get_backend("cupy"), xconv.get_backend("cupy:1")
    here, there = first.asarray(draw(2, 2)), second.asarray(draw(2, 2))
    assert (here.device.id, there.device.id) == (0, 1)
    for backend, array, name in ((first, there, "'cupy', on GPU 0"), (second, here, "'cupy:1', on GPU 1")):
        with pytest.raises(BackendError, match=rf"relu: expected arrays of backend {name} .*Received: .* 'cupy"):
            backend.relu(array)
    moved = second.asarray(here)  # asked for by name
    assert moved.device.id == 1 and np.array_equal(second.to_numpy(moved), first.to_numpy(here))
    assert np.array_equal(second.to_numpy(second.relu(moved)), np.maximum(draw(2, 2), 0))


@pytest.mark.usefixtures("two")
def test_operations_run_on_their_device_whichever_is_current():
    second = xconv.get_backend("cupy:1")
    x, w = draw(2, 3, 6, 6), draw(4, 3, 3, 3)
    expected = xconv.get_backend("numpy").conv2d(x, w, draw(4), (1, 1), (1, 1, 1, 1))[0]
    for current in (0, 1):
        with second.xp.cuda.Device(current):
            y, _ = second.conv2d(*(second.asarray(a) for a in (x, w, draw(4))), (1, 1), (1, 1, 1, 1))
            assert y.device.id == second.empty((3,), "float32").device.id == 1
            np.testing.assert_allclose(second.to_numpy(y), expected, atol=1e-4)
            assert state.current_device() == current
    with second.running():
        assert state.current_device() == 1
        assert (second.asarray(np.ones(3)) + 1.0).device.id == 1


@pytest.mark.usefixtures("two")
def test_two_models_train_side_by_side_each_on_its_device():
    x, t = np.random.default_rng(0).random((20, 1, 28, 28)), np.arange(20) % 10
    models = [SimpleConvNet(backend=name, seed=3) for name in ("cupy", "cupy:1")]
    for model in models:
        model.compile("adam")
        model.fit(x, t, 10, verbose=0, validation_data=(x[:4], t[:4]))
    for device, model in enumerate(models):
        parts = [*model.params.values(), *next(iter(model.optimizer._state.values())).values()]
        assert {part.device.id for part in parts} == {device}
    first, second = ([w.tobytes() for w in model.get_weights()] for model in models)
    assert first == second
    models[0].to("cupy:1")
    assert models[0].backend is models[1].backend
    assert models[0].predict(x).tobytes() == models[1].predict(x).tobytes()


@pytest.mark.usefixtures("two")
def test_a_thread_of_its_own_uses_the_backends_device():
    second, found = xconv.get_backend("cupy:1"), []
    thread = threading.Thread(target=lambda: found.append(second.relu(second.asarray(draw(2, 2))).device.id))
    thread.start()
    thread.join()
    assert found == [1]


@pytest.mark.usefixtures("two")
def test_a_saved_model_says_cupy_and_loads_anywhere(tmp_path):
    model = SimpleConvNet(backend="cupy:1", seed=1)
    model.save(tmp_path / "net.safetensors")
    assert b"cupy:1" not in (tmp_path / "net.safetensors").read_bytes()
    assert xconv.load(tmp_path / "net.safetensors", backend="numpy").backend.name == "numpy"


def test_a_name_in_a_shell(run):
    for args in (["backends", "numpy:1"], ["train", "--backend", "cupy:x"]):
        code, out, err = run(*args)
        assert (code, out) == (2, "") and "is not one of" in err and "'cupy:1' for a second GPU" in err
