"""What the tests of bad input share: a small network, its images and labels, and the check of a message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xconv import Model, SimpleConvNet
from xconv.errors import XconvError

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
