"""The stand-in refuses what CuPy and CUDA refuse, so that what passes on it has a chance on a device."""

from __future__ import annotations

import importlib.util
import operator
from concurrent.futures import ThreadPoolExecutor

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


LAYER_WORK = {  # what layers and losses are written with, each as NumPy has it too
    "exp": lambda xp, a, b: xp.exp(a), "tanh": lambda xp, a, b: xp.tanh(a), "log": lambda xp, a, b: xp.log(xp.abs(a)),
    "sign": lambda xp, a, b: xp.sign(a), "sqrt": lambda xp, a, b: xp.sqrt(a * a), "abs": lambda xp, a, b: abs(-a),
    "where": lambda xp, a, b: xp.where(a > 0, a, 0.1 * a), "where of two": lambda xp, a, b: xp.where(a < b, a, b),
    "minimum": lambda xp, a, b: xp.minimum(a, b), "maximum": lambda xp, a, b: xp.maximum(a, 0.0),
    "clip": lambda xp, a, b: xp.clip(a, -0.5, 0.5), "its method": lambda xp, a, b: a.clip(0, None),
    "concatenate": lambda xp, a, b: xp.concatenate([a, b], axis=1),
    "all in a line": lambda xp, a, b: xp.concatenate((a, b), None),
    "zeros_like": lambda xp, a, b: xp.zeros_like(a) + xp.ones_like(b),
    "sum": lambda xp, a, b: a.sum(axis=(2, 3), keepdims=True), "of all": lambda xp, a, b: xp.sum(a),
    "mean": lambda xp, a, b: xp.mean(a, axis=(0, 2, 3)), "max": lambda xp, a, b: a.max(axis=(2, 3)),
    "max, kept": lambda xp, a, b: xp.max(a, axis=1, keepdims=True), "var": lambda xp, a, b: a.var(axis=(0, 2)),
    "broadcasting": lambda xp, a, b: (1 - a) * b[:1, :1] / 3 + 2.0**b.sum(axis=(2, 3))[:, :, None, None],
    "comparisons": lambda xp, a, b: (a >= b) & (a != 0) | ~(a <= 1), "times a mask": lambda xp, a, b: a * (b > 0),
    "mask plus mask": lambda xp, a, b: (a > 0).sum(axis=0), "steps": lambda xp, a, b: a[:, ::-1, 1::2, ::3] * 2,
    "transpose": lambda xp, a, b: xp.ascontiguousarray(a.transpose(0, 2, 3, 1)).reshape(2, -1) + 1,
    "rounding away": lambda xp, a, b: a.astype("float64").sum(), "power": lambda xp, a, b: (a * a + 1) ** -0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", LAYER_WORK)
def test_what_layers_are_written_with(xp, name):
    a, b = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5)).astype("float32")
    expected = LAYER_WORK[name](np, a, b)
    got = LAYER_WORK[name](xp, xp.asarray(a), xp.asarray(b))
    assert isinstance(got, xp.ndarray) and got.flags.c_contiguous
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(got.get(), expected)


def test_results_are_put_where_out_says(xp):
    a = xp.asarray(np.arange(6, dtype="float32").reshape(2, 3))
    out, total = xp.empty((2, 3), "float32"), xp.empty((2,), "float32")
    for result in (
        xp.maximum(a, 2, out=out),
        xp.clip(a, 2, None, out),
        xp.multiply(a, 1.0, out=out),
        xp.exp(a, out=out),
    ):
        assert result is out
    assert np.array_equal(out.get(), np.exp(np.arange(6, dtype="float32")).reshape(2, 3))
    assert a.sum(axis=1, out=total) is total and total.get().tolist() == [3.0, 12.0]
    assert xp.max(a, 1, total) is total and total.get().tolist() == [2.0, 5.0]
    with pytest.raises(TypeError):
        xp.maximum(a, 2, out=np.empty((2, 3), "float32"))
    with pytest.raises(TypeError, match="same_kind"):
        xp.exp(a, out=xp.empty((2, 3), "int64"))


