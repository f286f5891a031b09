"""Every operation of the seam on every usable backend, grouped by operation: backends stand beside one another.

    python -m pytest benchmarks/bench_kernels.py --benchmark-columns=min,median,iqr,ops

The shapes are those of SimpleConvNet at its published batch of 100; the sample of MNIST is its input.
"""

from __future__ import annotations

import numpy as np
import pytest

N = 100
X = (N, 1, 28, 28)
W = (30, 1, 5, 5)
MAP = (N, 30, 24, 24)  # what the convolution gives
POOLED = (N, 30, 12, 12)
FIVE, TWO, ONE = (5, 5), (2, 2), (1, 1)
NO_PADS = (0, 0, 0, 0)
PARAMETERS = 433_890  # of SimpleConvNet

pytestmark = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture
def draw(backend, dtype):
    """Standard normal numbers of a shape, on the backend."""
    rng = np.random.default_rng(0)
    return lambda *shape: backend.asarray(rng.standard_normal(shape), dtype)


def test_im2col(timed, backend, draw):
    x = draw(*X)
    timed(lambda: backend.im2col(x, FIVE, ONE, NO_PADS), N)


def test_col2im(timed, backend, draw):
    col = draw(N * 24 * 24, 25)
    timed(lambda: backend.col2im(col, X, FIVE, ONE, NO_PADS), N)


def test_max_pool(timed, backend, draw):
    x = draw(*MAP)
    timed(lambda: backend.max_pool(x, TWO, TWO, NO_PADS), N)


def test_max_pool_backward(timed, backend, draw):
    _, argmax = backend.max_pool(draw(*MAP), TWO, TWO, NO_PADS)
    dy = draw(*POOLED)
    timed(lambda: backend.max_pool_backward(dy, argmax, MAP, TWO, TWO, NO_PADS), N)


def test_avg_pool(timed, backend, draw):
    x = draw(*MAP)
    timed(lambda: backend.avg_pool(x, TWO, TWO, NO_PADS), N)


def test_avg_pool_backward(timed, backend, draw):
    dy = draw(*POOLED)
    timed(lambda: backend.avg_pool_backward(dy, MAP, TWO, TWO, NO_PADS), N)


def test_conv2d(timed, backend, draw):
    x, w, b = draw(*X), draw(*W), draw(30)
    timed(lambda: backend.conv2d(x, w, b, ONE, NO_PADS), N)


def test_conv2d_backward(timed, backend, draw):
    _, saved = backend.conv2d(draw(*X), draw(*W), draw(30), ONE, NO_PADS)
    dy = draw(*MAP)
    timed(lambda: backend.conv2d_backward(dy, saved), N)


def test_conv2d_relu_max_pool(timed, backend, draw):
    x, w, b = draw(*X), draw(*W), draw(30)
    timed(lambda: backend.conv2d_relu_max_pool(x, w, b, ONE, NO_PADS, TWO, TWO), N)


def test_conv2d_relu_max_pool_backward(timed, backend, draw):
    _, saved = backend.conv2d_relu_max_pool(draw(*X), draw(*W), draw(30), ONE, NO_PADS, TWO, TWO)
    dy = draw(*POOLED)
    timed(lambda: backend.conv2d_relu_max_pool_backward(dy, saved), N)


def test_dense(timed, backend, draw):
    x, w, b = draw(N, 4320), draw(4320, 100), draw(100)
    timed(lambda: backend.dense(x, w, b), N)


def test_dense_backward(timed, backend, draw):
    dy, x, w = draw(N, 100), draw(N, 4320), draw(4320, 100)
    timed(lambda: backend.dense_backward(dy, x, w), N)


def test_relu(timed, backend, draw):
    x = draw(*MAP)
    timed(lambda: backend.relu(x), N)


def test_relu_backward(timed, backend, draw):
    dy, y = draw(*MAP), backend.relu(draw(*MAP))
    timed(lambda: backend.relu_backward(dy, y), N)


def test_softmax_cross_entropy(timed, backend, draw):
    logits, labels = draw(N, 10), backend.asarray(np.arange(N) % 10)
    timed(lambda: backend.softmax_cross_entropy(logits, labels), N)


@pytest.fixture
def weights(backend, draw):
    """Parameters, gradients, two states from zero, and [learning rate, steps done]."""
    p, g, *states = draw(PARAMETERS), draw(PARAMETERS), draw(PARAMETERS), draw(PARAMETERS)
    for state in states:
        state *= 0.0
    return p, g, *states, backend.asarray(np.array([1e-3, 1.0]))


def test_sgd(timed, backend, weights):
    p, g, _, _, hyper = weights
    timed(lambda: backend.sgd(p, g, hyper))


def test_momentum(timed, backend, weights):
    p, g, v, _, hyper = weights
    timed(lambda: backend.momentum(p, g, v, hyper, 0.9, False))


def test_nesterov(timed, backend, weights):
    p, g, v, _, hyper = weights
    timed(lambda: backend.momentum(p, g, v, hyper, 0.9, True))


def test_adagrad(timed, backend, weights):
    p, g, h, _, hyper = weights
    timed(lambda: backend.adagrad(p, g, h, hyper, 1e-7))


def test_rmsprop(timed, backend, weights):
    p, g, h, _, hyper = weights
    timed(lambda: backend.rmsprop(p, g, h, hyper, 0.9, 1e-7))


def test_adam(timed, backend, weights):
    p, g, m, v, hyper = weights
    timed(lambda: backend.adam(p, g, m, v, hyper, 0.9, 0.999, 1e-7))
