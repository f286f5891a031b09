"""The checks of norm.cu against sums by math.fsum: every way to cut a channel, long planes and planes of one entry."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.cuda_shim.checks import NAME, Guarded, draw, near

EPS = 1e-3
# n, channels, plane; blocks (entries, channels, images); parts of n and of a plane
SHAPES = [(1, 2, 3), (9, 5, 1), (7, 3, 4), (4, 2, 9), (2, 3, 40), (1, 2, 150)]
BLOCKS = [(1, 8, 4), (4, 2, 2), (32, 1, 1), (16, 1, 4)]
PARTS = [(1, 1), (2, 1), (1, 3), (3, 2)]


def problems(dtype, middle=3):
    """x about `middle` with deviations from 0.5 to 2, gamma, beta, dy, and ways to launch."""
    for n, c, p in SHAPES:
        x = draw(40, n, c, p, dtype=dtype) * np.linspace(0.5, 2, c, dtype=dtype)[:, None] + np.asarray(middle, dtype)
        given = x, draw(41, c, dtype=dtype), draw(42, c, dtype=dtype), draw(43, n, c, p, dtype=dtype)
        launches = [((-(-c // b[1]), *parts), b) for b, parts in itertools.product(BLOCKS, PARTS)]
        yield (n, c, p), given, launches


def statistics(x):
    """Mean and variance of each channel."""
    values = [[float(v) for v in x[:, c].ravel()] for c in range(x.shape[1])]
    mean = [math.fsum(v) / len(v) for v in values]
    var = [math.fsum((e - m) ** 2 for e in v) / len(v) for v, m in zip(values, mean, strict=True)]
    return mean, var


def inverse(var):
    return [1 / math.sqrt(v + EPS) for v in var]


def naive(x, gamma, beta, mean, inv_std, relu):
    y = np.empty(x.shape)
    for n, c, p in np.ndindex(*x.shape):
        y[n, c, p] = (float(x[n, c, p]) - mean[c]) * inv_std[c] * gamma[c] + beta[c]
        if relu and y[n, c, p] < 0:
            y[n, c, p] = 0
    return y


def naive_gradients(x, dy, gamma, beta, mean, inv_std, relu):
    """What goes through the ReLU, and its sums dbeta and dgamma."""
    y = naive(x, gamma, beta, mean, inv_std, False)
    g, xhat = np.zeros(x.shape), np.zeros(x.shape)
    for n, c, p in np.ndindex(*x.shape):
        g[n, c, p] = dy[n, c, p] if not relu or y[n, c, p] > 0 else 0
        xhat[n, c, p] = (float(x[n, c, p]) - mean[c]) * inv_std[c]
    channels = range(x.shape[1])
    dbeta = [math.fsum(g[:, c].ravel()) for c in channels]
    return g, xhat, dbeta, [math.fsum((g[:, c] * xhat[:, c]).ravel()) for c in channels]


def cut(x, grid):
    """(place, part of each channel) of the parts that a grid cuts x[N,C,P] into; some may be empty."""
    images, entries = -(-x.shape[0] // grid[1]), -(-x.shape[2] // grid[2])
    for j, k in itertools.product(range(grid[1]), range(grid[2])):
        yield k * grid[1] + j, np.s_[j * images : (j + 1) * images, :, k * entries : (k + 1) * entries]


def check_moments(module, source, dtype, name):
    for sizes, (x, *_), launches in problems(dtype, 30):  # where E[x^2] - mean^2 would cancel
        for grid, block in launches:
            guarded, parts = Guarded(), grid[1] * grid[2]
            partial = guarded.empty((parts, sizes[1], 3), dtype)
            module.get_function(f"{name}_{NAME[dtype]}")(grid, block, (guarded(x), partial, *sizes))
            guarded.check()
            expected = np.zeros((parts, sizes[1], 3))
            for place, part in cut(x, grid):
                if x[part].size:
                    count = x[part].size // sizes[1]
                    mean, var = statistics(x[part])
                    expected[place] = [(count, m, v * count) for m, v in zip(mean, var, strict=True)]
            near(partial[..., 0], expected[..., 0], dtype)
            near(partial[..., 1], expected[..., 1], dtype)
            near(partial[..., 2], expected[..., 2], dtype)


def check_forward(module, source, dtype, name):
    for sizes, (x, gamma, beta, _), launches in problems(dtype):
        mean, var = statistics(x)
        for (grid, block), relu in itertools.product(launches, (0, 1)):
            guarded, parts = Guarded(), grid[1] * grid[2]
            partial = np.zeros((parts, sizes[1], 3), dtype)
            for place, part in cut(x, grid):
                if x[part].size:
                    count = x[part].size // sizes[1]
                    partial[place] = [(count, m, v * count) for m, v in zip(*statistics(x[part]), strict=True)]
            y, given = guarded.empty(x.shape, dtype), [guarded(a) for a in (gamma, beta)]
            found = [guarded.empty((sizes[1],), dtype) for _ in range(3)]
            partial, parts = (guarded(partial), parts) if parts > 1 else (0, 0)
            args = (guarded(x), partial, parts, *given, EPS, relu, y, *found, *sizes)
            module.get_function(f"{name}_{NAME[dtype]}")(grid, block, args)
            guarded.check()
            for got, expected in zip(found, (mean, inverse(var), var), strict=True):
                near(got, expected, dtype)
            near(y, naive(x, gamma, beta, mean, inverse(var), relu), dtype)


def check_gradients(module, source, dtype, name):
    for sizes, (x, gamma, beta, dy), launches in problems(dtype):
        mean, var = (np.array(a).astype(dtype) for a in statistics(x))
        inv_std = np.array(inverse(var)).astype(dtype)
        for (grid, block), relu in itertools.product(launches, (0, 1)):
            guarded, parts = Guarded(), grid[1] * grid[2]
            partial = guarded.empty((parts, sizes[1], 2), dtype)
            given = [guarded(a) for a in (dy, x, gamma, beta)]
            args = (*given, relu, guarded(mean), guarded(inv_std), partial, *sizes)
            module.get_function(f"{name}_{NAME[dtype]}")(grid, block, args)
            guarded.check()
            g, _, _, _ = naive_gradients(x, dy, gamma, beta, mean, inv_std, relu)
            expected = np.zeros(partial.shape)
            for place, part in cut(x, grid):
                for c in range(sizes[1]):
                    apart = x[part][:, c].astype("f8") - float(mean[c])
                    expected[place, c] = math.fsum(g[part][:, c].ravel()), math.fsum((g[part][:, c] * apart).ravel())
            near(partial, expected, dtype)


def check_backward(module, source, dtype, name):
    for sizes, (x, gamma, beta, dy), launches in problems(dtype):
        mean, var = (np.array(a).astype(dtype) for a in statistics(x))
        inv_std = np.array(inverse(var)).astype(dtype)
        m = sizes[0] * sizes[2]
        for (grid, block), relu, want in itertools.product(launches, (0, 1), (1, 0)):
            guarded, parts = Guarded(), grid[1] * grid[2]
            g, xhat, dbeta, dgamma = naive_gradients(x, dy, gamma, beta, mean, inv_std, relu)
            partial = np.zeros((parts, sizes[1], 2), dtype)
            for place, part in cut(x, grid):
                partial[place, :, 0] = g[part].sum(axis=(0, 2))
                partial[place, :, 1] = (g[part] * xhat[part]).sum(axis=(0, 2)) / inv_std
            given = [guarded(a) for a in (dy, x, gamma, beta, mean, inv_std)]
            dx, *found = (guarded.empty(s, dtype) for s in (x.shape, sizes[1:2], sizes[1:2]))
            before = dx.tobytes()
            partial, parts = (guarded(partial), parts) if parts > 1 else (0, 0)
            args = (*given[:2], partial, parts, *given[2:4], relu, *given[4:], dx, *found, want, *sizes)
            module.get_function(f"{name}_{NAME[dtype]}")(grid, block, args)
            guarded.check()
            near(found[0], dgamma, dtype)
            near(found[1], dbeta, dtype)
            expected = np.zeros(x.shape)
            for n, c, p in np.ndindex(*x.shape):
                rest = g[n, c, p] - dbeta[c] / m - xhat[n, c, p] * dgamma[c] / m
                expected[n, c, p] = float(gamma[c]) * float(inv_std[c]) * rest
            if want:
                near(dx, expected, dtype)
            assert want or dx.tobytes() == before


def check_inference(module, source, dtype, name):
    for sizes, (x, gamma, beta, _), launches in problems(dtype):
        mean, var = draw(44, sizes[1], dtype=dtype), np.abs(draw(45, sizes[1], dtype=dtype))
        x.flat[-1] = np.nan  # kept, by ReLU too
        for (grid, block), relu in itertools.product(launches, (0, 1)):
            guarded = Guarded()
            y, given = guarded.empty(x.shape, dtype), [guarded(a) for a in (x, gamma, beta, mean, var)]
            module.get_function(f"{name}_{NAME[dtype]}")(grid, block, (*given, EPS, relu, y, *sizes))
            guarded.check()
            near(y, naive(x, gamma, beta, mean.astype("f8"), inverse(var.astype("f8")), relu), dtype)


def check_moving(module, source, dtype, name):
    for channels, momentum in itertools.product((1, 70), (0.0, 0.99, 1.0)):
        guarded, values = Guarded(), [draw(50 + i, channels, dtype=dtype) for i in range(4)]
        arrays = [guarded(a) for a in values]
        kernel = module.get_function(f"{name}_{NAME[dtype]}")
        kernel((2,), (32,), (*arrays, momentum, channels, guarded(np.array([0], "u8"))))
        assert [a.tobytes() for a in arrays] == [a.tobytes() for a in values]
        kernel((2,), (32,), (*arrays, momentum, channels, guarded(np.array([1], "u8")) if momentum else 0))
        guarded.check()
        for moving, old, of_batch in zip(arrays, values[:2], values[2:], strict=False):
            near(moving, [momentum * float(a) + (1 - momentum) * float(b) for a, b in zip(old, of_batch, strict=True)],
                 dtype)  # fmt: skip


CHECKS = {  # kernel -> (its file, its check)
    "batch_norm_moments": ("norm", check_moments),
    "batch_norm": ("norm", check_forward),
    "batch_norm_gradients": ("norm", check_gradients),
    "batch_norm_backward": ("norm", check_backward),
    "batch_norm_inference": ("norm", check_inference),
    "moving_statistics": ("norm", check_moving),
}
