"""The stand-in refuses what CuPy and CUDA refuse, so that what passes on it has a chance on a device."""

from __future__ import annotations

import importlib.util
import operator

import numpy as np
import pytest

from tests import standin
from tests.standin import device, module, record, recording

pytestmark = pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")


@pytest.fixture
def backend():
    return standin.install()


@pytest.fixture
def xp(backend):
    return backend.xp


def test_no_implicit_conversion(xp):
    a, host = xp.ones((2, 3), "float32"), np.ones((2, 3), "float32")
    for refused in (
        lambda: np.asarray(a), lambda: a + host, lambda: host * a, lambda: operator.iadd(a, host),
        lambda: np.add(a, host), lambda: xp.maximum(a, host), lambda: np.where(a > 0, a, host),
        lambda: a.__setitem__(0, host[0]), lambda: np.concatenate([a, host]), lambda: xp.zeros(3, object),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            refused()


def test_numpy_functions_stay_on_the_device(xp):
    a = xp.asarray(np.array([4.0, 9.0], "float32"))
    for got in (
        np.sqrt(a),
        np.zeros_like(a),
        a / (np.sqrt(a) + 1e-7),
        np.maximum(a, 0),
        np.sum(a),
        np.where(a > 5, a, 0),
    ):
        assert isinstance(got, xp.ndarray) and got.dtype == np.float32
    assert np.sqrt(a).get().tolist() == [2.0, 3.0]
    assert (a * np.float64(2)).dtype == np.float64  # NumPy 2 promotion
    out = xp.empty(2, "float32")
    assert np.add(a, 1, out=out) is out and out.get().tolist() == [5.0, 10.0]
    assert a.sum().shape == () and isinstance(a[0], xp.ndarray)


def test_views_share_memory_and_copies_do_not(xp):
    a = xp.arange(12, dtype="float32").reshape(3, 4)
    assert a.T.data.ptr == a.data.ptr and a[1, 2].data.ptr == a.data.ptr + 24
    a[1:] += 1
    a.T[0] = 7
    assert a.get().tolist() == [[7, 1, 2, 3], [7, 6, 7, 8], [7, 10, 11, 12]]
    assert a.T.reshape(-1).data.ptr != a.data.ptr
    assert np.isnan(xp.empty(5, "float32").get()).all()  # what nobody wrote is no number


def test_transfers_are_counted(xp):
    a = xp.ones(2)
    before = standin.state.transfers
    for n, transfer in enumerate([a.get, lambda: float(a[0]), lambda: bool(a[0]), lambda: xp.asarray([1.0])], start=1):
        transfer()
        assert standin.state.transfers == before + n


def test_what_a_capture_refuses(backend):
    xp = backend.xp
    a = xp.ones((2, 2), "float32")
    a @ a
    for refused, error in [
        (a.get, device.CUDARuntimeError),
        (lambda: float(a[0, 0]), device.CUDARuntimeError),
        (lambda: bool(a.any()), device.CUDARuntimeError),
        (lambda: a.set(np.ones((2, 2), "float32")), device.CUDARuntimeError),
        (lambda: backend.asarray(np.ones(2)), device.CUDARuntimeError),
        (lambda: a @ a, NotImplementedError),
        (lambda: xp.dot(a, a), NotImplementedError),
        (lambda: xp.random.rand(3), NotImplementedError),
        (lambda: a[a > 0], device.CUDARuntimeError),
        (backend.synchronize, device.CUDARuntimeError),
        (lambda: xp.cuda.get_current_stream().synchronize(), device.CUDARuntimeError),
        (lambda: xp.zeros(1 << 20), device.CUDARuntimeError),
        (lambda: xp.RawModule(code="").get_function("f"), device.CUDARuntimeError),
    ]:
        with recording(), pytest.raises(error):
            refused()
    with pytest.raises(RuntimeError, match="default"):
        device.Stream.null.begin_capture()


def test_work_on_another_stream_spoils_a_capture(backend):
    a, b = backend.xp.ones((2, 2), "float32"), backend.xp.ones((2, 2), "float32")
    with recording(), device.Stream(), pytest.raises(device.CUDARuntimeError, match="another stream"):
        a += b


def test_a_graph_replays_the_same_addresses(backend):
    xp = backend.xp
    x, w, total = xp.zeros((3, 4), "float32"), backend.asarray(np.ones((4, 2), "float32")), xp.zeros((3, 2), "float32")

    def step():
        y = backend.relu(backend.matmul(x, w))  # a kernel of ours, a matrix product
        total[...] += np.sqrt(y) * 2.0  # and CuPy's own

    launch, _ = record(backend, step)
    x.fill(1.0)
    assert not total.get().any()  # capturing runs nothing
    launch()
    launch()
    assert total.get().tolist() == [[8.0, 8.0]] * 3


def test_names_that_the_stand_in_offers_exist_in_cupy():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    import cupy

    assert cupy is not standin.state.module
    names = [*module.UFUNCS, *module.FUNCTIONS, *module.BLAS, *module.CONSTANTS]
    names += [name for name in vars(module.build()) if not name.startswith("__")]
    missing = [name for name in names if not hasattr(cupy, name)]
    missing += [f"cuda.{name}" for name in vars(module._cuda()) if not hasattr(cupy.cuda, name)]
    missing += [f"runtime.{name}" for name in vars(module._cuda().runtime) if not hasattr(cupy.cuda.runtime, name)]
    missing += [f"ndarray.{name}" for name in vars(standin.array.ndarray) if not hasattr(cupy.ndarray, name)]
    missing += [f"Stream.{name}" for name in vars(device.Stream) if not hasattr(cupy.cuda.Stream, name)]
    ours = ("_host", "_memory", "_before", "_numbers", "__dict__", "__weakref__", "__module__")
    own = [name for name in missing if not name.endswith(ours)]
    assert own == []
