"""Every mistake is one typed error that says what came, the same on every backend, and changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xconv
from tests import standin
from tests.conftest import BACKENDS, load
from xconv import Adam, AvgPool2D, Conv2D, Dense, Flatten, MaxPool2D, Model, ReLU, SimpleConvNet, optimizers
from xconv.backend import Backend
from xconv.errors import BackendError, ConfigError, DataError, DTypeError, ShapeError, XconvError

SHAPE = (3, 10, 8)
CLASSES = 4


def network(backend: Any, **settings: Any) -> SimpleConvNet:
    conv = {"filter_num": 2, "filter_size": 3}
    return SimpleConvNet(SHAPE, conv, 6, CLASSES, "he", backend=backend, **settings)


def images(n: int = 5, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random((n, *shape), np.float32)


def labels(n: int = 5) -> np.ndarray:
    return np.arange(n) % CLASSES


def with_value(a: np.ndarray, where: tuple[int, ...], value: float) -> np.ndarray:
    a = a.copy()
    a[where] = value
    return a


class OnAnotherDevice:
    """What xconv sees of an array on a GPU."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)


def message(kind: type[XconvError], expected: str, act: Callable[[], object]) -> None:
    """`act` raises exactly `kind`, saying exactly `expected`."""
    with pytest.raises(XconvError) as caught:
        act()
    assert type(caught.value) is kind, repr(caught.value)
    assert str(caught.value) == expected
    assert "Received: " in expected


def prints(model: Model) -> str:
    """Fingerprint of all parameters, the gaps between them too."""
    return hashlib.sha256(model.backend.to_numpy(model._parameters.flat).tobytes()).hexdigest()


# ---------------------------------------------------------------------- images and labels

# name: (x, t, error, what follows "predict: " or "loss: ")
IMAGES: dict[str, tuple[Any, type[XconvError], str]] = {
    "channel count": (
        images(shape=(1, 10, 8)),
        ShapeError,
        "x: expected shape (N, 3, 10, 8). Received: shape (5, 1, 10, 8)",
    ),
    "one example": (
        images()[0],
        ShapeError,
        "x: expected shape (N, 3, 10, 8). Received: shape (3, 10, 8); this looks like one example: give x[None]",
    ),
    "channels last": (
        images().transpose(0, 2, 3, 1),
        ShapeError,
        "x: expected shape (N, 3, 10, 8). Received: shape (5, 10, 8, 3); this looks like channels_last: give "
        "x.transpose(0, 3, 1, 2)",
    ),
    "flattened": (
        images().reshape(5, -1),
        ShapeError,
        "x: expected shape (N, 3, 10, 8). Received: shape (5, 240); these look flattened: give x.reshape(-1, 3, 10, 8)",
    ),
    "rank 5": (
        images()[None],
        ShapeError,
        "x: expected shape (N, 3, 10, 8). Received: shape (1, 5, 3, 10, 8)",
    ),
    "a number": (0.5, ShapeError, "x: expected shape (N, 3, 10, 8). Received: shape ()"),
    "ragged": (
        [[1], [1, 2]],
        ShapeError,
        "x: expected an array of numbers. Received: [[1], [1, 2]] (setting an array element with a sequence. The "
        "requested array has an inhomogeneous shape after 1 dimensions. The detected shape was (2,) + inhomogeneous "
        "part.)",
    ),
    "nothing": (
        None,
        DTypeError,
        "x: expected real numbers (float, int or bool). Received: array of shape (), dtype object",
    ),
    "object": (
        images().astype(object),
        DTypeError,
        "x: expected real numbers (float, int or bool). Received: array of shape (5, 3, 10, 8), dtype object",
    ),
    "complex": (
        images().astype(np.complex64),
        DTypeError,
        "x: expected real numbers (float, int or bool). Received: array of shape (5, 3, 10, 8), dtype complex64",
    ),
    "text": (
        images().astype("U8"),
        DTypeError,
        "x: expected real numbers (float, int or bool). Received: array of shape (5, 3, 10, 8), dtype <U8",
    ),
    "NaN": (
        with_value(images(), (2, 1, 3, 4), np.nan),
        DataError,
        "x: expected finite numbers. Received: 1 NaN or infinite values, the first at index (2, 1, 3, 4): nan",
    ),
    "infinity": (
        with_value(images(), (4, 0), -np.inf),
        DataError,
        "x: expected finite numbers. Received: 80 NaN or infinite values, the first at index (4, 0, 0, 0): -inf",
    ),
}

