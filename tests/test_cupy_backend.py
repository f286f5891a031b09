"""The CuPy backend on the stand-in, operation by operation, against the definitions; on a device where there is one."""

from __future__ import annotations

import inspect
import multiprocessing

import numpy as np
import pytest

from tests import standin
from tests.tolerances import TOLERANCES
from xconv import backend as backends
from xconv.backend import Backend, Need
from xconv.errors import BackendError, DTypeError, ShapeError


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


def draw(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def same(cupy, operation, *args, **kwargs):
    """Call the operation on the device and on NumPy; results must agree in shape, dtype and value."""
    numpy = backends.get_backend("numpy")
    there = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    here = [np.array(a) if isinstance(a, np.ndarray) else a for a in args]
    got, expected = getattr(cupy, operation)(*there, **kwargs), getattr(numpy, operation)(*here, **kwargs)
    if got is None:  # in place: the first arguments are what changes
        got, expected = there, here
    compare(cupy, got, expected, operation)
    return got, expected


def compare(cupy, got, expected, what):
    if isinstance(expected, tuple | list):
        for g, e in zip(got, expected, strict=True):
            compare(cupy, g, e, what)
    elif isinstance(expected, np.ndarray):
        assert isinstance(got, cupy.array_type), what
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
        assert got.flags.c_contiguous, what
        got = cupy.to_numpy(got)
        if expected.dtype.kind != "f":
            assert np.array_equal(got, expected), what
        elif expected.size:
            limit = TOLERANCES["device", expected.dtype.name] * np.abs(expected[np.isfinite(expected)]).max()
            np.testing.assert_allclose(got, expected, rtol=0, atol=limit, err_msg=what)


# ---------------------------------------------------------------------- operations

WINDOWS = [  # x_shape, kernel, stride, pads
    ((2, 3, 8, 7), (3, 3), (1, 1), (0, 0, 0, 0)),
    ((3, 2, 9, 6), (2, 3), (2, 1), (1, 0, 2, 1)),
    ((1, 1, 5, 5), (5, 5), (3, 3), (2, 2, 2, 2)),
    ((2, 1, 20, 18), (17, 17), (1, 1), (0, 0, 0, 0)),  # more than 256 entries in a window
]


@pytest.mark.parametrize(("x_shape", "kernel", "stride", "pads"), WINDOWS)
def test_columns_and_pooling(cupy, dtype, x_shape, kernel, stride, pads):
    x = np.round(draw(*x_shape, dtype=dtype), 1)  # ties
    for dilation in [(1, 1)] + [(2, 1)] * (kernel[0] < 4):
        (col, _) = same(cupy, "im2col", x, kernel, stride, pads, dilation)
        values = draw(*col.shape, dtype=dtype, seed=1)
        same(cupy, "col2im", values, x_shape, kernel, stride, pads, dilation)
    (y, argmax), _ = same(cupy, "max_pool", x, kernel, stride, pads)
    dy, where = draw(*y.shape, dtype=dtype, seed=2), cupy.to_numpy(argmax)
    same(cupy, "max_pool_backward", dy, where, x_shape, kernel, stride, pads)
    same(cupy, "avg_pool", x, kernel, stride, pads)
    same(cupy, "avg_pool_backward", dy, x_shape, kernel, stride, pads)


def test_max_pool_of_nan(cupy, dtype):
    x = draw(2, 3, 6, 6, dtype=dtype)
    x[0, 0, 1, :3] = np.nan
    x[1, 2] = -np.inf
    same(cupy, "max_pool", x, (3, 2), (2, 2), (1, 1, 0, 0))


@pytest.mark.parametrize("workspace", [1 << 30, 2000])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("x_shape", "kernel", "stride", "pads"), WINDOWS[:3])
def test_conv2d(cupy, dtype, monkeypatch, x_shape, kernel, stride, pads, activation, workspace):
    monkeypatch.setattr(cupy, "workspace", workspace)  # whole, or in parts
    x, w, b = draw(*x_shape, dtype=dtype), draw(4, x_shape[1], *kernel, dtype=dtype, seed=1), draw(4, dtype=dtype)
    numpy = backends.get_backend("numpy")
    there = [cupy.asarray(a) for a in (x, w, b)]
    for dilation in [(1, 1)] + [(1, 2)] * (kernel[1] < 4):
        y, saved = cupy.conv2d(*there, stride, pads, dilation, activation)
        expected, kept = numpy.conv2d(x, w, b, stride, pads, dilation, activation)
        compare(cupy, y, expected, "conv2d")
        dy = draw(*expected.shape, dtype=dtype, seed=2)
        for need in (Need(), Need(x=False), Need(params=False)):
            got = cupy.conv2d_backward(cupy.asarray(dy), saved, need)
            compare(cupy, got, numpy.conv2d_backward(dy, kept, need), "conv2d_backward")
            assert [g is None for g in got] == [not need.x, not need.params, not need.params]


