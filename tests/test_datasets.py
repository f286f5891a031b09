"""Keras's way to data sets."""

from __future__ import annotations

import os

import numpy as np
import pytest

from xconv import data
from xconv.datasets import mnist, mnist_sample


def test_the_sample_as_keras_gives_it():
    (x_train, y_train), (x_test, y_test) = mnist_sample.load_data()
    assert x_train.shape == x_test.shape == (10_000, 28, 28) and x_train.dtype == np.uint8
    found = data.load("mnist-sample")
    assert np.array_equal(x_test, found.x_test[:, 0]) and np.array_equal(y_train, found.t_train)
    assert y_test.shape == (10_000,)


@pytest.mark.skipif("XCONV_DATA_DIR" not in os.environ, reason="needs the full MNIST in $XCONV_DATA_DIR")
def test_the_whole():
    (x_train, y_train), (x_test, _) = mnist.load_data()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
