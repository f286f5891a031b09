"""Convolution by cuDNN on the CuPy backend, on the stand-in's strict cuDNN, against naive loops."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference, standin
from tests.standin import cudnn, record
from xconv import optimizers
from xconv.backend import Need, get_backend
from xconv.book import SimpleConvNet
from xconv.data import mnist
from xconv.errors import BackendError, ConfigError, ShapeError

pytestmark = pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")

# Of the largest entry: TF32 cuts inputs to 10 bits, bfloat16 rounds them to 8 and the result as well.
TOLERANCES = {"float32": 1e-5, "tf32": 3e-3, "bf16": 2e-2}
SMALL = {"conv_param": {"filter_num": 6, "filter_size": 5, "pad": 0, "stride": 1}, "hidden_size": 20}
CASES = [  # x, w, stride, pads, dilation
    ((2, 3, 8, 7), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 2, 9, 6), (5, 2, 2, 3), (2, 1), (1, 0, 2, 1), (1, 1)),
    ((2, 2, 9, 9), (3, 2, 3, 3), (1, 2), (2, 2, 2, 2), (2, 3)),
    ((1, 1, 5, 5), (1, 1, 5, 5), (3, 3), (2, 2, 2, 2), (1, 1)),
    ((5, 6, 4, 4), (4, 3, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),  # two groups
    ((3, 4, 5, 6), (8, 1, 3, 2), (1, 1), (1, 1, 0, 0), (1, 1)),  # depthwise, two filters a channel
]


@pytest.fixture
def cupy(monkeypatch):
    backend = standin.install_with_cudnn()
    monkeypatch.setattr(backend, "_precision", "float32")
    return backend


@pytest.fixture(params=TOLERANCES)
def precision(request, cupy):
    cupy.precision = request.param
    return request.param


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def near(got, expected, precision):
    """Within the precision's tolerance, and no closer than it can be."""
    got = standin.state.module.asnumpy(got)
    assert (got.shape, got.dtype) == (expected.shape, np.float32)
    far = np.abs(got - expected).max() / np.abs(expected).max()
    assert far <= TOLERANCES[precision]
    return far


def by_group(function, x, w, *arrays):
    """The naive loops, group by group; arrays run along the filters."""
    groups = x.shape[1] // w.shape[1]
    parts = [np.split(a, groups, axis=axis) for a, axis in ((x, 1), (w, 0), *arrays)]
    return [function(*part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("workspace", [10**9, 4000])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "pads", "dilation"), CASES)
def test_conv2d(cupy, precision, monkeypatch, x_shape, w_shape, stride, pads, dilation, activation, workspace):
    monkeypatch.setattr(cupy, "workspace", workspace)  # whole, or in parts
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)
    groups = x_shape[1] // w_shape[1]
    given = [cupy.asarray(a) for a in (x, w, b)]
    assert cupy.conv_algorithm(x_shape, w_shape, stride, pads, dilation, activation, groups).startswith("cuDNN")
    y, saved = cupy.conv2d(*given, stride, pads, dilation, activation, groups)
    window = stride, pads, dilation
    maps = np.concatenate(by_group(lambda x, w, b: reference.conv2d(x, w, b, *window), x, w, (b, 0)), axis=1)
    far = near(y, np.maximum(maps, 0) if activation else maps, precision)
    assert far > 1e-5 or precision == "float32"

    dy = draw(*maps.shape, seed=3)
    open_ = cupy.to_numpy(y) > 0 if activation else np.ones(maps.shape)
    back = by_group(lambda x, w, dy: reference.conv2d_backward(dy, x, w, *window), x, w, ((dy * open_).astype("f4"), 1))
    dx, dw, db = (np.concatenate([part[i] for part in back], axis=(1, 0, 0)[i]) for i in range(3))
    for need in (Need(), Need(x=False), Need(params=False)):
        got = cupy.conv2d_backward(cupy.asarray(dy), saved, need)
        assert [g is None for g in got] == [not need.x, not need.params, not need.params]
        for one, expected in zip(got, (dx, dw, db), strict=True):
            if one is not None:
                near(one, expected, precision)
    again = cupy.conv2d_backward(cupy.asarray(dy), saved)
    for one, other in zip(again, cupy.conv2d_backward(cupy.asarray(dy), saved), strict=True):
        assert cupy.to_numpy(one).tobytes() == cupy.to_numpy(other).tobytes()


