"""Small helpers for preparing data."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class Sequence(ABC):
    """Batches by their number, as Keras has them: override `__len__` and `__getitem__`, and `on_epoch_end` if need be::

        class Scans(xconv.utils.Sequence):
            def __len__(self):
                return len(self.files) // 16

            def __getitem__(self, i):
                files = self.files[16 * i : 16 * i + 16]
                return np.stack([read(file) for file in files]), self.labels[files]

    Each is (x, y) or (x, y, sample_weight); `predict` takes x alone too. `fit(shuffle=True)` takes the batches in an
    order of its own in each epoch, the same on every backend. A thread asks for them, one after the other.
    """

    def __init__(self, **settings: Any) -> None:
        if settings:
            raise ConfigError(
                f"{type(self).__name__}: expected no settings: one thread prepares batches, two ahead at most; leave "
                f"workers, use_multiprocessing and max_queue_size out. Received: {', '.join(settings)}"
            )

    @abstractmethod
    def __len__(self) -> int:
        """How many batches there are."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """The batch of that number, from 0 to len - 1."""

    @property
    def num_batches(self) -> int:
        """Keras's other name for the length."""
        return len(self)

    def on_epoch_end(self) -> None:  # noqa: B027 for those who need nothing done
        """Called after each epoch of training, and after each validation; no batch is being made then.

        Left out where training was stopped within an epoch and the batch that was being made takes more than 10 s.
        """


PyDataset = Sequence  # its newer name in Keras
