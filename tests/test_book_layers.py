"""The book's layers by themselves: against naive loops, and what they refuse, in the same words on every backend."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv import book
from xconv.errors import ConfigError, DataError, DTypeError, ShapeError, XconvError


def test_convolution(backend, dtype):
    x, w, b = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([(2, 3, 6, 7), (4, 3, 3, 2), (4,)]))
    layer = book.Convolution(backend.asarray(w), backend.asarray(b), stride=2, pad=1, backend=backend)
    y = layer.forward(backend.asarray(x))
    close(backend, y, reference.conv2d(x, w, b, (2, 2), (1, 1, 1, 1)), "sum")
    dy = draw(*y.shape, dtype=dtype, seed=4)
    dx = layer.backward(backend.asarray(dy))
    expected = reference.conv2d_backward(dy, x, w, (2, 2), (1, 1, 1, 1))
    for mine, theirs in zip((dx, layer.dW, layer.db), expected, strict=True):
        close(backend, mine, theirs, "sum")


def test_affine_flattens_what_it_is_given(backend, dtype):
    x, w, b = (draw(*s, dtype=dtype, seed=i) for i, s in enumerate([(3, 2, 2, 3), (12, 5), (5,)]))
    layer = book.Affine(backend.asarray(w), backend.asarray(b), backend=backend)
    flat, dy = x.reshape(3, 12), draw(3, 5, dtype=dtype, seed=4)
    close(backend, layer.forward(backend.asarray(x)), reference.matmul(flat, w) + b, "sum")
    dx = layer.backward(backend.asarray(dy))
    close(backend, dx, reference.matmul(dy, w.T).reshape(x.shape), "sum")
    close(backend, layer.dW, reference.matmul(flat.T, dy), "sum")
    close(backend, layer.db, dy.astype("f8").sum(axis=0), "sum")


def test_pooling(backend, dtype):
    x = np.round(draw(2, 3, 7, 6, dtype=dtype))  # with ties
    layer = book.Pooling(3, 2, stride=2, pad=1, backend=backend)
    y = layer.forward(backend.asarray(x))
    window = (3, 2), (2, 2), (1, 1, 1, 1)
    expected, where = reference.max_pool(x, *window)
    close(backend, y, expected, "copy")
    dy = draw(*y.shape, dtype=dtype, seed=1)
    dx = layer.backward(backend.asarray(dy))
    close(backend, dx, reference.max_pool_backward(dy, where, x.shape, *window), "sum")


def test_relu_leaves_dout_alone(backend):
    layer, dout = book.Relu(backend=backend), backend.asarray(np.array([[1.0, 2.0], [3.0, 4.0]]))
    y = layer.forward(backend.asarray(np.array([[-1.0, 2.0], [0.0, 0.5]])))
    dx = layer.backward(dout)
    assert backend.to_numpy(y).tolist() == [[0, 2], [0, 0.5]]
    assert backend.to_numpy(dx).tolist() == [[0, 2], [0, 4]]
    assert backend.to_numpy(dout).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("on_device", [False, True])
def test_softmax_with_loss(backend, dtype, one_hot, on_device):
    x, t = draw(4, 3, dtype=dtype), np.array([2, 0, 1, 1])
    given = np.eye(3)[t] if one_hot else t
    layer = book.SoftmaxWithLoss(backend=backend)
    loss = layer.forward(backend.asarray(x), backend.asarray(given) if on_device else given)
    expected, dx = reference.softmax_cross_entropy(x, t)
    assert loss == pytest.approx(expected, rel=1e-6 if dtype == "float32" else 1e-14)
    close(backend, layer.backward(), dx, "elementwise")
    close(backend, layer.backward(2), 2 * dx, "elementwise")


def test_a_parameter_that_is_a_transposed_view(backend):
    """A reader who keeps weights the other way round, and changes them in place."""
    w, x = draw(5, 4), draw(3, 4, seed=1)
    kept = backend.asarray(w.copy())
    layer = book.Affine(kept.T, backend.asarray(np.zeros(5)), backend=backend)
    close(backend, layer.forward(backend.asarray(x)), x @ w.T, "sum")
    kept *= 2.0
    close(backend, layer.forward(backend.asarray(x)), 2 * x @ w.T, "sum")
    filters, images = draw(2, 2, 3, 4), draw(1, 4, 5, 5)
    layer = book.Convolution(backend.asarray(filters).T, backend.asarray(np.zeros(4)), backend=backend)
    y = layer.forward(backend.asarray(images[:, :3]))
    close(backend, y, reference.conv2d(images[:, :3], filters.T, np.zeros(4), (1, 1), (0,) * 4), "sum")


@pytest.mark.parametrize("kind", ["u1", "i4", "i8", "?", "f2", ">f4", ">f8"])
def test_numbers_of_other_kinds(backend, kind):
    """Whole numbers are computed with as floats: nothing is cut off, and every backend says the same."""
    x = np.array([[3, 1, 0, 1], [0, 2, 5, 1]]).astype(kind)
    dtype = "float32" if kind == ">f4" else "float64"
    # CuPy has no foreign byte order: there the host's array is converted on its way.
    there = backend.asarray(x)
    loss = book.SoftmaxWithLoss(backend=backend).forward(there, np.array([0, 1]))
    expected, _ = reference.softmax_cross_entropy(x.astype("f8"), np.array([0, 1]))
    assert loss == pytest.approx(expected, rel=1e-6)
    for y in (
        book.Relu(backend=backend).forward(there),
        book.Pooling(1, 1, stride=1, backend=backend).forward(there.reshape(1, 2, 2, 2)),
        book.im2col(there.reshape(1, 1, 2, 4), 1, 1),
    ):
        assert y.dtype == dtype
        assert np.array_equal(backend.to_numpy(y).ravel(), x.ravel().astype(dtype))
    w, b = backend.asarray(draw(4, 3, dtype="f4")), backend.asarray(np.zeros(3, "f4"))
    close(backend, book.Affine(w, b, backend=backend).forward(there), reference.matmul(x, backend.to_numpy(w)), "sum")


def after_forward(layer, x):
    layer.forward(x)
    return layer


# (what goes wrong, its error, its words) with `a(*shape)` an array of zeros here, and `on` the backend
MISTAKES = {
    "filters of rank 2": (
        lambda a, on: book.Convolution(a(2, 3), a(2), **on),
        ShapeError,
        "Convolution: expected W of shape (F, C, FH, FW). Received: array of shape (2, 3), dtype float32",
    ),
    "bias of another length": (
        lambda a, on: book.Convolution(a(2, 1, 3, 3), a(3), **on),
        ShapeError,
        "Convolution: b: expected shape (2,). Received: shape (3,)",
    ),
    "weights of whole numbers": (
        lambda a, on: book.Affine(a(4, 3, dtype="int64"), a(3, dtype="int64"), **on),
        DTypeError,
        "Affine: expected W and b both of dtype float32, or both of float64. "
        "Received: W as array of shape (4, 3), dtype int64",
    ),
    "weights of two dtypes": (
        lambda a, on: book.Affine(a(4, 3), a(3, dtype="float64"), **on),
        DTypeError,
        "Affine: expected W and b both of dtype float32, or both of float64. "
        "Received: b as array of shape (3,), dtype float64",
    ),
    "channels": (
        lambda a, on: book.Convolution(a(2, 3, 3, 3), a(2), **on).forward(a(1, 1, 5, 5)),
        ShapeError,
        "Convolution: expected x of shape (N, 3, H, W). Received: array of shape (1, 1, 5, 5), dtype float32",
    ),
    "kernel larger than the image": (
        lambda a, on: book.Convolution(a(2, 1, 3, 3), a(2), **on).forward(a(1, 1, 2, 5)),
        ShapeError,
        "Convolution: no output is left: OH = (H + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (2 + 0 - 3) // 1 + 1 = 0, and must be >= 1. "
        "Received: input 2x5, kernel 3x3, stride 1x1, pads (0, 0, 0, 0)",
    ),
    "complex images": (
        lambda a, on: book.Convolution(a(2, 1, 3, 3), a(2), **on).forward(np.zeros((1, 1, 5, 5), complex)),
        DTypeError,
        "Convolution: x: expected real numbers (float, int or bool). "
        "Received: array of shape (1, 1, 5, 5), dtype complex128",
    ),
    "number of inputs": (
        lambda a, on: book.Affine(a(4, 3), a(3), **on).forward(a(2, 5)),
        ShapeError,
        "Affine: expected 4 values for each example. Received: array of shape (2, 5), dtype float32",
    ),
    "stride 0": (
        lambda a, on: book.Pooling(2, 2, stride=0, **on),
        ConfigError,
        "Pooling: stride must be an integer >= 1 or a pair of them. Received: 0",
    ),
    "negative pad": (
        lambda a, on: book.Convolution(a(2, 1, 3, 3), a(2), pad=-1, **on),
        ConfigError,
        "Convolution: pad must be an integer >= 0 or a pair of them. Received: -1",
    ),
    "windows of nothing but padding": (
        lambda a, on: book.Pooling(2, 3, pad=2, **on),
        ConfigError,
        "Pooling: pad must be smaller than the kernel's height of 2, or some windows hold nothing but padding. "
        "Received: pads (2, 2, 2, 2)",
    ),
    "images of rank 3": (
        lambda a, on: book.Pooling(2, 2, **on).forward(a(3, 4, 4)),
        ShapeError,
        "Pooling: expected x of shape (N, C, H, W). Received: array of shape (3, 4, 4), dtype float32",
    ),
    "dout for Pooling": (
        lambda a, on: after_forward(book.Pooling(2, 2, **on), a(1, 2, 6, 6)).backward(a(1, 2, 3, 400)),
        ShapeError,
        "Pooling: dout: expected shape (1, 2, 3, 3). Received: shape (1, 2, 3, 400)",
    ),
    "dout for Relu": (
        lambda a, on: after_forward(book.Relu(**on), a(2, 3)).backward(a(3, 3)),
        ShapeError,
        "Relu: dout: expected shape (2, 3). Received: shape (3, 3)",
    ),
    "dout for Convolution": (
        lambda a, on: after_forward(book.Convolution(a(2, 1, 3, 3), a(2), **on), a(1, 1, 5, 5)).backward(a(1, 2, 4, 4)),
        ShapeError,
        "Convolution: dout: expected shape (1, 2, 3, 3). Received: shape (1, 2, 4, 4)",
    ),
    "dout for Affine": (
        lambda a, on: after_forward(book.Affine(a(4, 3), a(3), **on), a(2, 4)).backward(a(3, 3)),
        ShapeError,
        "Affine: dout: expected shape (2, 3). Received: shape (3, 3)",
    ),
    "backward first": (
        lambda a, on: book.Relu(**on).backward(a(2, 3)),
        XconvError,
        "Relu: backward needs a forward pass before it. Received: array of shape (2, 3), dtype float32",
    ),
    "logits of rank 3": (
        lambda a, on: book.SoftmaxWithLoss(**on).forward(a(2, 3, 4), [0, 1]),
        ShapeError,
        "SoftmaxWithLoss: expected x of shape (N, classes). Received: array of shape (2, 3, 4), dtype float32",
    ),
    "no examples": (
        lambda a, on: book.SoftmaxWithLoss(**on).forward(a(0, 4), np.zeros(0, int)),
        ShapeError,
        "SoftmaxWithLoss: expected x of shape (N, classes). Received: array of shape (0, 4), dtype float32",
    ),
    "label out of range": (
        lambda a, on: book.SoftmaxWithLoss(**on).forward(a(2, 3), [0, 3]),
        DataError,
        "SoftmaxWithLoss: t: expected labels from 0 to 2. Received: 3 at index 1",
    ),
    "label out of range, on the device": (
        lambda a, on: book.SoftmaxWithLoss(**on).forward(a(2, 3), a(2, dtype="int64") + 7),
        DataError,
        "SoftmaxWithLoss: t: expected labels from 0 to 2. Received: 7 at index 0",
    ),
    "float labels, on the device": (
        lambda a, on: book.SoftmaxWithLoss(**on).forward(a(2, 3), a(2)),
        DTypeError,
        "SoftmaxWithLoss: t: expected integer labels; give t.astype(int). Received: array of shape (2,), dtype float32",
    ),
    "columns of rank 3": (
        lambda a, on: book.im2col(a(3, 4, 4), 2, 2),
        ShapeError,
        "im2col: expected images of shape (N, C, H, W). Received: shape (3, 4, 4)",
    ),
    "columns of another image": (
        lambda a, on: book.col2im(a(4, 4), (1, 1, 4, 4), 2, 2),
        ShapeError,
        "col2im: expected columns of shape (9, 4). Received: array of shape (4, 4), dtype float32",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(backend, mistake):
    act, kind, words = MISTAKES[mistake]

    def zeros(*shape, dtype="float32"):
        return backend.asarray(np.zeros(shape, dtype))

    with pytest.raises(XconvError) as caught:
        act(zeros, {"backend": backend})
    assert type(caught.value) is kind, repr(caught.value)
    assert str(caught.value) == words