def test_what_numpy_takes_and_cupy_does_not(xp):
    a = xp.ones((2, 3), "float32")
    for refused in (
        lambda: xp.maximum(a, 0, where=a > 0), lambda: xp.maximum(a, [1.0, 2.0, 3.0]), lambda: a.sum(where=a > 0),
        lambda: a.max(axis=0, initial=0.0), lambda: xp.sum([1.0, 2.0]), lambda: xp.concatenate([a, [[1.0] * 3]]),
        lambda: xp.clip(a, a_min=0), lambda: xp.where(a > 0, a, 0, out=a), lambda: xp.mean(a, 0, None, None, 0, 0),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            refused()
    with pytest.raises(ValueError, match="Must provide both"):
        xp.where(a > 0, a)
    with pytest.raises(AttributeError):
        xp.where(True, a, a)
    before = standin.state.transfers
    assert [found.get().tolist() for found in xp.where(a > 0)] == [[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]
    assert standin.state.transfers > before  # how many there are must be known on the host


def test_copies_keep_the_order_of_axes(xp):
    """What comes of a transposed view lies in memory as it does, as in NumPy; arithmetic gives C order."""
    views = [
        lambda a: a, lambda a: a.T, lambda a: a.transpose(1, 0, 2), lambda a: a[:, ::2], lambda a: a[:, :, 1:].T,
        lambda a: a[0, 0, 0],
    ]  # fmt: skip
    for seen in views:
        host = seen(np.arange(24.0).reshape(2, 3, 4))
        view = seen(xp.asarray(np.arange(24.0).reshape(2, 3, 4)))
        for name in ("zeros_like", "ones_like", "empty_like"):
            assert getattr(xp, name)(view, "float32").strides == getattr(np, name)(host, "float32").strides
        assert xp.full_like(view, 7).strides == np.full_like(host, 7).strides
        cast = view.astype("float32")
        assert cast.strides == host.astype("float32").strides and np.array_equal(cast.get(), host)
        assert view.astype("float32", order="C").flags.c_contiguous and (view + 1).flags.c_contiguous


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
        (lambda: xp.concatenate([a] * 9), device.CUDARuntimeError),
        (lambda: xp.zeros(1 << 20), device.CUDARuntimeError),
        (lambda: xp.RawModule(code="").get_function("f"), device.CUDARuntimeError),
    ]:
        with recording(), pytest.raises(error):
            refused()
    with pytest.raises(RuntimeError, match="default"):
        device.Stream.null.begin_capture()


def test_waiting_spoils_a_capture(backend):
    """CUDA lets nobody wait for what is only captured, and ends such a capture without a graph, whoever asked."""
    cuda, event = backend.xp.cuda, backend.xp.cuda.Event()

    def refused_to_a_thread():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(cuda.Device().synchronize).result()

    def waits_for_an_event_inside():
        event.record()
        event.synchronize()

    for refused in (
        lambda: cuda.Device().synchronize(), lambda: cuda.get_current_stream().synchronize(),
        waits_for_an_event_inside, lambda: cuda.get_current_stream().wait_event(cuda.Event()), refused_to_a_thread,
    ):  # fmt: skip
        spoilt = pytest.raises(device.CUDARuntimeError, match="Invalidated")
        with spoilt, recording(), pytest.raises(device.CUDARuntimeError, match="Unsupported"):
            refused()
    with recording():
        backend.xp.ones(2)


def test_a_capture_may_forbid_the_default_stream(backend):
    """To all threads, where its stream waits for the default one."""
    a = backend.xp.ones(2)
    with ThreadPoolExecutor(1) as pool:
        with recording():
            assert pool.submit(lambda: float((a + a)[0])).result() == 2.0
        with pytest.raises(device.CUDARuntimeError, match="Invalidated"), recording(device.Stream()):
            assert isinstance(pool.submit(lambda: a + a).exception(), device.CUDARuntimeError)


def test_a_graph_needs_its_memory(backend):
    """What a replay would read and write must be there still: arrays from before, and the pool it was captured with."""
    cuda = backend.xp.cuda

    def captured(step):
        pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
        with cuda.using_allocator(pool.malloc), stream:
            step()
            stream.begin_capture()
            step()
            return stream.end_capture(), pool

    held = {"x": backend.asarray(np.ones((2, 2)))}
    graph, pool = captured(lambda: held["x"] + 1.0)
    graph.launch()
    held["x"] = held["x"] * 2.0  # rebound: nobody has the array that the graph reads
    with pytest.raises(device.CUDARuntimeError, match="an array that a captured graph uses is gone"):
        graph.launch()

    held["x"] = backend.asarray(np.ones((2, 2)))
    graph, pool = captured(lambda: backend.matmul(held["x"], held["x"]))
    graph.launch()
    pool.free_all_blocks()
    with pytest.raises(device.CUDARuntimeError, match="gave memory back"):
        graph.launch()
    graph, pool = captured(lambda: held["x"] + 1.0)
    del pool
    with pytest.raises(device.CUDARuntimeError, match="gave memory back"):
        graph.launch()
    graph, pool = captured(lambda: backend.matmul(held["x"], held["x"]))
    assert pool.total_bytes()
    held.clear()
    with pytest.raises(device.CUDARuntimeError, match="is gone"):
        graph.launch()


def test_the_order_of_streams_is_known(backend, monkeypatch):
    """Where `ordered` is asked for, work must wait for that on other streams: by events, or through the host."""
    a, (one, other) = backend.xp.ones(2), (device.Stream(non_blocking=True) for _ in range(2))
    backend.synchronize()
    monkeypatch.setattr(standin.state, "ordered", True)
    with one:
        a += 1
    with pytest.raises(AssertionError, match="does not wait"), other:
        a += 1
    other.wait_event(one.record())
    with other:
        a += 1
    with one, pytest.raises(AssertionError, match="does not wait"):
        a.get()
    other.synchronize()
    with one:
        assert a.get().tolist() == [3.0, 3.0]
    a += 1
    backend.synchronize()
    with other:
        a += 1


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
    ours = ("_host", "_memory", "_past", "_numbers", "__dict__", "__weakref__", "__module__")
    own = [name for name in missing if not name.endswith(ours)]
    assert own == []