def test_results_do_not_depend_on_the_workspace(cupy, precision, monkeypatch):
    x, w, b = (cupy.asarray(a) for a in (draw(5, 3, 9, 9), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)))
    got = []
    for workspace in (10**9, 6000):
        monkeypatch.setattr(cupy, "workspace", workspace)
        y, saved = cupy.conv2d(x, w, b, (1, 1), (1, 1, 1, 1), activation="relu")
        got.append([cupy.to_numpy(a) for a in (y, *cupy.conv2d_backward(y, saved))])
        assert (len(saved.route.parts) > 1) is (workspace == 6000)
    for whole, parts in zip(*got, strict=True):
        near(parts, whole, precision)


def test_memory_at_odd_addresses(cupy, precision):
    """Weights and their gradients in the middle of a buffer, and part of a batch: cuDNN wants multiples of 16."""
    x, w, b = draw(3, 1, 5, 5), draw(2, 1, 3, 3, seed=1), draw(2, seed=2)
    whole, buffer, gradients = cupy.asarray(x), cupy.asarray(draw(30)), cupy.asarray(draw(30))
    there = buffer[1:19].reshape(w.shape)
    there[...] = cupy.asarray(w)
    bias = buffer[19:21]
    bias[...] = cupy.asarray(b)
    into = gradients[3:21].reshape(w.shape)
    y, saved = cupy.conv2d(whole[1:], there, bias, (1, 1), (0, 0, 0, 0))
    near(y, reference.conv2d(x[1:], w, b, (1, 1), (0, 0, 0, 0)), precision)
    dy = draw(3, 2, 3, 3, seed=3)
    dx, dw, db = cupy.conv2d_backward(cupy.asarray(dy)[1:], saved, Need(dw=into))
    assert dw is into
    for got, expected in zip(
        (dx, into, db), reference.conv2d_backward(dy[1:], x[1:], w, (1, 1), (0,) * 4), strict=True
    ):
        near(got, expected, precision)


def test_nan_is_kept(cupy, precision):
    x = draw(1, 1, 4, 4)
    x[0, 0, 0, 0] = np.nan
    given = (cupy.asarray(a) for a in (x, np.ones((1, 1, 2, 2), "f4"), np.zeros(1, "f4")))
    y = cupy.to_numpy(cupy.conv2d(*given, (1, 1), (0, 0, 0, 0), activation="relu")[0])
    assert np.isnan(y[0, 0, 0, 0]) and np.isfinite(y).sum() == y.size - 1


# ---------------------------------------------------------------------- the rule


def test_the_rule(cupy, monkeypatch):
    shapes = (2, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1)
    assert cupy.conv_algorithm(*shapes) == "cuDNN float32, NCHW"
    assert cupy.conv_algorithm(*shapes, itemsize=8) == "im2col"
    assert not cupy.fuses_conv_pool((4, 3, 3, 3), (1, 1), (2, 2))
    cupy.precision = "tf32"
    assert cupy.conv_algorithm(*shapes) == "cuDNN tf32, NHWC"
    far = (2, 3, 20, 20), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (5, 1)  # for which the stand-in has no plan
    assert cupy.conv_algorithm(*far) == "im2col (cuDNN has no plan)"
    grouped = (2, 6, 20, 20), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (5, 1)
    assert cupy.conv_algorithm(*grouped, groups=2) == "im2col (cuDNN has no plan), group by group"
    monkeypatch.setattr(cupy, "algorithm", "im2col")
    assert cupy.conv_algorithm(*shapes) == "im2col" and cupy.fuses_conv_pool((4, 3, 3, 3), (1, 1), (2, 2))
    assert standin.install().conv_algorithm(*shapes) == "im2col"


