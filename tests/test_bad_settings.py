"""Networks, calls and backends that cannot be are one typed error that says what came, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import xconv
from tests.conftest import BACKENDS, load
from tests.mistakes import SHAPE, images, labels, message, network, prints
from xconv import AvgPool2D, Conv2D, Dense, Flatten, MaxPool2D, Model, ReLU, Sequential, SimpleConvNet
from xconv.backend import Backend
from xconv.errors import BackendError, ConfigError, ShapeError, XconvError


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Model:
    """One network for all mistakes: none may change it."""
    return network(load(request.param))


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
        lambda model: model.fit(images(), labels(), batch_size=0),
        ConfigError,
        "fit: batch_size must be an integer >= 1. Received: 0",
    ),
    "epochs 0": (
        lambda model: model.fit(images(), labels(), epochs=0),
        ConfigError,
        "fit: epochs must be an integer >= 1. Received: 0",
    ),
    "optimizer by name": (
        lambda model: model.compile("adum"),
        ConfigError,
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw. Received: 'adum'",
    ),
    "validation": (
        lambda model: model.fit(images(), labels(), validation_data=3),
        ConfigError,
        "fit: expected validation_data=(x, y) or (x, y, sample_weight), or what gives batches. Received: 3",
    ),
    "to a backend that does not exist": (
        lambda model: model.to("tpu"),
        BackendError,
        "unknown backend: expected one of 'cupy', 'numba', 'numpy' or 'auto'. Received: 'tpu'",
    ),
}


def row(layers, shape, backend):
    return Sequential(layers, input_shape=shape, data_format="channels_first", backend=backend)


def maps(backend):
    model = row([Conv2D(2, 3)], SHAPE, backend)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


# what is asked of a backend; the model never comes to be
BUILDS: dict[str, tuple[Callable[[Backend], object], type[XconvError], str]] = {
    "kernel larger than image": (
        lambda b: row([Conv2D(2, (3, 9), name="c")], SHAPE, b),
        ShapeError,
        "c (Conv2D): no output is left: OW = (W + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (8 + 0 - 9) // 1 + 1 = 0, and must be >= 1. Received: input 10x8, kernel 3x9, stride 1x1, pads (0, 0, 0, 0)",
    ),
    "pool larger than image": (
        lambda b: row([MaxPool2D(11)], SHAPE, b),
        ShapeError,
        "maxpool2d1 (MaxPool2D): no output is left: OH = (H + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (10 + 0 - 11) // 11 + 1 = 0, and must be >= 1. "
        "Received: input 10x8, kernel 11x11, stride 11x11, pads (0, 0, 0, 0)",
    ),
    "stride 0": (
        lambda b: row([Conv2D(2, 3, strides=0)], SHAPE, b),
        ConfigError,
        "Conv2D: strides must be an integer >= 1 or a pair of them. Received: 0",
    ),
    "negative pad": (
        lambda b: row([Conv2D(2, 3, padding=-1)], SHAPE, b),
        ConfigError,
        "Conv2D: padding must be an integer >= 0 or a pair of them. Received: -1",
    ),
    "kernel of floats": (
        lambda b: row([Conv2D(2, (3.0, 3.0))], SHAPE, b),
        ConfigError,
        "Conv2D: kernel_size must be an integer >= 1 or a pair of them. Received: (3.0, 3.0)",
    ),
    "no filters": (
        lambda b: row([Conv2D(0, 3)], SHAPE, b),
        ConfigError,
        "Conv2D: filters must be an integer >= 1. Received: 0",
    ),
    "pool pad of the kernel's size": (
        lambda b: row([AvgPool2D((3, 2), padding=2)], SHAPE, b),
        ConfigError,
        "AvgPool2D: padding must be smaller than the kernel's width of 2, or some windows hold nothing but padding. "
        "Received: pads (2, 2, 2, 2)",
    ),
    "images wanted": (
        lambda b: row([Flatten(), Conv2D(2, 3)], SHAPE, b),
        ShapeError,
        "conv2d1 (Conv2D): expected images, (channels, height, width). Received: shape (240,)",
    ),
    "no layers": (
        lambda b: row([], SHAPE, b).predict(images()),
        ConfigError,
        "sequential: no layers yet: add some first. Received: an empty model",
    ),
    "not a layer": (
        lambda b: row([ReLU], SHAPE, b),
        ConfigError,
        "sequential: expected layers, such as xconv.ReLU(), an instance. "
        "Received: <class 'xconv.layers.activation.ReLU'>",
    ),
    "names that clash": (
        lambda b: row([ReLU(name="a"), ReLU(name="a")], SHAPE, b),
        ConfigError,
        "layer names must differ; give name= to layers that meet in one model. Received: 'a' for 2 layers",
    ),
    "input shape a number": (
        lambda b: row([Dense(2)], 5, b),
        ConfigError,
        "Input: shape must be sizes without the batch, as (28, 28, 1). Received: 5",
    ),
    "input shape 0": (
        lambda b: row([Dense(2)], (3, 0), b),
        ConfigError,
        "Input: each size of shape must be an integer >= 1. Received: 0",
    ),
    "labels for maps": (
        lambda b: maps(b).loss(images(), labels()),
        ShapeError,
        "loss: t: sparse_categorical_crossentropy expects targets of shape (5, 2, 8) for outputs of shape "
        "(5, 2, 8, 6). Received: array of shape (5,), dtype int64",
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
        "unknown initializer: expected 'glorot_uniform', 'glorot_normal', 'he_uniform', 'he_normal', 'he', "
        "'lecun_uniform', 'lecun_normal', 'zeros', 'ones' or a standard deviation. Received: 'xavier'",
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