LABELS: dict[str, tuple[Any, type[XconvError], str]] = {
    "too large": ([0, 1, 2, 4, 0], DataError, "t: expected labels from 0 to 3. Received: 4 at index 3"),
    "negative": ([0, -1, 2, 3, 0], DataError, "t: expected labels from 0 to 3. Received: -1 at index 1"),
    "larger than int64": (
        np.array([0, 1, 2**64 - 1, 0, 0], np.uint64),
        DataError,
        "t: expected labels from 0 to 3. Received: 18446744073709551615 at index 2",
    ),
    "float": (
        labels().astype(np.float64),
        DTypeError,
        "t: expected integer labels; give t.astype(int). Received: array of shape (5,), dtype float64",
    ),
    "bool": (
        labels() > 0,
        DTypeError,
        "t: expected integer labels; give t.astype(int). Received: array of shape (5,), dtype bool",
    ),
    "object": (
        labels().astype(object),
        DTypeError,
        "t: expected real numbers (float, int or bool). Received: array of shape (5,), dtype object",
    ),
    "too few": (
        labels(4),
        ShapeError,
        "t: expected one label for each of 5 examples. Received: array of shape (4,), dtype int64",
    ),
    "too many rows": (
        np.eye(CLASSES)[labels(6)],
        ShapeError,
        "t: expected one label for each of 5 examples. Received: array of shape (6, 4), dtype float64",
    ),
    "a column": (
        labels()[:, None],
        ShapeError,
        "t: expected integer labels (N,) or one-hot labels (N, 4). Received: array of shape (5, 1), dtype int64",
    ),
    "one-hot too wide": (
        np.eye(5)[labels()],
        ShapeError,
        "t: expected one-hot labels of 4 columns. Received: array of shape (5, 5), dtype float64",
    ),
    "one-hot with two ones": (
        with_value(np.eye(CLASSES)[labels()], (1, 3), 1),
        DataError,
        "t: expected one-hot rows, a single 1 among 0s. Received: [0.0, 1.0, 0.0, 1.0] at index 1",
    ),
    "one-hot with none": (
        with_value(np.eye(CLASSES)[labels()], (4, 0), 0),
        DataError,
        "t: expected one-hot rows, a single 1 among 0s. Received: [0.0, 0.0, 0.0, 0.0] at index 4",
    ),
    "probabilities": (
        np.full((5, CLASSES), 0.25),
        DataError,
        "t: expected one-hot rows, a single 1 among 0s. Received: [0.25, 0.25, 0.25, 0.25] at index 0",
    ),
    "NaN": (
        np.full((5, CLASSES), np.nan),
        DataError,
        "t: expected one-hot rows, a single 1 among 0s. Received: [nan, nan, nan, nan] at index 0",
    ),
}

USES: dict[str, Callable[[Model, Any, Any], object]] = {
    "evaluate": lambda model, x, t: model.accuracy(x, t),
    "loss": lambda model, x, t: model.loss(x, t),
    "gradient": lambda model, x, t: model.gradient(x, t),
    "fit": lambda model, x, t: model.fit(x, t, optimizer=Adam(), epochs=1),
    "fit: validation": lambda model, x, t: model.fit(
        images(), labels(), optimizer=Adam(), epochs=1, validation=(x, t)
    ),
}  # fmt: skip


def place(use: str, text: str) -> str:
    """`use` in front of a message; of validation the argument is "validation x"."""
    return f"{use} {text}" if use.endswith("validation") else f"{use}: {text}"


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Model:
    """One network for all mistakes: none may change it."""
    return network(load(request.param))


@pytest.mark.parametrize("mistake", IMAGES)
def test_images(model, mistake):
    x, kind, text = IMAGES[mistake]
    before, copy = prints(model), np.array(x, copy=True) if isinstance(x, np.ndarray) else x
    message(kind, f"predict: {text}", lambda: model.predict(x))
    for use, act in USES.items():
        message(kind, place(use, text), lambda act=act: act(model, x, labels()))
    assert prints(model) == before
    if isinstance(x, np.ndarray):
        assert x.tobytes() == copy.tobytes()


