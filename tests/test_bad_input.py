"""Images and labels that cannot be are one typed error that says what came, on every backend, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import standin
from tests.conftest import BACKENDS, load
from tests.mistakes import CLASSES, SHAPE, OnAnotherDevice, images, labels, message, network, prints, with_value
from xconv import Dense, Flatten, Model, Sequential, SimpleConvNet, data
from xconv.errors import BackendError, DataError, DTypeError, ShapeError, XconvError

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
        "x: expected real numbers (float, int or bool). Received: None",
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
    "accuracy": lambda model, x, t: model.accuracy(x, t),
    "loss": lambda model, x, t: model.loss(x, t),
    "gradient": lambda model, x, t: model.gradient(x, t),
    "fit": lambda model, x, t: model.fit(x, t, verbose=0),
    "fit: validation": lambda model, x, t: model.fit(
        images(), labels(), validation_data=(x, t), verbose=0
    ),
}  # fmt: skip


def place(use: str, text: str) -> str:
    """`use` in front of a message; in fit, Keras's, labels are y, and of validation the argument is "validation x"."""
    if use.startswith("fit"):
        text = text.replace("t: ", "y: ", 1) if text.startswith("t: ") else text
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
    model = Sequential([Flatten(), Dense(2)], input_shape=(1, 4, 4), data_format="channels_first", backend=backend)
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


def test_a_data_set_and_a_function_are_told_the_cure():
    """Both look like what `fit` takes, and are not."""
    net = SimpleConvNet(backend="numpy")

    def batches():
        yield None

    for given, cure in (
        (data.load(), r"data\.arrays\(\)\. Received: DataSet"),
        (batches, r"called first, as in batches\(\)"),
        ([0.5, None], r"Received: \[0.5, None\], of which NumPy makes object"),
        (print, r"int or bool\)\. Received: <built-in"),
    ):
        for use in (net.predict, net.evaluate):
            with pytest.raises(DTypeError, match=cure):
                use(given)
        with pytest.raises(DTypeError, match=f"fit: x: .*{cure}"):
            net.fit(given, epochs=1)
