"""Arrays that only look unusual, read-only, strided or of another dtype, give what plain copies give."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from tests.conftest import BACKENDS, load
from tests.mistakes import CLASSES, images, labels, network, prints
from xconv import Model
from xconv.errors import RawPixelsWarning


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Model:
    """One network for all mistakes: none may change it."""
    return network(load(request.param))


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
    with pytest.warns(RawPixelsWarning) if layout in ("uint8", "int64") else nullcontext():
        predicted, loss, got = model.predict(x), model.loss(x, labels()), model.gradient(x, labels())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RawPixelsWarning)
        expected = model.gradient(plain, labels())
        assert np.array_equal(predicted, model.predict(plain))
        assert loss == model.loss(plain, labels())
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
