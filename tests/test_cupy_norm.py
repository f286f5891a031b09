"""Batch normalisation and ReLU by the CUDA kernels: on the stand-in, or on a device where there is one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests import cuda_shim, reference_norm, standin
from tests.checks import close, draw
from xconv.backend import Need, get_backend
from xconv.backend.cupy_norm import norm_grid

EPS = 1e-3
SHAPES = [  # and into how many parts a channel is cut
    ((4, 3, 5, 6), 1),
    ((9, 37, 1, 1), 1),
    ((33, 5, 2, 2), 1),
    ((300, 40, 1, 1), 2),  # behind a Dense layer
    ((70, 2, 16, 16), 4),
    ((2, 1, 90, 100), 4),  # more parts than images
]


@pytest.fixture
def cupy():
    return pytest.skip(standin.MISSING) if standin.MISSING else standin.real() or standin.install()


def problem(shape, dtype):
    x = draw(*shape, dtype=dtype) * np.linspace(0.5, 2, shape[1], dtype=dtype)[:, None, None] + np.asarray(3, dtype)
    return (
        x,
        draw(shape[1], dtype=dtype, seed=1),
        draw(shape[1], dtype=dtype, seed=2),
        draw(*shape, dtype=dtype, seed=3),
    )


def both_ways(backend, x, gamma, beta, dy):
    """y, mean, var, and dx, dgamma, dbeta."""
    given = [backend.asarray(a) for a in (x, gamma, beta)]
    y, saved = backend.batch_norm_relu(*given, EPS)
    return y, saved.norm.mean, saved.norm.var, *backend.batch_norm_relu_backward(backend.asarray(dy), saved)


@pytest.mark.parametrize(("shape", "parts"), SHAPES)
def test_with_relu_both_ways(cupy, dtype, shape, parts):
    x, gamma, beta, dy = problem(shape, dtype)
    (_, by_image, by_place), _ = norm_grid(shape[0], shape[1], shape[2] * shape[3])
    assert by_image * by_place == parts
    got = both_ways(cupy, x, gamma, beta, dy)
    y, mean, var = reference_norm.batch_norm(x, gamma, beta, EPS)
    open_ = y > 0
    assert np.abs(y).min() > 1e-6 and open_.any() and not open_.all()  # rounding opens and shuts nothing
    gradients = reference_norm.batch_norm_backward(dy * open_, x, gamma, EPS)
    size = float(np.abs(dy).sum(axis=(0, 2, 3)).max())
    names, scales = ("y", "mean", "var", "dx", "dgamma", "dbeta"), (3.0, 0.0, 0.0, 3.0, size, size)
    wanted = (np.maximum(y, 0), mean, var, *gradients)
    for name, mine, right, scale in zip(names, got, wanted, scales, strict=True):
        close(cupy, mine, right, "elementwise", name, scale=scale)
    defined = both_ways(get_backend("numpy"), x, gamma, beta, dy)
    for name, mine, right, scale in zip(names, got, defined, scales, strict=True):
        close(cupy, mine, right, "device", name, scale=scale)


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES])
def test_the_way_back_opens_what_the_way_forth_opened(cupy, dtype, shape):
    """To the bit: dy = 1 counts the open entries, of values that crowd around 0."""
    x, gamma, _, dy = problem(shape, dtype)
    y, saved = cupy.batch_norm_relu(*(cupy.asarray(a) for a in (np.round(x), gamma, 0 * gamma)), EPS)
    _, _, dbeta = cupy.batch_norm_relu_backward(cupy.asarray(np.ones_like(dy)), saved)
    assert np.array_equal(cupy.to_numpy(dbeta), (cupy.to_numpy(y) > 0).sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES])
def test_bits_repeat_whatever_the_order_of_threads(cupy, dtype, shape):
    given, seen = problem(shape, dtype), set()
    for order in (0, 0, 1, 2, 3):
        with cuda_shim.threads_in_order(order):
            seen.add(b"".join(cupy.to_numpy(a).tobytes() for a in both_ways(cupy, *given)))
    assert len(seen) == 1


@pytest.mark.parametrize("shape", [shape for shape, _ in SHAPES])
def test_inference_with_relu(cupy, dtype, shape):
    x, gamma, beta, _ = problem(shape, dtype)
    mean, var = draw(shape[1], dtype=dtype, seed=7), np.abs(draw(shape[1], dtype=dtype, seed=8))
    x.flat[3] = np.nan
    y = cupy.batch_norm_inference(*(cupy.asarray(a) for a in (x, gamma, beta, mean, var)), EPS, True)
    wide = [a.astype("f8")[:, None, None] for a in (gamma, beta, mean, var)]
    expected = (x - wide[2]) / np.sqrt(wide[3] + EPS) * wide[0] + wide[1]
    expected[expected < 0] = 0
    close(cupy, y, expected, "elementwise")


@pytest.mark.parametrize(("shape", "parts"), SHAPES)
@pytest.mark.parametrize("need", [Need(), Need(x=False), Need(params=False), Need(False, False)])
def test_as_few_launches_as_may_be(cupy, monkeypatch, shape, parts, need):
    x, gamma, beta, dy = (cupy.asarray(a) for a in problem(shape, "float32"))
    launched, blocks = [], cupy._kernels.blocks

    def spy(file, kernel, *args):
        launched.append(kernel)
        return blocks(file, kernel, *args)

    monkeypatch.setattr(cupy._kernels, "blocks", spy)
    _, saved = cupy.batch_norm_relu(x, gamma, beta, EPS)
    assert launched == ["batch_norm_moments_f32"] * (parts > 1) + ["batch_norm_f32"]
    whole = cupy.batch_norm_relu_backward(dy, saved)
    launched.clear()
    got = cupy.batch_norm_relu_backward(dy, saved, need)
    wanted = ["batch_norm_gradients_f32"] * (parts > 1) + ["batch_norm_backward_f32"]
    assert launched == wanted * (need.x or need.params)
    for mine, full, wants in zip(got, whole, (need.x, need.params, need.params), strict=True):
        assert mine is None if not wants else cupy.to_numpy(mine).tobytes() == cupy.to_numpy(full).tobytes()


def test_a_step_with_relu_can_be_recorded(cupy):
    x, gamma, beta, dy = (cupy.asarray(a) for a in problem((300, 40, 1, 1), "float32"))
    total = cupy.xp.zeros(x.shape, "float32")

    def step():
        y, saved = cupy.batch_norm_relu(x, gamma, beta, EPS)
        total[...] = y + cupy.batch_norm_relu_backward(dy, saved)[0]

    launch, _ = standin.record(cupy, step)
    x *= 2.0
    total.fill(0.0)
    launch()
    again = cupy.to_numpy(total)
    step()
    assert again.any() and again.tobytes() == cupy.to_numpy(total).tobytes()


def test_an_empty_batch(cupy, dtype):
    x, ones = cupy.empty((0, 3, 2, 2), dtype), cupy.asarray(np.ones(3, dtype))
    y, saved = cupy.batch_norm_relu(x, ones, ones, EPS)
    dx, dgamma, dbeta = cupy.batch_norm_relu_backward(x, saved)
    assert y.shape == dx.shape == x.shape
    assert not any(cupy.to_numpy(a).any() for a in (saved.norm.mean, saved.norm.var, dgamma, dbeta))


def test_every_grid_can_be_launched():
    """Powers of two where a tree halves them, CUDA's limits, and every entry in one part."""
    sizes = (1, 2, 3, 7, 31, 32, 33, 49, 64, 100, 1000, 1024, 50_176, 10**6)
    for n, channels, plane in itertools.product((1, 2, 63, 256, 4096, 10**6), sizes, sizes):
        grid, block = norm_grid(n, channels, plane)
        assert all(size & (size - 1) == 0 for size in (block[0], block[2])) and np.prod(block) == 256
        assert 1 <= grid[0] < 2**31 and 1 <= grid[1] <= 65535 and 1 <= grid[2] <= 65535
        assert grid[1] * grid[2] <= 128 and grid[0] * block[1] >= channels > (grid[0] - 1) * block[1]