@pytest.mark.parametrize(("x_shape", "w_shape"), [((2, 3, 14, 6), (4, 3, 3, 3)), ((2, 4, 14, 6), (4, 2, 3, 3))])
def test_without_a_plan_our_kernels_run(cupy, precision, x_shape, w_shape):
    x, w, b, window = draw(*x_shape), draw(*w_shape, seed=1), draw(4, seed=2), ((1, 1), (1, 1, 1, 1), (5, 1))
    groups = x_shape[1] // w_shape[1]
    y, saved = cupy.conv2d(*(cupy.asarray(a) for a in (x, w, b)), *window, None, groups)
    expected, kept = get_backend("numpy").conv2d(x, w, b, *window, None, groups)
    near(y, expected, precision)
    for got, one in zip(
        cupy.conv2d_backward(y, saved), get_backend("numpy").conv2d_backward(expected, kept), strict=True
    ):
        near(got, one, precision)


def test_float64_stays_in_float64(cupy, precision):
    x, w, b = (draw(*shape).astype("f8") for shape in ((2, 3, 6, 6), (4, 3, 3, 3), (4,)))
    y, saved = cupy.conv2d(*(cupy.asarray(a) for a in (x, w, b)), (1, 1), (0, 0, 0, 0))
    expected = reference.conv2d(x, w, b, (1, 1), (0, 0, 0, 0))
    assert np.abs(cupy.to_numpy(y) - expected).max() <= 1e-12 * np.abs(expected).max()
    assert cupy.conv2d_backward(y, saved)[0].dtype == np.float64
    product = cupy.to_numpy(cupy.matmul(cupy.asarray(x[0, 0]), cupy.asarray(x[1, 0])))
    assert np.abs(product - x[0, 0] @ x[1, 0]).max() <= 1e-14


def test_wrong_shapes_are_refused_as_without_cudnn(cupy):
    given = [cupy.asarray(a) for a in (draw(1, 4, 5, 5), draw(4, 3, 3, 3), draw(4))]
    with pytest.raises(ShapeError, match="channels"):
        cupy.conv2d(*given, (1, 1), (0, 0, 0, 0))
    with pytest.raises(ShapeError, match="groups"):
        cupy.conv2d(*given, (1, 1), (0, 0, 0, 0), groups=3)
    y, saved = cupy.conv2d(given[0][:, :3], *given[1:], (1, 1), (0, 0, 0, 0))
    with pytest.raises(ShapeError, match="dy"):
        cupy.conv2d_backward(y[:, :2], saved)
    empty, saved = cupy.conv2d(given[0][:0, :3], *given[1:], (1, 1), (0, 0, 0, 0))
    assert empty.shape == (0, 4, 3, 3) and cupy.conv2d_backward(empty, saved)[0].shape == (0, 3, 5, 5)


def test_plans_are_built_once_and_x_is_converted_once(cupy, monkeypatch):
    cupy.precision = "tf32"
    built, launched = [], []
    real_graph, real_launch = cudnn.pygraph.build_plans, cupy._kernels.blocks
    monkeypatch.setattr(cudnn.pygraph, "build_plans", lambda graph: built.append(graph._operation) or real_graph(graph))
    monkeypatch.setattr(
        cupy._kernels, "blocks", lambda file, kernel, *a: launched.append(kernel) or real_launch(file, kernel, *a)
    )
    x, w, b = (cupy.asarray(a) for a in (draw(2, 3, 7, 7), draw(5, 3, 2, 2, seed=1), draw(5, seed=2)))
    for _ in range(2):
        launched.clear()
        y, saved = cupy.conv2d(x, w, b, (1, 1), (1, 0, 1, 0))
        assert launched == ["maps_to_nhwc_f32", "maps_to_nhwc_f32", "nhwc_to_maps_f32"]  # x, w; y with its bias
        launched.clear()
        cupy.conv2d_backward(y, saved)
        assert launched == ["channel_sums_f32", "maps_to_nhwc_f32", "nhwc_to_maps_f32", "nhwc_to_maps_f32"]
    assert built == ["fprop", "dgrad", "wgrad"]


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("workspace", [10**9, 60_000])
def test_memory_is_as_told(cupy, precision, monkeypatch, workspace, activation):
    monkeypatch.setattr(cupy, "workspace", workspace)
    window = (1, 1), (1, 1, 1, 1)
    x, w, b = (cupy.asarray(a) for a in (draw(24, 3, 12, 12), draw(8, 3, 3, 3, seed=1), draw(8, seed=2)))
    told = cupy.conv_scratch(x.shape, w.shape, *window, (1, 1), activation, 4)
    cuda = cupy.xp.cuda
    pool = cuda.MemoryPool()
    with cuda.using_allocator(pool.malloc):
        y, saved = cupy.conv2d(x, w, b, *window, activation=activation)
    slack = 512 * 8  # what is rounded up to whole blocks, and the sums for db
    kept = pool.used_bytes() - y.nbytes
    assert abs(kept - told.kept) <= slack
    assert told.most(0) - slack <= pool.total_bytes() - pool.used_bytes() <= told.most(0) + slack
    back = cuda.MemoryPool()
    with cuda.using_allocator(back.malloc):
        gradients = cupy.conv2d_backward(y, saved)
    results = sum(g.nbytes for g in gradients)
    assert back.total_bytes() - results <= told.most(1) + slack
    assert max(told.most(0), told.most(1)) <= max(workspace, 20_000)


