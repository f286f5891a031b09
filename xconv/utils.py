"""Small helpers for preparing data."""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv import checks
from xconv.errors import ConfigError, DataError, described
from xconv.shapes import positive


def to_categorical(y: Any, num_classes: int | None = None, dtype: Any = "float32") -> np.ndarray:
    """One-hot rows of integer labels: y[...] or y[...,1] -> [..., num_classes], 1 at the label and 0 elsewhere.

    `num_classes` is by default the largest label + 1. Labels may be floats that are whole numbers.
    """
    y = checks.host_array(y, "to_categorical: y")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if dtype is None or kind.kind not in "buif":
        raise ConfigError(f"to_categorical: dtype must be one of real numbers, as 'float32'. Received: {dtype!r}")
    if num_classes is not None:
        num_classes = positive(num_classes, "to_categorical: num_classes")
    elif y.size == 0:
        raise DataError(
            f"to_categorical: y: expected at least one label; with none, give num_classes. Received: {described(y)}"
        )
    if y.ndim > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    checks.finite(y, "to_categorical: y")
    if y.dtype.kind == "f":
        broken = y != np.floor(y)
        if broken.any():
            i = checks.first(broken)
            raise DataError(f"to_categorical: y: expected whole numbers. Received: {y[i]} at index {i}")
    labels = checks.in_range(y, num_classes or max(int(y.max()), 0) + 1, "to_categorical: y")
    classes = num_classes or int(labels.max()) + 1
    return (labels[..., None] == np.arange(classes)).astype(kind)