@pytest.mark.parametrize("workspace", [1 << 30, 2000])
@pytest.mark.parametrize("pool", [((2, 2), (2, 2)), ((3, 2), (1, 2))])
def test_conv2d_relu_max_pool(cupy, dtype, monkeypatch, pool, workspace):
    monkeypatch.setattr(cupy, "workspace", workspace)
    x, w, b = draw(3, 2, 9, 8, dtype=dtype), draw(4, 2, 3, 3, dtype=dtype, seed=1), draw(4, dtype=dtype)
    numpy = backends.get_backend("numpy")
    y, saved = cupy.conv2d_relu_max_pool(*(cupy.asarray(a) for a in (x, w, b)), (1, 1), (1, 1, 1, 1), *pool)
    expected, kept = numpy.conv2d_relu_max_pool(x, w, b, (1, 1), (1, 1, 1, 1), *pool)
    compare(cupy, y, expected, "conv2d_relu_max_pool")
    dy = draw(*expected.shape, dtype=dtype, seed=2)
    got = cupy.conv2d_relu_max_pool_backward(cupy.asarray(dy), saved)
    compare(cupy, got, numpy.conv2d_relu_max_pool_backward(dy, kept), "conv2d_relu_max_pool_backward")


def test_long_rows_are_summed_in_parts(cupy, dtype):
    dy, x, w = draw(2, 1, 200, 100, dtype=dtype), draw(2, 1, 200, 100, dtype=dtype), draw(1, 1, 1, 1, dtype=dtype)
    _, saved = cupy.conv2d(cupy.asarray(x), cupy.asarray(w), cupy.asarray(w.ravel()), (1, 1), (0, 0, 0, 0))
    _, _, db = cupy.conv2d_backward(cupy.asarray(dy), saved)
    compare(cupy, db, dy.sum(axis=(0, 2, 3), dtype="f8").astype(dtype), "db")
    again = cupy.conv2d_backward(cupy.asarray(dy), saved)[2]
    assert cupy.to_numpy(db).tobytes() == cupy.to_numpy(again).tobytes()


@pytest.mark.parametrize("n", [1, 7])
def test_dense_relu_and_loss(cupy, dtype, n):
    x, w, b, dy = draw(n, 5, dtype=dtype), draw(5, 40, dtype=dtype), draw(40, dtype=dtype), draw(n, 40, dtype=dtype)
    same(cupy, "dense", x, w, b)
    for need in (Need(), Need(x=False), Need(params=False)):
        same(cupy, "dense_backward", dy, x, w, need)
    y, _ = same(cupy, "relu", dy)
    same(cupy, "relu_backward", x @ w, cupy.to_numpy(y))
    labels = np.random.default_rng(0).integers(0, 40, n)
    same(cupy, "softmax_cross_entropy", dy * 100, labels)


MATRICES = {  # the same values, lying otherwise in memory
    "whole": lambda xp, a: a,
    "transposed": lambda xp, a: a.T.copy().T,
    "rows of a wider one": lambda xp, a: _inside(xp, a)[:, 2:-1],
    "columns of a taller one": lambda xp, a: _inside(xp, a.T)[:, 2:-1].T,
    "every second column": lambda xp, a: _spread(xp, a)[:, ::2],
    "upside down": lambda xp, a: a[::-1].copy()[::-1],
}


def _inside(xp, a):
    wide = xp.full((a.shape[0], a.shape[1] + 3), np.nan, a.dtype)
    wide[:, 2:-1] = a
    return wide


def _spread(xp, a):
    wide = xp.full((a.shape[0], 2 * a.shape[1]), np.nan, a.dtype)
    wide[:, ::2] = a
    return wide


@pytest.mark.parametrize("left", MATRICES)
@pytest.mark.parametrize("right", MATRICES)
def test_matmul_of_views(cupy, dtype, left, right):
    for m, k, p in [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (1, 6, 1)]:
        a, b = draw(m, k, dtype=dtype), draw(k, p, dtype=dtype, seed=1)
        there = MATRICES[left](cupy.xp, cupy.asarray(a)), MATRICES[right](cupy.xp, cupy.asarray(b))
        compare(cupy, cupy.matmul(*there), a @ b, f"{m},{k},{p}")


def test_matmul_of_nothing(cupy):
    assert cupy.matmul(cupy.asarray(draw(0, 3)), cupy.asarray(draw(3, 2))).shape == (0, 2)
    assert cupy.to_numpy(cupy.matmul(cupy.asarray(draw(2, 0)), cupy.asarray(draw(0, 3)))).tolist() == [[0.0] * 3] * 2
    with pytest.raises(ShapeError, match="does not fit"):
        cupy.matmul(cupy.asarray(draw(2, 3)), cupy.asarray(draw(2, 3)))


@pytest.mark.parametrize(
    ("name", "slots", "settings"),
    [
        ("sgd", 0, ()),
        ("momentum", 1, (0.9, False)),
        ("momentum", 1, (0.9, True)),
        ("adagrad", 1, (1e-7,)),
        ("rmsprop", 1, (0.9, 1e-7)),
        ("adam", 2, (0.9, 0.999, 1e-7, 0.0)),
        ("adam", 2, (0.9, 0.999, 1e-7, 0.05)),
    ],
)
def test_optimizers(cupy, dtype, name, slots, settings):
    p, g, hyper = draw(500, dtype=dtype), draw(500, dtype=dtype, seed=1), np.array([0.05, 3.0])
    state = [np.abs(draw(500, dtype=dtype, seed=2 + i)) for i in range(slots)]
    same(cupy, name, p, g, *state, hyper, *settings)