# ---------------------------------------------------------------------- products and the switch


@pytest.mark.parametrize("turned", [False, True])
def test_products(cupy, precision, turned):
    a, b = draw(30, 40), draw(40, 20, seed=1)
    left = cupy.asarray(a.T.copy()).T if turned else cupy.asarray(a)
    far = near(cupy.matmul(left, cupy.asarray(b)), a.astype("f8") @ b, precision)
    assert far > 1e-5 or precision == "float32"
    wide = cupy.asarray(np.tile(b, 2))[:, 5:25]
    near(cupy.matmul(left, wide), a.astype("f8") @ np.tile(b, 2)[:, 5:25], precision)
    x, w, bias, dy = draw(7, 12), draw(12, 9, seed=1), draw(9, seed=2), draw(7, 9, seed=3)
    near(cupy.dense(*(cupy.asarray(v) for v in (x, w, bias))), x.astype("f8") @ w + bias, precision)
    dx, dw, db = cupy.dense_backward(*(cupy.asarray(v) for v in (dy, x, w)))
    near(dx, dy.astype("f8") @ w.T, precision)
    near(dw, x.T.astype("f8") @ dy, precision)
    near(db, dy.sum(axis=0, dtype="f8"), "float32")  # sums are float32's in any precision


def test_the_switch(cupy, monkeypatch):
    assert cupy.precision == cupy.describe()["precision"] == "float32"
    cupy.precision = "bf16"
    assert cupy.describe()["precision"] == "bf16"
    with pytest.raises(ConfigError, match=r"precision must be one of 'float32', 'tf32', 'bf16'\. Received: 'fp16'"):
        cupy.precision = "fp16"
    for name in ("numpy", "numba"):
        backend = get_backend(name)
        backend.precision = "float32"
        with pytest.raises(ConfigError, match=rf"backend '{name}' computes .* float32 alone.* Received: 'tf32'"):
            backend.precision = "tf32"
        assert backend.describe()["precision"] == "float32"


def test_the_switch_from_the_environment(monkeypatch):
    monkeypatch.setenv("XCONV_PRECISION", "tf32")
    assert standin.fresh_backend().precision == "tf32"
    with pytest.raises(ConfigError, match="XCONV_PRECISION: backend 'numpy' computes"):
        type(get_backend("numpy"))()
    monkeypatch.setenv("XCONV_PRECISION", "half")
    with pytest.raises(ConfigError, match="XCONV_PRECISION must be one of"):
        standin.fresh_backend()


def test_what_computes_is_told(cupy):
    assert cupy.describe()["convolution"] == "cuDNN 9.14.0 (frontend 1.28.0)"
    without = standin.install().describe()["convolution"]
    assert without == 'im2col and cuBLAS (cuDNN is not installed: pip install "xconv[cudnn13]")'