@pytest.mark.parametrize("mistake", LABELS)
def test_labels(model, mistake):
    t, kind, text = LABELS[mistake]
    before, copy, x = prints(model), np.array(t, copy=True), images()
    for use, act in USES.items():
        message(kind, place(use, text), lambda act=act: act(model, x, t))
    assert prints(model) == before
    assert np.array_equal(x, images())
    assert np.asarray(t).tobytes() == copy.tobytes()


def test_a_missing_channel_axis_is_named(backend):
    model = Model([Flatten(), Dense(2)], (1, 4, 4), backend=backend)
    message(
        ShapeError,
        "predict: x: expected shape (N, 1, 4, 4). Received: shape (7, 4, 4); the channel axis is missing: "
        "give x[:, None]",
        lambda: model.predict(np.zeros((7, 4, 4))),
    )


def test_no_examples(model):
    x, t, before = images(0), labels(0), prints(model)
    got = model.predict(x)
    assert got.shape == (0, CLASSES)
    assert got.dtype == np.float32
    for use, act in USES.items():
        text = "x: expected at least one example. Received: array of shape (0, 3, 10, 8), dtype float32"
        message(DataError, place(use, text), lambda act=act: act(model, x, t))
    assert prints(model) == before


def test_an_array_on_a_gpu_given_to_a_model_on_the_cpu():
    before = {}
    for name in ("numpy", "numba"):
        model = network(load(name))
        before[name] = prints(model)
        arrays: list[Any] = [OnAnotherDevice((5, *SHAPE))]
        if not standin.MISSING:
            arrays.append(load("cupy").asarray(images()))
        for x in arrays:
            text = (
                "expected a NumPy array. Received: array of shape (5, 3, 10, 8), dtype float32 on a GPU; call its "
                ".get(), or move the model there with model.to('cupy')"
            )
            message(BackendError, f"predict: x: {text}", lambda model=model, x=x: model.predict(x))
            message(BackendError, f"gradient: x: {text}", lambda model=model, x=x: model.gradient(x, labels()))
        message(
            BackendError,
            "loss: t: expected a NumPy array. Received: array of shape (5,), dtype float32 on a GPU; call its .get(), "
            "or move the model there with model.to('cupy')",
            lambda model=model: model.loss(images(), OnAnotherDevice((5,))),
        )
        assert prints(model) == before[name]


def test_arrays_of_the_models_own_backend_are_welcome(backend):
    model = network(backend)
    x, t = backend.asarray(images()), backend.asarray(labels())
    assert np.array_equal(model.predict(x), model.predict(images()))
    assert model.loss(x, t) == model.loss(images(), labels())


# ---------------------------------------------------------------------- parameters

PARAMETERS: dict[str, tuple[str, Any, type[XconvError], str]] = {
    "shape": (
        "b1",
        np.zeros(3),
        ShapeError,
        "parameter 'b1': expected shape (2,). Received: shape (3,)",
    ),
    "a number": ("b1", 1.0, ShapeError, "parameter 'b1': expected shape (2,). Received: shape ()"),
    "name": (
        "W9",
        np.zeros(2),
        XconvError,
        "no parameter of that name: expected one of ['W1', 'b1', 'W2', 'b2', 'W3', 'b3']. Received: 'W9'",
    ),
    "complex": (
        "b1",
        np.zeros(2, complex),
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: array of shape (2,), dtype complex128",
    ),
    "object": (
        "b1",
        np.array([None, object()]),
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: array of shape (2,), dtype object",
    ),
    "text": (
        "b1",
        ["a", "b"],
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: array of shape (2,), dtype <U1",
    ),
}


@pytest.mark.parametrize("mistake", PARAMETERS)
def test_parameters(model, mistake):
    name, value, kind, text = PARAMETERS[mistake]
    before = prints(model)
    message(kind, text, lambda: model.params.__setitem__(name, value))
    assert prints(model) == before


def test_a_parameter_from_a_gpu_on_the_cpu():
    for name in ("numpy", "numba"):
        model = network(load(name))
        before = prints(model)
        message(
            BackendError,
            "parameter 'b1': expected a NumPy array. Received: array of shape (2,), dtype float32 on a GPU; call its "
            ".get(), or move the model there with model.to('cupy')",
            lambda model=model: model.params.__setitem__("b1", OnAnotherDevice((2,))),
        )
        assert prints(model) == before