def test_empty_batch(cupy):
    x, w, b = cupy.asarray(draw(0, 2, 6, 6)), cupy.asarray(draw(3, 2, 3, 3)), cupy.asarray(draw(3))
    y, saved = cupy.conv2d(x, w, b, (1, 1), (0, 0, 0, 0))
    dx, dw, db = cupy.conv2d_backward(y, saved)
    assert (y.shape, dx.shape) == ((0, 3, 4, 4), (0, 2, 6, 6))
    assert not cupy.to_numpy(dw).any() and not cupy.to_numpy(db).any()
    assert cupy.max_pool(x, (2, 2), (2, 2), (0, 0, 0, 0))[0].shape == (0, 2, 3, 3)


def test_asarray_and_describe(cupy):
    given = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::-1]
    there = cupy.asarray(given)
    assert there.dtype.isnative and there.flags.c_contiguous
    assert np.array_equal(cupy.to_numpy(there), given)
    assert cupy.asarray(there) is there
    assert cupy.asarray(there, "float64").dtype == np.float64
    with pytest.raises(DTypeError, match="expected numbers"):
        cupy.asarray(np.array([None]))
    about = cupy.describe()
    assert about["backend"] == "cupy" and about["version"].startswith("cupy ")
    cupy.synchronize()


def test_same_signatures_as_the_interface():
    from xconv.backend.cupy_backend import CupyBackend

    for name, method in vars(CupyBackend).items():
        if not name.startswith("_") and callable(method):
            assert inspect.signature(method) == inspect.signature(getattr(Backend, name)), name


# ---------------------------------------------------------------------- what is refused


def test_host_arrays_are_refused(cupy):
    x, w = draw(2, 3), draw(3, 2)
    calls = [
        lambda: cupy.matmul(cupy.asarray(x), w),
        lambda: cupy.relu(x),
        lambda: cupy.dense(cupy.asarray(x), cupy.asarray(w), draw(2)),
        lambda: cupy.conv2d(draw(1, 1, 3, 3), draw(1, 1, 2, 2), draw(1), (1, 1), (0, 0, 0, 0)),
        lambda: cupy.max_pool_backward(cupy.asarray(draw(1, 1, 1, 1)), np.zeros((1, 1, 1, 1), "u1"), (1, 1, 2, 2),
                                       (2, 2), (2, 2), (0, 0, 0, 0)),
        lambda: cupy.softmax_cross_entropy(cupy.asarray(x), np.array([0, 1])),
        lambda: cupy.sgd(cupy.asarray(x), cupy.asarray(x), np.zeros(2)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(BackendError, match=r"asarray.*Received: numpy.ndarray"):
            call()


def test_wrong_dtypes_and_shapes_are_refused(cupy):
    x, wide = cupy.asarray(draw(2, 3)), cupy.asarray(draw(2, 3, dtype="float64"))
    with pytest.raises(DTypeError, match="float32, float64"):
        cupy.relu_backward(x, wide)
    with pytest.raises(DTypeError, match="int64"):
        cupy.relu(cupy.asarray(np.arange(3)))
    with pytest.raises(DTypeError, match="hyper"):
        cupy.sgd(x, x, cupy.asarray(np.zeros(2, "f4")))
    with pytest.raises(ShapeError, match="gradient and state"):
        cupy.adagrad(x, x, cupy.asarray(draw(3, 2)), cupy.asarray(np.zeros(2)), 1e-7)
    with pytest.raises(BackendError, match="C-contiguous"):
        cupy.sgd(x.T, x.T, cupy.asarray(np.zeros(2)))
    with pytest.raises(ShapeError, match="channels"):
        cupy.conv2d(*(cupy.asarray(a) for a in (draw(1, 2, 4, 4), draw(1, 3, 2, 2), draw(1))), (1, 1), (0, 0, 0, 0))
    with pytest.raises(ShapeError, match="labels"):
        cupy.softmax_cross_entropy(x, cupy.asarray(np.array([0])))
    with pytest.raises(DTypeError, match="argmax"):
        shape = (1, 1, 1, 1)
        there = [cupy.asarray(draw(*shape)), cupy.asarray(np.zeros(shape, "i8"))]
        cupy.max_pool_backward(*there, (1, 1, 2, 2), (2, 2), (2, 2), (0, 0, 0, 0))


def _in_child(queue):
    try:
        standin.install().relu(standin.install().asarray(draw(3)))
    except BackendError as error:
        queue.put(str(error))
    else:
        queue.put("no error")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
def test_a_forked_child_is_told_to_spawn():
    standin.install()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert 'get_context("spawn")' in queue.get()
    child.join()
