"""to_categorical against writing each 1 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mistakes import OnAnotherDevice, message
from xconv.errors import BackendError, ConfigError, DataError, DTypeError, ShapeError
from xconv.utils import to_categorical


@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 3), (2, 3, 1), (), (1,), (0,)])
@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4", "float32", "bool"])
def test_one_hot(shape, dtype):
    y = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 4, shape).astype(dtype)
    got = to_categorical(y, 4)
    inner = shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape
    expected = np.zeros((*inner, 4))
    for i in np.ndindex(inner):
        expected[i][int(y.reshape(inner)[i])] = 1
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


def test_classes_are_counted():
    assert to_categorical([0, 2, 1]).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert to_categorical(np.array([3, 0], "uint8")).shape == (2, 4)
    assert to_categorical([0.0, 2.0]).shape == (2, 3)


@pytest.mark.parametrize("dtype", ["float64", "int8", np.float16, bool])
def test_dtypes(dtype):
    got = to_categorical([1, 0], 3, dtype=dtype)
    assert got.dtype == dtype and got.tolist() == [[0, 1, 0], [1, 0, 0]]


MISTAKES = {
    "too large": (lambda: to_categorical([0, 3], 3), DataError,
        "to_categorical: y: expected labels from 0 to 2. Received: 3 at index 1"),
    "negative": (lambda: to_categorical([[0, 1], [1, -1]]), DataError,
        "to_categorical: y: expected labels from 0 to 1. Received: -1 at index (1, 1)"),
    "all negative": (lambda: to_categorical([-1]), DataError,
        "to_categorical: y: expected labels from 0 to 0. Received: -1 at index 0"),
    "halves": (lambda: to_categorical([0, 0.5]), DataError,
        "to_categorical: y: expected whole numbers. Received: 0.5 at index 1"),
    "NaN": (lambda: to_categorical([0, np.nan]), DataError,
        "to_categorical: y: expected finite numbers. Received: 1 NaN or infinite values, the first at index (1,): nan"),
    "words": (lambda: to_categorical(["cat"]), DTypeError,
        "to_categorical: y: expected real numbers (float, int or bool). Received: ['cat'], of which NumPy makes <U3"),
    "nothing": (lambda: to_categorical([]), DataError,
        "to_categorical: y: expected at least one label; with none, give num_classes. "
        "Received: array of shape (0,), dtype float64"),
    "no classes": (lambda: to_categorical([0], 0), ConfigError,
        "to_categorical: num_classes must be an integer >= 1. Received: 0"),
    "classes in part": (lambda: to_categorical([0], 2.5), ConfigError,
        "to_categorical: num_classes must be an integer >= 1. Received: 2.5"),
    "a dtype": (lambda: to_categorical([0], dtype="float31"), ConfigError,
        "to_categorical: dtype must be one of real numbers, as 'float32'. Received: 'float31'"),
    "complex": (lambda: to_categorical([0], dtype="complex64"), ConfigError,
        "to_categorical: dtype must be one of real numbers, as 'float32'. Received: 'complex64'"),
    "no dtype": (lambda: to_categorical([0], dtype=None), ConfigError,
        "to_categorical: dtype must be one of real numbers, as 'float32'. Received: None"),
    "of a GPU": (lambda: to_categorical(OnAnotherDevice((2,))), BackendError,
        "to_categorical: y: expected a NumPy array. Received: array of shape (2,), dtype float32 on a GPU; call its "
        ".get(), or move the model there with model.to('cupy')"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    act, kind, text = MISTAKES[mistake]
    message(kind, text, act)


def test_ragged_labels():
    with pytest.raises(ShapeError, match=r"^to_categorical: y: expected an array of numbers"):
        to_categorical([[0, 1], [2]])
