"""Keras's way to data sets."""

from __future__ import annotations

import os

import numpy as np
import pytest

import xconv
from xconv import data
from xconv.datasets import cifar10, fashion_mnist, mnist, mnist_sample


def test_the_sample_as_keras_gives_it():
    (x_train, y_train), (x_test, y_test) = mnist_sample.load_data()
    assert x_train.shape == x_test.shape == (10_000, 28, 28) and x_train.dtype == np.uint8
    found = data.load("mnist-sample")
    assert np.array_equal(x_test, found.x_test[:, 0]) and np.array_equal(y_train, found.t_train)
    assert y_test.shape == (10_000,)


def test_what_was_loaded_is_the_callers_own():
    (x_train, y_train), (x_test, y_test) = mnist_sample.load_data()
    for array in (x_train, y_train, x_test, y_test):
        array[...] = 7
    (x_train, y_train), (x_test, y_test) = xconv.datasets.mnist_sample.load_data()
    assert x_train.max() == x_test.max() == 255 and y_train.max() == y_test.max() == 9


def test_each_is_loaded_by_its_name(monkeypatch):
    asked = []
    sample = data.load()
    monkeypatch.setattr("xconv.data.load", lambda name: asked.append(name) or sample)
    for one in (mnist, fashion_mnist, mnist_sample, cifar10):
        one.load_data()
    assert asked == ["mnist", "fashion-mnist", "mnist-sample", "cifar10"]
    assert set(asked) == set(data.NAMES)


@pytest.mark.skipif("XCONV_DATA_DIR" not in os.environ, reason="needs the full MNIST in $XCONV_DATA_DIR")
def test_the_whole():
    (x_train, y_train), (x_test, _) = mnist.load_data()
    assert x_train.shape == (60_000, 28, 28) and x_test.shape == (10_000, 28, 28)
    assert y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
