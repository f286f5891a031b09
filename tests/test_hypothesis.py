"""Windows, sizes and memory layouts that nobody thought of, against naive loops and against contiguous copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.checks import close
from xconv import AvgPool2D, Conv2D, MaxPool2D, Sequential, SimpleConvNet, book
from xconv.backend.base import argmax_dtype
from xconv.errors import ShapeError

# The `backend` fixture gives one instance in the whole process: nothing of it is left from one example to the next.
ours = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
few = settings(ours, max_examples=50)
DTYPES = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)


class Window(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]


@st.composite
def windows(draw, *, pooling=False, padded=True, least=0):
    """Any window that leaves an output; batches down to `least` images."""
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 2))
    stride = draw(st.tuples(*[st.integers(1, 4)] * 2))
    dilation = (1, 1) if pooling else draw(st.tuples(*[st.integers(1, 3)] * 2))
    most = [size - 1 if pooling else 3 for size in kernel] if padded else [0, 0]
    pads = draw(st.tuples(*[st.integers(0, most[axis]) for axis in (0, 0, 1, 1)]))
    size = []
    for axis in (0, 1):
        smallest = dilation[axis] * (kernel[axis] - 1) + 1 - pads[2 * axis] - pads[2 * axis + 1]
        size.append(max(smallest, 1) + draw(st.integers(0, 4)))
    shape = (draw(st.integers(least, 3)), draw(st.integers(1, 3)), *size)
    return Window(shape, kernel, stride, pads, dilation)


def normal(seed, *shape, dtype="float64"):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# ---------------------------------------------------------------------- operations


@ours
@given(windows(), DTYPES, SEEDS)
def test_columns(backend, window, dtype, seed):
    x = normal(seed, *window.shape, dtype=dtype)
    expected = reference.im2col(x, *window[1:])
    col = backend.im2col(backend.asarray(x), *window[1:])
    assert col.dtype == dtype and col.flags.c_contiguous
    close(backend, col, expected, "copy")
    dcol = normal(seed, *expected.shape, dtype=dtype)
    dx = backend.col2im(backend.asarray(dcol), window.shape, *window[1:])
    assert dx.dtype == dtype and dx.flags.c_contiguous
    scale = reference.col2im(np.abs(dcol), *window).max(initial=0)
    close(backend, dx, reference.col2im(dcol, *window), "sum", scale=scale)


def tied(seed, shape, dtype):
    """Few different values, some of them infinite, some NaN."""
    rng = np.random.default_rng(seed)
    return rng.choice([-np.inf, -1.0, 0.0, 1.0, np.inf, np.nan], shape, p=[0.1, 0.3, 0.2, 0.3, 0.05, 0.05]).astype(
        dtype
    )


@ours
@given(windows(pooling=True), DTYPES, SEEDS)
def test_max_pool(backend, window, dtype, seed):
    shape, kernel, stride, pads, _ = window
    x = tied(seed, shape, dtype)
    expected, where = reference.max_pool(x, kernel, stride, pads)
    y, argmax = backend.max_pool(backend.asarray(x), kernel, stride, pads)
    close(backend, y, expected, "copy")
    assert y.dtype == dtype and argmax.dtype == argmax_dtype(kernel)
    assert np.array_equal(backend.to_numpy(argmax), where)
    dy = normal(seed, *expected.shape, dtype=dtype)
    dx = backend.max_pool_backward(backend.asarray(dy), argmax, shape, kernel, stride, pads)
    expected, scale = (
        reference.max_pool_backward(terms, where, shape, kernel, stride, pads) for terms in (dy, np.abs(dy))
    )
    close(backend, dx, expected, "sum", scale=scale.max(initial=0))


@few
@given(windows(pooling=True), DTYPES, SEEDS)
def test_avg_pool(backend, window, dtype, seed):
    shape, kernel, stride, pads, _ = window
    x = normal(seed, *shape, dtype=dtype)
    expected = reference.avg_pool(x, kernel, stride, pads)
    scale = np.abs(x).max(initial=0)
    close(backend, backend.avg_pool(backend.asarray(x), kernel, stride, pads), expected, "sum", scale=scale)
    dy = normal(seed, *expected.shape, dtype=dtype)
    dx = backend.avg_pool_backward(backend.asarray(dy), shape, kernel, stride, pads)
    scale = np.abs(dy).max(initial=0)
    close(backend, dx, reference.avg_pool_backward(dy, shape, kernel, stride, pads), "sum", scale=scale)


@ours
@given(windows(), st.integers(1, 3), st.sampled_from([None, "relu"]), DTYPES, SEEDS)
def test_conv2d(backend, window, filters, activation, dtype, seed):
    shape, kernel, *how = window
    x = normal(seed, *shape, dtype=dtype)
    w, b = normal(seed, filters, shape[1], *kernel, dtype=dtype), normal(seed, filters, dtype=dtype)
    y, saved = backend.conv2d(*map(backend.asarray, (x, w, b)), *how, activation)
    expected = reference.conv2d(x, w, b, *how)
    scale = reference.conv2d(*map(np.abs, (x, w, b)), *how).max(initial=0)
    close(backend, y, np.maximum(expected, 0) if activation else expected, "sum", "y", scale=scale)
    dy = normal(seed, *expected.shape, dtype=dtype)
    opened = np.where(backend.to_numpy(y) > 0, dy, 0) if activation else dy
    gradients = reference.conv2d_backward(opened, x, w, *how)
    scales = reference.conv2d_backward(*map(np.abs, (opened, x, w)), *how)
    got = backend.conv2d_backward(backend.asarray(dy), saved)
    for name, mine, theirs, scale in zip(("dx", "dw", "db"), got, gradients, scales, strict=True):
        close(backend, mine, theirs, "sum", name, scale=scale.max(initial=0))


@few
@given(windows(padded=True, least=1), windows(pooling=True, padded=False), st.integers(1, 3), SEEDS)
def test_convolution_and_pooling_in_one(backend, window, pool, filters, seed):
    """The shortcut against its three parts, which the tests above hold to the definition; in float64."""
    shape, kernel, stride, pads, _ = window
    n, c = shape[:2]
    size = [  # large enough for the pooling's window to fit
        max(shape[2 + axis], (pool.kernel[axis] - 1) * stride[axis] + kernel[axis]) for axis in (0, 1)
    ]
    x, w, b = normal(seed, n, c, *size), normal(seed, filters, c, *kernel), normal(seed, filters)
    mine = [backend.asarray(a) for a in (x, w, b)]
    y, saved = backend.conv2d_relu_max_pool(*mine, stride, pads, pool.kernel, pool.stride)
    conv, kept = backend.conv2d(*mine, stride, pads, activation="relu")
    expected, argmax = backend.max_pool(conv, pool.kernel, pool.stride, (0, 0, 0, 0))
    plain = [np.abs(a) for a in (x, w, b)]
    scale = reference.conv2d(*plain, stride, pads).max()
    close(backend, y, backend.to_numpy(expected), "sum", "y", scale=scale)
    dy = backend.asarray(normal(seed, *y.shape))
    got = backend.conv2d_relu_max_pool_backward(dy, saved)
    dconv = backend.max_pool_backward(dy, argmax, conv.shape, pool.kernel, pool.stride, (0, 0, 0, 0))
    whole = backend.conv2d_backward(dconv, kept)
    scales = reference.conv2d_backward(np.abs(backend.to_numpy(dconv)), *plain[:2], stride, pads)
    for name, mine, theirs, scale in zip(("dx", "dw", "db"), got, whole, scales, strict=True):
        close(backend, mine, backend.to_numpy(theirs), "sum", name, scale=scale.max())


@few
@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), DTYPES, SEEDS)
def test_products_and_loss(backend, m, k, p, dtype, seed):
    a, b = normal(seed, m, k, dtype=dtype), normal(seed, k, p, dtype=dtype)
    scale = reference.matmul(np.abs(a), np.abs(b)).max(initial=0)
    close(backend, backend.matmul(backend.asarray(a), backend.asarray(b)), reference.matmul(a, b), "sum", scale=scale)
    if m:
        labels = np.random.default_rng(seed).integers(0, k, m)
        loss, d = backend.softmax_cross_entropy(backend.asarray(a), backend.asarray(labels))
        expected, dlogits = reference.softmax_cross_entropy(a, labels)
        close(backend, loss, np.array([expected]), "elementwise", scale=1.0)
        close(backend, d, dlogits, "elementwise", scale=1.0 / m)


# ---------------------------------------------------------------------- sizes


sizes = st.one_of(st.integers(1, 9), st.integers(1, 9), st.sampled_from([2**31, 2**62, 2**64 + 1]))


@given(
    st.sampled_from([Conv2D, MaxPool2D, AvgPool2D]),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.tuples(sizes, sizes),
    st.integers(0, 3),
)
def test_a_layer_knows_its_output_or_refuses(kind, size, kernel, stride, pad):
    """Nothing is allocated for the asking, and no size overflows."""
    pad = min(pad, min(kernel) - 1)
    args = (2, kernel) if kind is Conv2D else (kernel,)
    layer = kind(*args, strides=stride, padding=pad)
    expected = [(size[axis] + 2 * pad - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)]
    if min(expected) >= 1:
        assert layer.output_shape((2, *size)) == (2, *expected)
        if max(*size, *stride, *kernel) < 10:
            assert tuple(expected) == reference.out_shape((1, 2, *size), kernel, stride, (pad,) * 4)
        return
    try:
        got = layer.output_shape((2, *size))
    except ShapeError as error:
        assert "no output is left" in str(error) and "Received: input" in str(error)
    else:
        raise AssertionError(f"{got} where nothing is left")


# ---------------------------------------------------------------------- layouts


class Layout(NamedTuple):
    """How to cut an array out of a larger one, so that its strides are anything."""

    order: tuple[int, ...]  # of the axes in memory
    steps: tuple[int, ...]
    before: tuple[int, ...]
    swapped: bool
    read_only: bool
    unaligned: bool

    def cut(self, memory):
        """The array that lies in `memory`, as a view."""
        cuts = []
        for axis, step in enumerate(self.steps):
            inside = memory.shape[self.order.index(axis)]
            start = slice(self.before[axis], inside)
            cuts.append((start, slice(None, None, step)))
        view = memory.transpose([self.order.index(axis) for axis in range(len(self.order))])
        view = view[tuple(start for start, _ in cuts)]
        return view[tuple(step for _, step in cuts)]

    def memory_for(self, values):
        """Memory of which `cut` is `values`, with noise around it."""
        shape = [
            self.before[axis] + (length - 1) * abs(step) + 1
            for axis, (length, step) in enumerate(zip(values.shape, self.steps, strict=True))
        ]
        dtype = values.dtype.newbyteorder() if self.swapped else values.dtype
        count = int(np.prod(shape))
        raw = np.zeros(count * dtype.itemsize + 1, np.uint8)
        flat = raw[1:] if self.unaligned else raw[:-1]
        memory = flat.view(dtype).reshape([shape[axis] for axis in self.order])
        memory[...] = 7
        self.cut(memory)[...] = values
        return memory


@st.composite
def layouts(draw, rank=4):
    flags = [draw(st.booleans()) for _ in range(3)]
    return Layout(
        tuple(draw(st.permutations(range(rank)))),
        draw(st.tuples(*[st.sampled_from([1, 1, 2, 3, -1, -2])] * rank)),
        draw(st.tuples(*[st.integers(0, 2)] * rank)),
        *flags,
    )


def strided(layout, values):
    """(a view that equals `values`, the memory under it)."""
    memory = layout.memory_for(values)
    view = layout.cut(memory)
    assert np.array_equal(view, values)
    if layout.read_only:
        memory.setflags(write=False)
        view.setflags(write=False)
    return view, memory


@ours
@given(layouts(), DTYPES, SEEDS)
def test_any_memory_gives_the_same_array(backend, layout, dtype, seed):
    values = normal(seed, 2, 3, 4, 3, dtype=dtype)
    view, memory = strided(layout, values)
    before = memory.tobytes()
    got = backend.asarray(view)
    assert isinstance(got, backend.array_type) and got.dtype == np.dtype(dtype) and got.flags.c_contiguous
    assert backend.to_numpy(got).tobytes() == values.tobytes()
    assert memory.tobytes() == before


@few
@given(layouts(), layouts(2), DTYPES, SEEDS)
def test_any_memory_gives_the_same_answers(backend, layout, of_labels, dtype, seed):
    model = SimpleConvNet((1, 6, 6), {"filter_num": 2, "filter_size": 3}, 3, 4, "he", backend=backend, dtype=dtype)
    x, t = normal(seed, 3, 1, 6, 6, dtype=dtype), np.random.default_rng(seed).integers(0, 4, 3)
    view, memory = strided(layout, x)
    one_hot, label_memory = strided(of_labels, np.eye(4)[t])
    before = memory.tobytes(), label_memory.tobytes()
    assert model.predict(view).tobytes() == model.predict(x).tobytes()
    assert model.evaluate(view, one_hot) == model.evaluate(x, t)
    expected = model.gradient(x, t).to_numpy()
    for name, gradient in model.gradient(view, one_hot).to_numpy().items():
        assert gradient.tobytes() == expected[name].tobytes(), name
    assert (memory.tobytes(), label_memory.tobytes()) == before


@few
@given(layouts(), layouts(), SEEDS)
def test_any_memory_in_the_books_layers(backend, layout, of_dout, seed):
    """Views on the device, too, where the backend has one."""
    on_host = isinstance(np.empty(0), backend.array_type)
    named = {"backend": backend}
    w, b = backend.asarray(normal(seed, 2, 3, 2, 2)), backend.asarray(normal(seed, 2))
    layers = [
        (book.Convolution(w, b, stride=1, pad=1, **named), (2, 2, 6, 7)),
        (book.Pooling(2, 2, stride=1, **named), (2, 3, 4, 5)),
        (book.Relu(**named), (2, 3, 5, 6)),
    ]
    for layer, out_shape in layers:
        results = []
        for plain in (True, False):
            arrays = []
            for how, values in ((layout, normal(seed, 2, 3, 5, 6)), (of_dout, normal(seed, *out_shape))):
                if plain:
                    arrays.append(backend.asarray(values))
                elif on_host:
                    arrays.append(strided(how, values)[0])
                else:
                    arrays.append(how.cut(backend.asarray(how.memory_for(values))))
            before = [backend.to_numpy(a).tobytes() for a in arrays]
            y, dx = layer.forward(arrays[0]), layer.backward(arrays[1])
            results.append([backend.to_numpy(a).tobytes() for a in (y, dx)])
            assert [backend.to_numpy(a).tobytes() for a in arrays] == before
        assert results[0] == results[1], type(layer).__name__


@few
@given(st.data(), SEEDS)
def test_batches_of_any_size_give_the_same_predictions(backend, data, seed):
    model = Sequential(
        [Conv2D(2, 3), MaxPool2D(2)],
        input_shape=(2, 6, 6),
        data_format="channels_first",
        backend=backend,
        dtype="float64",
    )
    n = data.draw(st.integers(0, 7))
    x = normal(seed, n, 2, 6, 6)
    expected = model.predict(x)
    assert expected.shape == (n, 2, 2, 2)
    got = model.predict(x, batch_size=data.draw(st.integers(1, 9)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