def test_parameters_stay(model):
    before = prints(model)
    message(
        XconvError,
        "a model's parameters cannot be deleted. Received: del params['W1']",
        lambda: model.params.__delitem__("W1"),
    )
    with pytest.raises(XconvError, match="cannot be deleted"):
        model.params.clear()
    assert list(model.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert prints(model) == before


# ---------------------------------------------------------------------- networks and settings

# what is asked of a model that exists
CALLS: dict[str, tuple[Callable[[Model], object], type[XconvError], str]] = {
    "batch size 0": (
        lambda model: model.predict(images(), 0),
        ConfigError,
        "batch_size must be an integer >= 1. Received: 0",
    ),
    "batch size 0, no examples": (
        lambda model: model.predict(images(0), 0),
        ConfigError,
        "batch_size must be an integer >= 1. Received: 0",
    ),
    "batch size 2.5": (
        lambda model: model.accuracy(images(), labels(), 2.5),
        ConfigError,
        "batch_size must be an integer >= 1. Received: 2.5",
    ),
    "fit: batch size 0": (
        lambda model: model.fit(images(), labels(), optimizer=Adam(), batch_size=0),
        ConfigError,
        "batch_size must be an integer >= 1. Received: 0",
    ),
    "epochs 0": (
        lambda model: model.fit(images(), labels(), optimizer=Adam(), epochs=0),
        ConfigError,
        "epochs must be an integer >= 1. Received: 0",
    ),
    "optimizer by name": (
        lambda model: model.fit(images(), labels(), optimizer="adam"),
        ConfigError,
        "fit: expected an xconv optimizer. Received: 'adam'",
    ),
    "validation": (
        lambda model: model.fit(images(), labels(), optimizer=Adam(), validation=3),
        ConfigError,
        "fit: expected validation=(x, t). Received: 3",
    ),
    "to a backend that does not exist": (
        lambda model: model.to("tpu"),
        BackendError,
        "unknown backend: expected one of 'cupy', 'numba', 'numpy' or 'auto'. Received: 'tpu'",
    ),
}

# what is asked of a backend; the model never comes to be
BUILDS: dict[str, tuple[Callable[[Backend], object], type[XconvError], str]] = {
    "kernel larger than image": (
        lambda b: Model([Conv2D(2, (3, 9), name="c")], SHAPE, backend=b),
        ShapeError,
        "c (Conv2D): no output is left: OW = (W + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (8 + 0 - 9) // 1 + 1 = 0, and must be >= 1. Received: input 10x8, kernel 3x9, stride 1x1, pads (0, 0, 0, 0)",
    ),
    "pool larger than image": (
        lambda b: Model([MaxPool2D(11)], SHAPE, backend=b),
        ShapeError,
        "maxpool2d1 (MaxPool2D): no output is left: OH = (H + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (10 + 0 - 11) // 11 + 1 = 0, and must be >= 1. "
        "Received: input 10x8, kernel 11x11, stride 11x11, pads (0, 0, 0, 0)",
    ),
    "stride 0": (
        lambda b: Model([Conv2D(2, 3, stride=0)], SHAPE, backend=b),
        ConfigError,
        "Conv2D: stride must be an integer >= 1 or a pair of them. Received: 0",
    ),
    "negative pad": (
        lambda b: Model([Conv2D(2, 3, pad=-1)], SHAPE, backend=b),
        ConfigError,
        "Conv2D: pad must be an integer >= 0 or a pair of them. Received: -1",
    ),
    "kernel of floats": (
        lambda b: Model([Conv2D(2, (3.0, 3.0))], SHAPE, backend=b),
        ConfigError,
        "Conv2D: kernel must be an integer >= 1 or a pair of them. Received: (3.0, 3.0)",
    ),
    "no filters": (
        lambda b: Model([Conv2D(0, 3)], SHAPE, backend=b),
        ConfigError,
        "Conv2D: filters must be an integer >= 1. Received: 0",
    ),
    "pool pad of the kernel's size": (
        lambda b: Model([AvgPool2D((3, 2), pad=2)], SHAPE, backend=b),
        ConfigError,
        "AvgPool2D: pad must be smaller than the kernel's width of 2, or some windows hold nothing but padding. "
        "Received: pads (2, 2, 2, 2)",
    ),
    "images wanted": (
        lambda b: Model([Flatten(), Conv2D(2, 3)], SHAPE, backend=b),
        ShapeError,
        "conv2d1 (Conv2D): expected images, (channels, height, width). Received: shape (240,)",
    ),
    "no layers": (
        lambda b: Model([], SHAPE, backend=b),
        ConfigError,
        "a network needs at least one layer. Received: none",
    ),
    "not a layer": (
        lambda b: Model([ReLU], SHAPE, backend=b),
        ConfigError,
        "expected xconv layers. Received: <class 'xconv.layers.activation.ReLU'>",
    ),
    "names that clash": (
        lambda b: Model([ReLU(name="a"), ReLU(name="a")], SHAPE, backend=b),
        ConfigError,
        "layer names must differ. Received: 'a' twice",
    ),
    "input shape a number": (
        lambda b: Model([Dense(2)], 5, backend=b),
        ConfigError,
        "input_shape: expected sizes, as (1, 28, 28). Received: 5",
    ),
    "input shape 0": (
        lambda b: Model([Dense(2)], (3, 0), backend=b),
        ConfigError,
        "input_shape: each size must be an integer >= 1. Received: 0",
    ),
    "labels for maps": (
        lambda b: Model([Conv2D(2, 3)], SHAPE, backend=b).loss(images(), labels()),
        ShapeError,
        "loss: t: labels need logits (N, classes); end the network with Flatten and Dense. "
        "Received: a network whose output is (N, 2, 8, 6)",
    ),
    "dtype": (
        lambda b: network(b, dtype="float16"),
        ConfigError,
        "dtype must be 'float32' or 'float64'. Received: 'float16'",
    ),
    "no dtype": (
        lambda b: network(b, dtype=None),
        ConfigError,
        "dtype must be 'float32' or 'float64'. Received: None",
    ),
    "seed": (
        lambda b: network(b, seed=-1),
        ConfigError,
        "seed must be an integer from 0 to 2**64 - 1. Received: -1",
    ),
    "seed of text": (
        lambda b: network(b, seed="0"),
        ConfigError,
        "seed must be an integer from 0 to 2**64 - 1. Received: '0'",
    ),
    "conv_param key": (
        lambda b: SimpleConvNet(conv_param={"filters": 3, "pad": 0}, backend=b),
        ConfigError,
        "conv_param: expected keys among ['filter_num', 'filter_size', 'pad', 'stride']. Received: ['filters']",
    ),
    "conv_param no dict": (
        lambda b: SimpleConvNet(conv_param=5, backend=b),
        ConfigError,
        "conv_param: expected a dict. Received: 5",
    ),
    "input_dim": (
        lambda b: SimpleConvNet((28, 28), backend=b),
        ConfigError,
        "input_dim: expected (channels, height, width). Received: (28, 28)",
    ),
    "initial weights by name": (
        lambda b: SimpleConvNet(weight_init_std="xavier", backend=b),
        ConfigError,
        "unknown initializer: expected 'he', 'zeros' or a standard deviation. Received: 'xavier'",
    ),
    "initial weights negative": (
        lambda b: SimpleConvNet(weight_init_std=-0.1, backend=b),
        ConfigError,
        "the standard deviation of initial weights must be >= 0. Received: -0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", CALLS)
def test_calls(model, mistake):
    act, kind, text = CALLS[mistake]
    before, backend = prints(model), model.backend
    message(kind, text, lambda: act(model))
    assert prints(model) == before
    assert model.backend is backend


@pytest.mark.parametrize("mistake", BUILDS)
def test_networks_that_cannot_be(backend, mistake):
    act, kind, text = BUILDS[mistake]
    message(kind, text, lambda: act(backend))


@pytest.mark.parametrize("name", ["tpu", "NumPy", "", 5, ["numpy"]])
def test_a_backend_that_does_not_exist(name):
    text = f"unknown backend: expected one of 'cupy', 'numba', 'numpy' or 'auto'. Received: {name!r}"
    message(BackendError, text, lambda: xconv.get_backend(name))
    message(BackendError, text, lambda: network(name))


def test_a_backend_from_the_environment_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("XCONV_BACKEND", "tpu")
    text = "unknown backend from $XCONV_BACKEND: expected one of 'cupy', 'numba', 'numpy' or 'auto'. Received: 'tpu'"
    message(BackendError, text, lambda: network(None))
    assert network("numpy").backend.name == "numpy"  # a name that is given counts more


OPTIMIZERS: dict[str, tuple[Callable[[], object], str]] = {
    "name": (
        lambda: optimizers.get("adamw"),
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam. Received: 'adamw'",
    ),
    "no name": (
        lambda: optimizers.get(None),
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam. Received: None",
    ),
    "setting": (
        lambda: optimizers.get("sgd", beta=1),
        "optimizer 'sgd': SGD.__init__() got an unexpected keyword argument 'beta'. Received: {'beta': 1}",
    ),
    "lr negative": (lambda: xconv.SGD(-0.1), "SGD: lr must be a number >= 0. Received: -0.1"),
    "lr NaN": (lambda: xconv.AdaGrad(float("nan")), "AdaGrad: lr must be a number >= 0. Received: nan"),
    "lr infinite": (lambda: xconv.Adam(float("inf")), "Adam: lr must be a number >= 0. Received: inf"),
    "lr of text": (lambda: xconv.Adam("1e-3"), "Adam: lr must be a number >= 0. Received: '1e-3'"),
    "momentum 1": (
        lambda: xconv.Momentum(momentum=1),
        "Momentum: momentum must be a number from 0 to below 1. Received: 1",
    ),
    "beta2": (lambda: xconv.Adam(beta2=1.5), "Adam: beta2 must be a number from 0 to below 1. Received: 1.5"),
}


@pytest.mark.parametrize("mistake", OPTIMIZERS)
def test_optimizers(mistake):
    act, text = OPTIMIZERS[mistake]
    message(ConfigError, text, act)


def test_a_learning_rate_that_cannot_be_leaves_the_one_there_was():
    optimizer = Adam(0.5)
    message(ConfigError, "Adam: lr must be a number >= 0. Received: -1", lambda: setattr(optimizer, "lr", -1))
    assert optimizer.lr == 0.5


# ---------------------------------------------------------------------- arrays that only look unusual


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "read-only": read_only,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "negative strides": lambda x: x[::-1, :, ::-1, ::-1].copy()[::-1, :, ::-1, ::-1],
    "every second": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=3)[::2, ..., ::2],
    "Fortran order": np.asfortranarray,
    "channels last in memory": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "uint8": lambda x: (x * 255).astype(np.uint8),
    "int64": lambda x: (x * 9).astype(np.int64) - 4,
    "bool": lambda x: x > 0.5,
    "a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unusual_arrays_give_what_plain_copies_give(model, layout):
    x = LAYOUTS[layout](images())
    plain = np.ascontiguousarray(np.asarray(x), np.float32)
    before, copy, layout_before = prints(model), np.array(x), getattr(x, "strides", None)
    assert np.array_equal(model.predict(x), model.predict(plain))
    assert model.loss(x, labels()) == model.loss(plain, labels())
    got, expected = model.gradient(x, labels()), model.gradient(plain, labels())
    for name in expected:
        assert np.array_equal(got.to_numpy()[name], expected.to_numpy()[name]), name
    assert np.array_equal(np.asarray(x), copy)
    assert getattr(x, "strides", None) == layout_before
    assert prints(model) == before


@pytest.mark.parametrize(
    "t",
    [
        read_only(labels()),
        labels().astype(">i4"),
        labels().astype(np.uint8),
        labels()[::-1].copy()[::-1],
        labels().tolist(),
        np.eye(CLASSES)[labels()],
        np.eye(CLASSES, dtype=np.uint8)[labels()],
        np.eye(CLASSES, dtype=bool)[labels()],
        np.asfortranarray(np.eye(CLASSES, dtype=">f4")[labels()]),
    ],
    ids=["read-only", "big-endian", "uint8", "reversed", "list", "one-hot", "of uint8", "of bool", "of Fortran order"],
)
def test_unusual_labels_give_what_plain_ones_give(model, t):
    copy = np.array(t)
    assert model.loss(images(), t) == model.loss(images(), labels())
    assert model.accuracy(images(), t) == model.accuracy(images(), labels())
    assert np.array_equal(np.asarray(t), copy)
