"""What every reader of images gives: training and test images as bytes, with their labels and the classes' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xconv.data.sources import Pixels, pixels
from xconv.shapes import data_format_name


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Images x uint8[N, C, H, W], 0 to 255, and labels t int64[N], for training and for testing.

    `classes[k]` is the name of label k; `source` says where the files were. The arrays are read-only: a data set that
    one run altered would change another's result.
    """

    name: str
    x_train: np.ndarray
    t_train: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for array in (self.x_train, self.t_train, self.x_test, self.t_test):
            array.flags.writeable = False

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return (
            f"DataSet({self.name!r}: {len(self.x_train)} training and {len(self.x_test)} test images of {shape} bytes, "
            f"{len(self.classes)} classes)"
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.x_train.shape[1:]

    def arrays(
        self, dtype: Any = "float32", data_format: str = "channels_first"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x_train, t_train, x_test, t_test) with pixels from 0 to 1 in the float `dtype`.

        Images are [N,C,H,W], or [N,H,W,C] with data_format="channels_last", as Keras-style models take them.
        """
        train, test = self._laid_out(data_format, "arrays")
        return pixels(train, dtype), self.t_train, pixels(test, dtype), self.t_test

    def pixels(self, data_format: str = "channels_first") -> tuple[Pixels, np.ndarray, Pixels, np.ndarray]:
        """(x_train, t_train, x_test, t_test) with the very numbers of `arrays`, kept as bytes until a batch is made.

        A quarter of the memory, for `fit`, `evaluate` and `predict`; see `xconv.data.Pixels`.
        """
        train, test = self._laid_out(data_format, "pixels")
        return Pixels(train), self.t_train, Pixels(test), self.t_test

    def _laid_out(self, data_format: str, what: str) -> tuple[np.ndarray, np.ndarray]:
        """The images of training and testing, as bytes."""
        if data_format_name(data_format, what) == "channels_first":
            return self.x_train, self.x_test
        train, test = (np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in (self.x_train, self.x_test))
        return train, test
