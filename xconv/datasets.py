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
        """(x_train, y_train), (x_test, y_test), in bytes, from $XCONV_DATA_DIR or a download.

        As in Keras, grey images are [N, H, W] with labels [N], and those in colour [N, H, W, 3] with labels [N, 1].
        They are the caller's own, to be written to.
        """
        found = data.load(self.name)
        return _pair(found.x_train, found.t_train), _pair(found.x_test, found.t_test)


def _pair(x: np.ndarray, t: np.ndarray) -> Pair:
    """Copies, laid out as Keras does."""
    if x.shape[1] == 1:
        return x[:, 0].copy(), t.copy()
    return x.transpose(0, 2, 3, 1).copy(order="C"), t[:, None].copy()


mnist, mnist_sample, fashion_mnist = _DataSet("mnist"), _DataSet("mnist-sample"), _DataSet("fashion-mnist")
cifar10 = _DataSet("cifar10")
