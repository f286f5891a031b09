"""Every operation of every backend against naive float64 loops that share no code with xconv."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv.backend import Need
from xconv.backend.base import argmax_dtype

# x shape, kernel, stride, pads, dilation
WINDOWS = [
    ((2, 1, 6, 6), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 3, 5, 7), (2, 3), (2, 1), (1, 0, 2, 1), (1, 1)),
    ((3, 2, 8, 5), (3, 2), (1, 2), (1, 1, 1, 1), (2, 1)),
    ((2, 2, 4, 4), (4, 4), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 2, 7, 9), (1, 1), (3, 2), (0, 0, 0, 0), (1, 1)),
    ((2, 1, 5, 5), (2, 2), (1, 1), (3, 3, 3, 3), (1, 3)),  # windows that see nothing but padding
    ((2, 1, 6, 6), (2, 2), (3, 3), (0, 0, 0, 0), (1, 1)),  # pixels that no window sees
]
POOLS = [case[:4] for case in WINDOWS if max(case[3]) < min(case[1])]


@pytest.mark.parametrize(("shape", "kernel", "stride", "pads", "dilation"), WINDOWS)
def test_im2col_and_col2im(backend, dtype, shape, kernel, stride, pads, dilation):
    x = draw(*shape, dtype=dtype)
    col = backend.im2col(backend.asarray(x), kernel, stride, pads, dilation)
    close(backend, col, reference.im2col(x, kernel, stride, pads, dilation), "copy")
    dcol = draw(*col.shape, dtype=dtype, seed=1)
    dx = backend.col2im(backend.asarray(dcol), shape, kernel, stride, pads, dilation)
    close(backend, dx, reference.col2im(dcol, shape, kernel, stride, pads, dilation), "sum")


def awkward(shape, dtype):
    """Many ties, some infinities and NaNs."""
    rng = np.random.default_rng(3)
    x = rng.integers(-2, 3, shape).astype(dtype)
    x[rng.random(shape) < 0.1] = -np.inf
    x[rng.random(shape) < 0.05] = np.nan
    return x


@pytest.mark.parametrize(("shape", "kernel", "stride", "pads"), POOLS)
@pytest.mark.parametrize("make", [draw, awkward])
def test_max_pool(backend, dtype, shape, kernel, stride, pads, make):
    x = make(*shape, dtype=dtype) if make is draw else awkward(shape, dtype)
    y, argmax = backend.max_pool(backend.asarray(x), kernel, stride, pads)
    expected, where = reference.max_pool(x, kernel, stride, pads)
    close(backend, y, expected, "copy")
    assert argmax.dtype == argmax_dtype(kernel)
    close(backend, argmax, where, "copy")
    dy = draw(*y.shape, dtype=dtype, seed=1)
    dx = backend.max_pool_backward(backend.asarray(dy), argmax, shape, kernel, stride, pads)
    close(backend, dx, reference.max_pool_backward(dy, where, shape, kernel, stride, pads), "sum")


def test_max_pool_of_a_window_too_large_for_bytes(backend):
    x = draw(1, 2, 18, 17, dtype="float32")
    x[0, 0, 17, 16] = 9
    y, argmax = backend.max_pool(backend.asarray(x), (18, 17), (1, 1), (0, 0, 0, 0))
    assert argmax.dtype == np.int32
    assert backend.to_numpy(argmax)[0, 0, 0, 0] == 18 * 17 - 1 and backend.to_numpy(y)[0, 0, 0, 0] == 9
    dx = backend.max_pool_backward(
        backend.asarray(np.ones((1, 2, 1, 1), "f")), argmax, x.shape, (18, 17), (1, 1), (0,) * 4
    )
    assert backend.to_numpy(dx)[0, 0, 17, 16] == 1 and backend.to_numpy(dx).sum() == 2


@pytest.mark.parametrize(("shape", "kernel", "stride", "pads"), POOLS)
def test_avg_pool(backend, dtype, shape, kernel, stride, pads):
    x = draw(*shape, dtype=dtype)
    y = backend.avg_pool(backend.asarray(x), kernel, stride, pads)
    close(backend, y, reference.avg_pool(x, kernel, stride, pads), "sum")
    dy = draw(*y.shape, dtype=dtype, seed=1)
    dx = backend.avg_pool_backward(backend.asarray(dy), shape, kernel, stride, pads)
    close(backend, dx, reference.avg_pool_backward(dy, shape, kernel, stride, pads), "sum")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 2), (7, 40, 3), (2, 3, 70)])
def test_matmul_takes_transposed_views(backend, dtype, sizes):
    m, k, p = sizes
    a, b = draw(m, k, dtype=dtype), draw(k, p, dtype=dtype, seed=1)
    at, bt = backend.asarray(np.ascontiguousarray(a.T)).T, backend.asarray(np.ascontiguousarray(b.T)).T
    expected = reference.matmul(a, b)
    for left in (backend.asarray(a), at):
        for right in (backend.asarray(b), bt):
            close(backend, backend.matmul(left, right), expected, "sum")


def test_dense(backend, dtype):
    x, w, b, dy = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([(4, 9), (9, 6), (6,), (4, 6)]))
    mine = [backend.asarray(a) for a in (x, w, b, dy)]
    close(backend, backend.dense(*mine[:3]), reference.matmul(x, w) + b, "sum")
    dx, dw, db = backend.dense_backward(mine[3], mine[0], mine[1])
    close(backend, dx, reference.matmul(dy, w.T), "sum")
    close(backend, dw, reference.matmul(x.T, dy), "sum")
    close(backend, db, dy.astype("f8").sum(axis=0), "sum")


def test_dense_relu(backend, dtype):
    x, w, b, dy = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([(4, 9), (9, 6), (6,), (4, 6)]))
    mine = [backend.asarray(a) for a in (x, w, b, dy)]
    y = backend.dense(*mine[:3], "relu")
    before = reference.matmul(x, w) + b
    close(backend, y, np.where(before > 0, before, 0), "sum")
    dx, dw, db = backend.dense_backward(mine[3], mine[0], mine[1], y=y)
    open_ = np.where(before > 0, dy, 0)
    close(backend, dx, reference.matmul(open_, w.T), "sum")
    close(backend, dw, reference.matmul(x.T, open_), "sum")
    close(backend, db, open_.astype("f8").sum(axis=0), "sum")
    x[1, 2] = np.nan
    assert np.isnan(backend.to_numpy(backend.dense(backend.asarray(x), *mine[1:3], "relu"))[1]).all()


@pytest.mark.parametrize("need", [Need(), Need(x=False), Need(params=False)])
def test_only_what_is_needed(backend, need):
    x, w, dy = (backend.asarray(draw(*s)) for s in [(2, 1, 5, 5), (3, 1, 2, 2), (2, 3, 4, 4)])
    _, saved = backend.conv2d(x, w, backend.asarray(np.zeros(3)), (1, 1), (0, 0, 0, 0))
    for dx, dw, db in (
        backend.conv2d_backward(dy, saved, need),
        backend.dense_backward(dy.reshape(2, -1), x.reshape(2, -1), backend.asarray(draw(25, 48)), need),
    ):
        assert (dx is not None, dw is not None, db is not None) == (need.x, need.params, need.params)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("shape", "kernel", "stride", "pads", "dilation"), WINDOWS)
def test_conv2d(backend, dtype, shape, kernel, stride, pads, dilation, activation):
    x, w, b = draw(*shape, dtype=dtype), draw(3, shape[1], *kernel, dtype=dtype, seed=1), draw(3, dtype=dtype, seed=2)
    y, saved = backend.conv2d(*(backend.asarray(a) for a in (x, w, b)), stride, pads, dilation, activation)
    expected = reference.conv2d(x, w, b, stride, pads, dilation)
    close(backend, y, np.maximum(expected, 0) if activation else expected, "sum")
    dy = draw(*y.shape, dtype=dtype, seed=3)
    got = backend.conv2d_backward(backend.asarray(dy), saved)
    opened = np.where(expected > 0, dy, 0) if activation else dy
    gradients = reference.conv2d_backward(opened, x, w, stride, pads, dilation)
    for name, mine, theirs in zip(("dx", "dw", "db"), got, gradients, strict=True):
        close(backend, mine, theirs, "sum", name)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pads", "pool", "pool_stride"),
    [
        ((3, 1, 10, 10), (3, 3), (1, 1), (0, 0, 0, 0), (2, 2), (2, 2)),
        ((2, 2, 9, 8), (3, 2), (1, 1), (1, 1, 0, 1), (2, 3), (1, 2)),  # windows of the pooling overlap
        ((2, 1, 11, 11), (2, 2), (2, 2), (0, 1, 1, 0), (2, 2), (2, 2)),
        ((11, 1, 28, 28), (5, 5), (1, 1), (0, 0, 0, 0), (2, 2), (2, 2)),  # more than one block
    ],
)
def test_conv2d_relu_max_pool(backend, dtype, shape, kernel, stride, pads, pool, pool_stride):
    x, w = draw(*shape, dtype=dtype), draw(3, shape[1], *kernel, dtype=dtype, seed=1)
    b = np.array([0.3, -0.2, -50], dtype)  # the last filter is shut everywhere
    mine = [backend.asarray(a) for a in (x, w, b)]
    y, saved = backend.conv2d_relu_max_pool(*mine, stride, pads, pool, pool_stride)
    conv = np.maximum(reference.conv2d(x, w, b, stride, pads), 0)
    pooled, where = reference.max_pool(conv, pool, pool_stride, (0, 0, 0, 0))
    close(backend, y, pooled, "sum")
    dy = draw(*y.shape, dtype=dtype, seed=3)
    got = backend.conv2d_relu_max_pool_backward(backend.asarray(dy), saved)
    opened = np.where(pooled > 0, dy, 0)
    dconv = reference.max_pool_backward(opened, where, conv.shape, pool, pool_stride, (0, 0, 0, 0))
    for name, mine, theirs in zip(
        ("dx", "dw", "db"), got, reference.conv2d_backward(dconv, x, w, stride, pads), strict=True
    ):
        close(backend, mine, theirs, "sum", name)


def test_relu_keeps_nan(backend, dtype):
    x = np.array([[-1.0, 0.0, 2.5], [np.nan, -np.inf, np.inf]], dtype)
    y = backend.relu(backend.asarray(x))
    close(backend, y, np.array([[0, 0, 2.5], [np.nan, 0, np.inf]]), "copy")
    dx = backend.relu_backward(backend.asarray(np.full_like(x, 3)), y)
    close(backend, dx, np.array([[0, 0, 3.0], [0, 0, 3]]), "copy")


def test_add(backend, dtype):
    a, b = draw(7, 3, 501, dtype=dtype), draw(7, 3, 501, dtype=dtype, seed=1)
    a[0, 0, :2] = np.inf, np.nan
    b[0, 0, :2] = -np.inf, 1
    with backend.running():
        y = backend.add(backend.asarray(a), backend.asarray(b))
    with np.errstate(invalid="ignore"):
        close(backend, y, a + b, "copy")
    assert np.isnan(backend.to_numpy(y)[0, 0, :2]).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])  # the latter overflows without the subtraction of the maximum
def test_softmax_cross_entropy(backend, dtype, scale):
    logits, labels = (draw(6, 5) * scale).astype(dtype), np.array([0, 4, 2, 2, 1, 3])
    loss, dlogits = backend.softmax_cross_entropy(backend.asarray(logits), backend.asarray(labels))
    expected, d = reference.softmax_cross_entropy(logits, labels)
    close(backend, loss, np.array([expected]), "elementwise")
    close(backend, dlogits, d, "elementwise")


def test_inputs_are_left_alone(backend, dtype):
    x, w, b, dy = (draw(*s, dtype=dtype) for s in [(2, 2, 6, 6), (3, 2, 3, 3), (3,), (2, 3, 4, 4)])
    mine = [backend.asarray(a) for a in (x, w, b, dy)]
    before = [backend.to_numpy(a).tobytes() for a in mine]
    _, saved = backend.conv2d(*mine[:3], (1, 1), (0, 0, 0, 0), activation="relu")
    backend.conv2d_backward(mine[3], saved)
    _, saved = backend.conv2d_relu_max_pool(*mine[:3], (1, 1), (0, 0, 0, 0), (2, 2), (2, 2))
    backend.conv2d_relu_max_pool_backward(backend.asarray(dy[:, :, :2, :2]), saved)
    _, argmax = backend.max_pool(mine[3], (2, 2), (2, 2), (0, 0, 0, 0))
    backend.max_pool_backward(mine[3][:, :, :2, :2].copy(), argmax, mine[3].shape, (2, 2), (2, 2), (0, 0, 0, 0))
    backend.relu_backward(mine[3], backend.relu(mine[3]))
    assert [backend.to_numpy(a).tobytes() for a in mine] == before


def test_asarray_is_a_contiguous_array_of_ours(backend):
    x = np.arange(24, dtype=">f4").reshape(4, 6)
    for a in (x, x[::-1], x.T, x[:, ::2], x.astype("f8"), [[1, 2], [3, 4]]):
        got = backend.asarray(a, "float32")
        assert isinstance(got, backend.array_type) and got.dtype == np.dtype("=f4") and got.flags.c_contiguous
        assert np.array_equal(backend.to_numpy(got), np.asarray(a))
    assert backend.asarray(2.5).shape == backend.asarray(np.float32(2.5), "float64").shape == ()
    device = backend.asarray(np.arange(6.0).reshape(2, 3))
    assert backend.asarray(device[0, 1]).shape == () and backend.asarray(device.T).flags.c_contiguous
