"""Batch normalisation on every backend, against the paper's formulas one number at a time."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference, reference_norm, standin
from tests.checks import close, draw
from xconv.backend import Need

SHAPES = [
    (4, 3, 5, 6),
    (2, 2, 9, 13),  # longer planes, which Numba takes otherwise
    (70, 3, 2, 1),  # more images than short sums take at once
    (9, 17, 1, 1),  # as after a Dense layer
    (1, 2, 4, 4),
    (3, 1, 40, 30),  # planes longer than one part of a sum
]
EPS = 1e-3


def problem(shape, dtype):
    x = draw(*shape, dtype=dtype) * np.linspace(0.5, 2, shape[1], dtype=dtype)[:, None, None] + np.asarray(3, dtype)
    gamma, beta = draw(shape[1], dtype=dtype, seed=1), draw(shape[1], dtype=dtype, seed=2)
    return x, gamma, beta, draw(*shape, dtype=dtype, seed=3)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_paper(backend, dtype, shape):
    x, gamma, beta, dy = problem(shape, dtype)
    given = [backend.asarray(a) for a in (x, gamma, beta, dy)]
    y, saved = backend.batch_norm(*given[:3], EPS)
    expected, mean, var = reference_norm.batch_norm(x, gamma, beta, EPS)
    close(backend, y, expected, "elementwise", "y", scale=3)
    close(backend, saved.mean, mean, "sum", "mean")
    close(backend, saved.var, var, "sum", "var")
    close(backend, saved.inv_std, 1 / np.sqrt(var + EPS), "sum", "inv_std")
    got = backend.batch_norm_backward(given[3], saved)
    wanted = reference_norm.batch_norm_backward(dy, x, gamma, EPS)
    size = float(np.abs(dy).sum(axis=(0, 2, 3)).max())  # of what is added up
    for name, mine, right, scale in zip(("dx", "dgamma", "dbeta"), got, wanted, (3.0, size, size), strict=True):
        close(backend, mine, right, "elementwise", name, scale=scale)
    for result in (y, *got):
        assert result.flags.c_contiguous
    assert [backend.to_numpy(a).tobytes() for a in given] == [a.tobytes() for a in (x, gamma, beta, dy)]


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 3, 0, 4)])
def test_nothing_has_statistics_of_zero(backend, dtype, shape):
    x, ones, zeros = (backend.asarray(a) for a in (np.empty(shape, dtype), np.ones(3, dtype), np.zeros(3, dtype)))
    with backend.running():
        y, saved = backend.batch_norm(x, ones, zeros, EPS)
        dx, *sums = backend.batch_norm_backward(x, saved)
    assert y.shape == dx.shape == shape
    for values in (saved.mean, saved.var, *sums):
        assert backend.to_numpy(values).tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (2, 2, 8, 9), (6, 3, 1, 1)])
def test_gradients_are_the_numerical_ones(backend, shape):
    x, gamma, beta, dy = problem(shape, "float64")

    def value(x, gamma, beta):
        y, _ = backend.batch_norm(backend.asarray(x), backend.asarray(gamma), backend.asarray(beta), EPS)
        return float((backend.to_numpy(y) * dy).sum())

    _, saved = backend.batch_norm(backend.asarray(x), backend.asarray(gamma), backend.asarray(beta), EPS)
    dx, dgamma, dbeta = (backend.to_numpy(a) for a in backend.batch_norm_backward(backend.asarray(dy), saved))
    for got, numerical in (
        (dx, reference.numerical_gradient(lambda a: value(a, gamma, beta), x)),
        (dgamma, reference.numerical_gradient(lambda a: value(x, a, beta), gamma)),
        (dbeta, reference.numerical_gradient(lambda a: value(x, gamma, a), beta)),
    ):
        assert np.abs(got - numerical).max() <= 1e-7 * max(1, np.abs(numerical).max())


@pytest.mark.parametrize("shape", [(98, 3, 32, 32), (100_000, 2, 1, 1), (25_000, 2, 2, 2), (1, 2, 400, 250)])
def test_float32_keeps_its_digits_far_from_zero(backend, shape):
    """A hundred thousand values a channel with mean 10 and deviation 1, against float64."""
    x = (draw(*shape, seed=5) + 10).astype("float32")
    ones, zeros = np.ones(shape[1], "float32"), np.zeros(shape[1], "float32")
    y, saved = backend.batch_norm(*(backend.asarray(a) for a in (x, ones, zeros)), EPS)
    wide = x.astype("float64")
    mean, var = wide.mean(axis=(0, 2, 3), keepdims=True), wide.var(axis=(0, 2, 3), keepdims=True)
    close(backend, y, (wide - mean) / np.sqrt(var + EPS), "elementwise")
    assert np.abs(backend.to_numpy(saved.mean) / mean.ravel() - 1).max() < 3e-7
    assert np.abs(backend.to_numpy(saved.var) / var.ravel() - 1).max() < 2e-6
    dy = draw(*shape, dtype="float32", seed=6) + np.float32(1)
    dx, dgamma, dbeta = backend.batch_norm_backward(backend.asarray(dy), saved)
    xhat, g = (wide - mean) / np.sqrt(var + EPS), dy.astype("float64")
    of_beta, of_gamma = (a.sum(axis=(0, 2, 3)) for a in (g, g * xhat))
    m = x.size / shape[1]
    expected = (g - (of_beta[:, None, None] + xhat * of_gamma[:, None, None]) / m) / np.sqrt(var + EPS)
    close(backend, dx, expected, "elementwise", "dx")
    close(backend, dbeta, of_beta, "elementwise", "dbeta")
    close(backend, dgamma, of_gamma, "elementwise", "dgamma", scale=m)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_takes_the_given_statistics(backend, dtype, shape):
    x, gamma, beta, _ = problem(shape, dtype)
    mean, var = draw(shape[1], dtype=dtype, seed=7), np.abs(draw(shape[1], dtype=dtype, seed=8))
    y = backend.batch_norm_inference(*(backend.asarray(a) for a in (x, gamma, beta, mean, var)), EPS)
    expected = np.zeros(shape)
    for n, c, h, w in np.ndindex(*shape):
        scale = float(gamma[c]) / (float(var[c]) + EPS) ** 0.5
        expected[n, c, h, w] = (float(x[n, c, h, w]) - float(mean[c])) * scale + float(beta[c])
    close(backend, y, expected, "elementwise")
    assert y.flags.c_contiguous


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 3, 9, 9)])
@pytest.mark.parametrize("need", [Need(), Need(x=False), Need(params=False), Need(False, False)])
def test_only_what_is_needed(backend, need, shape):
    x, gamma, beta, dy = (backend.asarray(a) for a in problem(shape, "float32"))
    _, saved = backend.batch_norm(x, gamma, beta, EPS)
    all_of_them, got = backend.batch_norm_backward(dy, saved), backend.batch_norm_backward(dy, saved, need)
    assert [g is not None for g in got] == [need.x, need.params, need.params]
    for mine, whole in zip(got, all_of_them, strict=True):
        assert mine is None or backend.to_numpy(mine).tobytes() == backend.to_numpy(whole).tobytes()


def test_a_channel_of_one_value_gives_beta(backend, dtype):
    x = np.full((3, 2, 4, 5), 7.5, dtype)
    beta = np.array([0.25, -1.5], dtype)
    args = [backend.asarray(a) for a in (x, np.array([2, 3], dtype), beta)]
    y, saved = backend.batch_norm(*args, EPS)
    assert np.array_equal(backend.to_numpy(y), np.broadcast_to(beta[:, None, None], x.shape))
    dx, dgamma, _ = backend.batch_norm_backward(backend.asarray(draw(*x.shape, dtype=dtype)), saved)
    assert np.isfinite(backend.to_numpy(dx)).all() and not backend.to_numpy(dgamma).any()


@pytest.mark.parametrize("shape", [(5, 7, 12, 12), (300, 7, 2, 3)])
def test_the_number_of_threads_changes_no_bit(shape, monkeypatch):
    numba = pytest.importorskip("xconv.backend.numba_backend").NumbaBackend()
    x, gamma, beta, dy = problem(shape, "float32")
    seen = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba.team, "threads", threads)

        def ranges(n, work, most=None, t=threads):
            return [(n * i // t, n * (i + 1) // t) for i in range(t)]

        monkeypatch.setattr(numba.team, "ranges", ranges)
        y, saved = numba.batch_norm(x, gamma, beta, EPS)
        seen.add(b"".join(a.tobytes() for a in (y, saved.var, *numba.batch_norm_backward(dy, saved))))
    assert len(seen) == 1


def test_a_step_can_be_recorded():
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    backend = standin.install()
    x, gamma, beta, dy = (backend.asarray(a) for a in problem((4, 3, 5, 5), "float32"))
    total = backend.xp.zeros(x.shape, "float32")

    def step():
        y, saved = backend.batch_norm(x, gamma, beta, EPS)
        total[...] = backend.batch_norm_backward(dy, saved)[0] + backend.batch_norm_inference(
            y, gamma, beta, saved.mean, saved.var, EPS
        )

    launch, _ = standin.record(backend, step)
    x *= 2.0
    total.fill(0.0)
    launch()
    again = backend.to_numpy(total)
    step()
    assert again.any() and again.tobytes() == backend.to_numpy(total).tobytes()