def test_why_there_is_no_cudnn(monkeypatch):
    from xconv.backend.cudnn import find

    def reason(**changes):
        module = cudnn.build()
        for name, value in changes.items():
            setattr(module, name, value)
        xp = standin.install().xp
        with standin.modules(xp, None, module):
            found, why = find(xp)
        assert found is None
        return why

    def broken():
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nlibcudnn.so.9 not found")

    module = cudnn.build()
    module.create_handle = broken
    with standin.modules(standin.install().xp, standin.module.pathfinder(), module):
        backend = type(standin.install())()
        ((note, fix),) = backend.notes()
    assert note.startswith("cuDNN is not usable (RuntimeError: CUDNN_STATUS_NOT_INITIALIZED libcudnn.so.9")
    assert fix == 'pip install "xconv[cudnn13]"' and backend.describe()["convolution"].startswith("im2col and cuBLAS")
    assert "nvidia-cudnn-frontend 1.17.0 being too old: pip install" in reason(__version__="1.17.0")
    assert "RuntimeError: CUDNN_STATUS_NOT_INITIALIZED libcudnn.so.9 not found" in reason(create_handle=broken)


# ---------------------------------------------------------------------- training


def trained(backend, images, steps=10):
    model = SimpleConvNet(**SMALL, backend=backend, seed=3)
    model.compile(optimizers.SGD(0.01))
    x, t = images[0][: 10 * steps], images[1][: 10 * steps]
    losses = [float(np.ravel(model.backend.to_numpy(model.train_step(
        model.backend.asarray(x[i : i + 10]), model.backend.asarray(t[i : i + 10]))[0]))[0])
        for i in range(0, 10 * steps, 10)]  # fmt: skip
    return losses, {name: np.array(a) for name, a in model.params.to_numpy().items()}


@pytest.fixture(scope="module")
def images():
    x, t, _, _ = mnist.load("mnist-sample").arrays()
    return x[:100], t[:100]


@pytest.mark.parametrize(("name", "limit"), [("float32", 1e-4), ("tf32", 2e-2), ("bf16", 1e-1)])
def test_trains_as_numpy_does(cupy, images, name, limit):
    cupy.precision = name
    losses, weights = trained(cupy, images)
    expected, those = trained("numpy", images)
    assert np.abs(np.subtract(losses, expected)).max() <= limit * max(expected)
    for key, value in those.items():
        far = np.abs(weights[key] - value).max() / np.abs(value).max()
        assert weights[key].dtype == np.float32 and far <= limit, key
    assert (weights["W1"] != those["W1"]).any()


@pytest.mark.parametrize("workspace", [10**9, 6000])
def test_a_recorded_convolution_gives_the_bits_of_an_eager_one(cupy, precision, monkeypatch, workspace):
    monkeypatch.setattr(cupy, "workspace", workspace)
    x, w, b = (cupy.asarray(a) for a in (draw(4, 3, 8, 8), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)))

    def step():
        y, saved = cupy.conv2d(x, w, b, (1, 1), (1, 1, 1, 1), activation="relu")
        return y, *cupy.conv2d_backward(y, saved)

    launch, results = record(cupy, step)
    for seed in (5, 6):
        x[...] = cupy.asarray(draw(4, 3, 8, 8, seed=seed))
        launch()
        for replayed, eager in zip(results, step(), strict=True):
            assert cupy.to_numpy(replayed).tobytes() == cupy.to_numpy(eager).tobytes()


# ---------------------------------------------------------------------- the stand-in is strict


def test_the_stand_in_refuses_what_cudnn_refuses(cupy):
    from xconv.backend.cudnn_plans import B, Conv, W, X, Y

    conv = Conv((1, 2, 4, 4), (2, 2, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), "float32")
    plan = cupy._cudnn.plan("fprop", conv, 10**6)
    x, w, b, y = (cupy.asarray(draw(*shape)) for shape in (conv.x, conv.w, (2,), conv.y))
    room = cupy.empty((plan.workspace,), np.uint8)
    cupy._cudnn.run(plan, {X: x, W: w, B: b, Y: y}, room)
    for arrays, workspace, problem in [
        ({X: x, W: w, Y: y}, room, "variant pack"),
        ({X: x, W: w, B: b, Y: y, 9: y}, room, "variant pack"),
        ({X: cupy.asarray(draw(40))[1:], W: w, B: b, Y: y}, room, "misaligned"),
        ({X: x, W: w, B: b, Y: cupy.asarray(draw(2))}, room[:0], "not the device's"),
    ]:
        if problem == "not the device's":
            arrays[X] = cupy.asarray(draw(128))[124:]  # too little is left from there on
        with pytest.raises(BackendError, match=problem):
            cupy._cudnn.run(plan, arrays, workspace)
