"""What is asked of every image: finite, in the model's dtype too, and a warning for raw bytes; and `described`."""

from __future__ import annotations

import warnings
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from xconv import SimpleConvNet, checks, data
from xconv.errors import DataError, RawPixelsWarning, described

SHAPE = (1, 6, 6)


def given(dtype: Any, largest: float) -> np.ndarray:
    x = np.zeros((2, *SHAPE), dtype)
    x[1, 0, 2, 3] = largest
    return x


# ---------------------------------------------------------------------- raw pixels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", ">u2"])
def test_whole_numbers_above_1_are_told(dtype):
    with pytest.warns(RawPixelsWarning) as caught:
        x = checks.images(given(dtype, 2), SHAPE, "fit: x")
    assert x.dtype == dtype and x.max() == 2  # and taken as they are
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(f"fit: x holds whole numbers above 1 (dtype {np.dtype(dtype)}), as raw pixels are; ")
    assert "divide by 255" in text and "data.arrays()" in text and "RawPixelsWarning" in text
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "x",
    [
        given("uint8", 1),
        given("int64", 1),
        given("bool", 1),
        given("float32", 64),
        given("float64", 64),
        -given("int64", 9),
        np.zeros((0, *SHAPE), np.uint8),
    ],
    ids=["uint8 to 1", "int64 to 1", "bool", "float32 to 64", "float64 to 64", "negative", "none"],
)
def test_other_numbers_are_not(x):
    assert checks.images(x, SHAPE, "x", empty_ok=True) is x  # a warning would be an error here


def test_each_line_of_the_user_hears_of_it_once():
    net = SimpleConvNet(SHAPE, {"filter_num": 2, "filter_size": 3}, 4, 3, backend="numpy")
    raw, t = given("uint8", 255), np.array([0, 2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for largest in (255, 254, 253):
            net.predict(given("uint8", largest))
        net.predict(raw)
        net.gradient(raw, t)
    assert [str(warning.message).partition(" holds ")[0] for warning in caught] == [
        "predict: x",
        "predict: x",
        "gradient: x",
    ]
    assert {warning.filename for warning in caught} == {__file__}
    assert len({warning.lineno for warning in caught}) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_of_floats_that_were_never_scaled_are_told(dtype):
    raw = data.load().x_train[:9]
    with pytest.warns(RawPixelsWarning, match=rf"^fit: x holds numbers from 0 to 255 \(dtype {dtype}\), as raw pixels"):
        checks.images(raw.astype(dtype), raw.shape[1:], "fit: x")
    for meant in (raw / 255, raw / 4.0, raw - 128.0, raw * 2.0, raw.reshape(9, -1).astype(dtype)):
        checks.images(meant, meant.shape[1:], "fit: x")  # any warning is an error here


def test_a_data_set_gives_both_and_only_its_raw_pixels_are_told():
    sample = data.load()
    checks.images(sample.arrays()[0][:9], sample.image_shape, "x")
    with pytest.warns(RawPixelsWarning):
        checks.images(sample.x_train[:9], sample.image_shape, "x")


# ---------------------------------------------------------------------- finite

FLOAT32_MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("value", [1e300, -1e300, FLOAT32_MAX * (1 + 1e-7), 1e39])
def test_numbers_too_large_for_the_dtype(value):
    x = given("float64", value)
    checks.images(x, SHAPE, "x")  # fine by themselves
    checks.images(x, SHAPE, "x", dtype="float64")
    with pytest.raises(DataError) as caught:
        checks.images(x, SHAPE, "predict: x", dtype="float32")
    assert str(caught.value) == (
        "predict: x: expected finite numbers. Received: 1 values too large for float32, the first at index "
        f"(1, 0, 2, 3): {value}"
    )


@pytest.mark.parametrize("value", [FLOAT32_MAX, -FLOAT32_MAX, FLOAT32_MAX * (1 + 1e-9), 1e-300, 0.0])
def test_numbers_that_the_dtype_can_hold(value):
    x = given("float64", value)
    assert checks.images(x, SHAPE, "x", dtype="float32") is x
    with np.errstate(under="ignore"):
        assert np.isfinite(x.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_whatever_the_dtype(value, stored, dtype):
    with pytest.raises(DataError) as caught:
        checks.images(given(stored, value), SHAPE, "x", dtype=dtype)
    assert str(caught.value) == (
        f"x: expected finite numbers. Received: 1 NaN or infinite values, the first at index (1, 0, 2, 3): {value}"
    )


def test_sums_that_overflow_are_no_infinite_values():
    x = np.full((2, *SHAPE), 1e38, np.float32)
    checks.images(x, SHAPE, "x", dtype="float32")
    checks.images(np.full((2, *SHAPE), 1e308), SHAPE, "x", dtype="float64")


# ---------------------------------------------------------------------- described

Pair = namedtuple("Pair", "x t")
A = np.zeros((3, 4), np.float32)
SAYS = "array of shape (3, 4), dtype float32"


class OfManyLines:
    def __repr__(self) -> str:
        return "Frame:\n   a  b\n0  1  2\n" * 9


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, SAYS),
        ((A,), f"tuple of ({SAYS})"),
        ([A, 2, "a"], f"list of ({SAYS}; 2; 'a')"),
        ([A] * 6, f"list of ({'; '.join([SAYS] * 4)}; 2 more)"),
        ({"x": A, "t": 1}, f"dict of ('x': {SAYS}; 't': 1)"),
        (Pair(A, 1), f"Pair of ({SAYS}; 1)"),
        (((A, 1), 2), f"tuple of (tuple of ({SAYS}; 1); 2)"),
        ((1, 2), "(1, 2)"),
        (Pair(1, 2), "Pair(x=1, t=2)"),
        ([], "[]"),
        ("a\nb  c", "'a\\nb  c'"),
        (list(range(10**6)), str(list(range(99)))[:77] + "..."),
        ("a" * 200, "'" + "a" * 76 + "..."),
        (OfManyLines(), ("Frame: a b 0 1 2 " * 9)[:77] + "..."),
    ],
)
def test_what_came_is_said_short_and_on_one_line(value, expected):
    assert described(value) == expected


def test_a_list_that_holds_itself():
    endless: list[Any] = [A]
    endless.append(endless)
    assert described(endless).startswith(f"list of ({SAYS}; list of (")
