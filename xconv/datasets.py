"""Keras's way to data sets: ``(x_train, y_train), (x_test, y_test) = mnist.load_data()``."""

from __future__ import annotations

import numpy as np

from xconv import data

Pair = tuple[np.ndarray, np.ndarray]


class _DataSet:
    """One of xconv's data sets."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load_data(self) -> tuple[Pair, Pair]:
        """(x_train, y_train), (x_test, y_test): bytes [N, 28, 28], labels [N], from $XCONV_DATA_DIR or a download.

        They are the caller's own, to be written to.
        """
        found = data.load(self.name)
        train, test = (found.x_train[:, 0], found.t_train), (found.x_test[:, 0], found.t_test)
        return (train[0].copy(), train[1].copy()), (test[0].copy(), test[1].copy())


mnist, mnist_sample, fashion_mnist = _DataSet("mnist"), _DataSet("mnist-sample"), _DataSet("fashion-mnist")
