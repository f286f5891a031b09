"""Convolution along rows on Numba, against naive loops: matrices, tiles and bands, and when it is taken."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from xconv.kernels.cpu.cook_toom import cook_toom
from xconv.kernels.cpu.vectors import SHUT, lanes

from tests import reference
from tests.algorithms import NONE, Forced, certain, conv2d, conv2d_backward, relu_pool
from tests.checks import close, draw
from xconv import Sequential
from xconv.backend import numba_rows
from xconv.backend.numba_direct import DirectSaved
from xconv.backend.numpy_backend import NumpyBackend
from xconv.errors import ShapeError
from xconv.layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU

ONE = (1, 1)
POOL = (2, 2), (2, 2)


class Case(NamedTuple):
    x: tuple[int, int, int, int]
    filters: int
    kernel: int
    pads: tuple[int, int, int, int] = NONE


CASES = {
    "two by two outputs": Case((1, 1, 4, 4), 1, 3),
    "the book's": Case((5, 1, 14, 14), 7, 5),
    "odd": Case((2, 3, 9, 11), 17, 3),
    "narrow": Case((2, 2, 17, 4), 16, 3),
    "narrow, by 5": Case((2, 2, 21, 6), 5, 5),
    "flat": Case((2, 2, 6, 40), 33, 5),
    "same": Case((3, 4, 8, 8), 32, 3, (1, 1, 1, 1)),
    "unsymmetric pads": Case((2, 5, 6, 7), 33, 3, (2, 0, 1, 2)),
    "wide pads": Case((2, 2, 4, 5), 16, 5, (4, 3, 3, 4)),
    "many channels": Case((2, 40, 7, 9), 48, 3, (1, 1, 1, 1)),
    "many rows": Case((1, 2, 70, 9), 3, 3),
    "more images than threads": Case((7, 1, 10, 12), 40, 3),
}
named = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
pooled = pytest.mark.parametrize("pool", [None, POOL], ids=["", "pool"])


def real(case, dtype):
    shapes = case.x, (case.filters, case.x[1], case.kernel, case.kernel), (case.filters,)
    return [draw(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def expected(x, w, b, pads, pool):
    return relu_pool(conv2d(x, w, b, ONE, pads), *(pool or (ONE, ONE)))[0]


def perform(backend, x, w, b, pads, pool):
    backend.ran.clear()
    with backend.running():
        return backend.conv2d_relu_inference(x, w, b, ONE, pads, ONE, pool)


def trained(backend, x, w, b, pads, pool):
    """y as training has it, its map of maxima and the function that gives dx, dw, db of dy."""
    backend.ran.clear()
    with backend.running():
        if pool:
            y, saved = backend.conv2d_relu_max_pool(x, w, b, ONE, pads, *pool)
        else:
            y, saved = backend.conv2d(x, w, b, ONE, pads, activation="relu")
    assert isinstance(saved, DirectSaved), "else another algorithm is tested"
    name = "conv2d_relu_max_pool_backward" if pool else "conv2d_backward"
    return y, saved.chosen.reshape(y.shape), lambda dy: getattr(backend, name)(dy, saved)


# ---------------------------------------------------------------------- the matrices


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (4, 5), (3, 4), (1, 2)])
def test_minimal_filtering_is_exact(m, r):
    outputs, filters, inputs = (np.array(matrix, object) for matrix in cook_toom(m, r))
    rng = np.random.default_rng(m + r)
    x, w = (np.array([Fraction(int(v), 7) for v in rng.integers(-99, 99, size)]) for size in (m + r - 1, r))
    y = outputs @ ((filters @ w) * (inputs @ x))
    assert list(y) == [sum(x[i + k] * w[k] for k in range(r)) for i in range(m)]


def test_the_matrices_of_lavin_and_gray():
    """Section 4.3 of their paper: F(4x4, 3x3)."""
    outputs, filters, inputs = cook_toom(4, 3)
    assert outputs == [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    assert inputs[:3] == [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    assert inputs[3:] == [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    assert [[24 * entry for entry in row] for row in filters] == [
        [6, 0, 0],
        [-4, -4, -4],
        [-4, 4, -4],
        [1, 2, 4],
        [1, -2, 4],
        [0, 0, 24],
    ]


# ---------------------------------------------------------------------- against the loops


@pooled
@named
def test_numbers(case, pool, dtype):
    backend, arrays = Forced("rows"), real(case, dtype)
    y = perform(backend, *arrays, case.pads, pool)
    assert backend.ran == ["rows"] and y.flags.c_contiguous
    close(backend, y, expected(*arrays, case.pads, pool), "rows" if case.x[1] > 32 else "sum")


@pytest.fixture
def cut(request, monkeypatch):
    """Tiles of so many bytes."""
    monkeypatch.setattr(numba_rows, "TILES", request.param)
    numba_rows.fitting.cache_clear()
    yield request.param
    numba_rows.fitting.cache_clear()


@pytest.mark.parametrize("cut", [1, 3000, 12_000, 40_000], indirect=True)
@pooled
@named
def test_bands(cut, case, pool, dtype):
    """From one tile across, and as few rows as make a vector, to bands of both."""
    backend, arrays = Forced("rows", threads=3), real(case, dtype)
    y = perform(backend, *arrays, case.pads, pool)
    close(backend, y, expected(*arrays, case.pads, pool), "rows" if case.x[1] > 32 else "sum")


def test_bands_are_cut_both_ways():
    """What the test before this relies on, with its last: bands that end before the image, down and across."""
    size = 3 * lanes("float32")
    rest = (3, 3), NONE, POOL, np.dtype("f4")
    whole = numba_rows.geometry((1, size, size), (16, 1, *rest[0]), *rest[1:])
    wide = numba_rows.geometry((64, size, 10 * size), (16, 64, *rest[0]), *rest[1:])
    high = whole.out[0], -(-whole.out[1] // 2)
    assert whole.band == high
    assert wide.band[0] < high[0] and wide.band[1] < 10 * high[1] and wide.out[0] % wide.band[0]
    assert wide.scratch < 2 * numba_rows.TILES


@pooled
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_plain_image_gives_exactly_its_bias(kernel, pool, dtype):
    """Where nothing but zeros is seen no residue is left; weights and biases of any size."""
    backend, case = Forced("rows"), Case((2, 3, 12, 12), 20, kernel)
    _, w, b = real(case, dtype)
    y = perform(backend, np.zeros(case.x, dtype), w, b, NONE, pool)
    assert np.array_equal(y, np.broadcast_to(np.maximum(b, 0)[:, None, None], y.shape))


@pooled
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [1, 4])
def test_windows_of_zeros_beside_others(channels, kernel, pool, dtype):
    """Among few channels they give exactly the bias: behind one of 0 the ReLU is shut, and no gradient goes through."""
    backend, case = Forced("rows"), Case((3, channels, 20, 18), 20, kernel)
    x, w, b = real(case, dtype)
    x[:, :, 7:] = 0
    x[:, :, :, 8:] = 0
    x[1] = 0
    x[2, channels - 1, 19, 17] = 1e-30
    b[::2] = 0
    zeros = conv2d(x != 0, np.ones_like(w), 0 * b, ONE, NONE) == 0
    if pool:
        zeros = ~reference.max_pool((~zeros).astype("f8"), *POOL, NONE)[0].astype(bool)
    y, chosen, backward = trained(backend, x, w, b, NONE, pool)
    assert backend.ran == ["rows"] and y.tobytes() == perform(backend, x, w, b, NONE, pool).tobytes()
    plain = np.broadcast_to(np.maximum(b, 0)[:, None, None], y.shape)
    assert 0.3 < zeros.mean() < 0.9 and np.array_equal(y[zeros], plain[zeros])
    close(backend, y, expected(x, w, b, NONE, pool), "sum")
    _, dw, db = backward(np.ascontiguousarray(zeros, dtype))
    shut = b <= 0
    assert (chosen[zeros & shut[:, None, None]] == SHUT).all() and not chosen[zeros & ~shut[:, None, None]].any()
    assert not db[shut].any() and not dw[shut].any() and (db[~shut] > 0).all()


@pooled
@named
def test_training(case, pool, dtype):
    """The map of maxima is the direct algorithm's: gradients of what is certain, to the loops."""
    backend, (x, w, b) = Forced("rows"), real(case, dtype)
    if x.shape[1] > numba_rows.FEW:
        x, w = x[:, :3].copy(), w[:, :3].copy()
    conv = conv2d(x, w, b, ONE, case.pads)
    y, chosen, backward = trained(backend, x, w, b, case.pads, pool)
    assert backend.ran == ["rows"]
    sure = certain(conv, *(pool or (ONE, ONE)))
    assert np.array_equal(chosen[sure], trained(Forced("direct"), x, w, b, case.pads, pool)[1][sure]) and sure.any()
    theirs, dconv = relu_pool(conv, *(pool or (ONE, ONE)))
    close(backend, y, theirs, "sum")
    dy = draw(*y.shape, dtype=dtype, seed=3) * sure
    for mine, other in zip(backward(dy), conv2d_backward(dconv(dy), x, w, ONE, case.pads), strict=True):
        close(backend, mine, other, "sum")


@pooled
@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_what_is_not_finite_spoils_its_image_alone(spoilt, pool, dtype):
    backend, case = Forced("rows"), Case((4, 3, 12, 12), 20, 3)
    x, w, b = real(case, dtype)
    x[2, 1, 5, 6] = spoilt
    nan = np.isnan(expected(np.where(np.isinf(x), np.nan, x), w, b, NONE, pool))
    y = perform(backend, x, w, b, NONE, pool)
    assert nan.any() and not np.isfinite(y[nan]).any() and np.isfinite(np.delete(y, 2, axis=0)).all()


@pooled
@pytest.mark.parametrize("where", [(0, 0), (0, 3), (1, 1), (2, 2), (3, 4), (5, 7), (11, 11)])
def test_nan_wins_wherever_it_stands(where, pool, dtype):
    """In each of the four outputs of a window, and in each of the four neighbours of a tile."""
    backend, case = Forced("rows"), Case((1, 1, 12, 12), 17, 3, (1, 1, 1, 1))
    x, w, b = real(case, dtype)
    x[0, 0, *where] = np.nan
    nan = np.isnan(expected(x, w, b + 100, case.pads, pool))
    y = perform(backend, x, w, b + 100, case.pads, pool)
    assert nan.any() and np.isnan(y[nan]).all()


def test_a_nan_weight_spoils_its_filter_alone(dtype):
    backend, case = Forced("rows"), Case((2, 3, 9, 9), 20, 5)
    x, w, b = real(case, dtype)
    w[7, 1, 2, 3] = np.nan
    y = perform(backend, x, w, b, NONE, POOL)
    assert np.isnan(y[:, 7]).all() and np.isfinite(np.delete(y, 7, axis=1)).all()


def test_arrays_are_left_alone_and_bits_repeat(dtype):
    backend, case = Forced("rows", threads=3), CASES["more images than threads"]
    arrays = real(case, dtype)
    before = [a.tobytes() for a in arrays]
    first, again = (perform(backend, *arrays, case.pads, POOL) for _ in range(2))
    alone = perform(Forced("rows", threads=1), *arrays, case.pads, POOL)
    assert first.tobytes() == again.tobytes() == alone.tobytes()
    assert [a.tobytes() for a in arrays] == before


def test_each_image_is_as_it_is_alone(dtype):
    backend, case = Forced("rows"), CASES["more images than threads"]
    x, w, b = real(case, dtype)
    y = perform(backend, x, w, b, case.pads, None)
    for i in range(len(x)):
        assert y[i].tobytes() == perform(backend, x[i : i + 1], w, b, case.pads, None).tobytes()
    assert perform(backend, x[:0], w, b, case.pads, None).shape == (0, *y.shape[1:])


def test_channels_that_do_not_match_are_refused():
    """Else the kernel would read on beyond its filters."""
    for algorithm in ("rows", "direct"):
        x, w, b = real(Case((2, 4, 8, 8), 8, 3), "float32")
        with pytest.raises(ShapeError, match="channels of x"):
            perform(Forced(algorithm), x, w[:, :2].copy(), b, NONE, None)


def test_a_view_of_an_image_is_copied(dtype):
    backend, (x, w, b) = Forced("rows"), real(Case((2, 1, 20, 20), 8, 3), dtype)
    close(
        backend,
        perform(backend, x[:, :, ::2, 1::2], w, b, NONE, POOL),
        expected(x[:, :, ::2, 1::2], w, b, NONE, POOL),
        "sum",
    )


# ---------------------------------------------------------------------- when it is taken


def chosen(image, filters, kernel, pool=POOL, workspace=1 << 28, **window):
    window = {"stride": ONE, "pads": NONE, "dilation": ONE, **window}
    w_shape = filters, image[0], *kernel
    at = numba_rows.fitting(workspace, image, w_shape, *window.values(), pool, np.dtype("f4"))
    return at is not None


@pytest.fixture
def vectors_of_64_bytes(monkeypatch):
    monkeypatch.setattr(numba_rows, "BYTES", 64)
    numba_rows.fitting.cache_clear()
    yield
    numba_rows.fitting.cache_clear()


@pytest.mark.usefixtures("vectors_of_64_bytes")
def test_the_rule():
    book = (1, 28, 28), 30, (5, 5)
    assert chosen(*book) and chosen((32, 13, 13), 64, (3, 3)) and chosen(*book, pool=None)
    assert chosen((64, 32, 32), 64, (3, 3), None, pads=(1, 1, 1, 1))
    assert not chosen((1, 28, 28), 30, (4, 4)) and not chosen((1, 28, 28), 30, (5, 3))
    assert not chosen(*book, stride=(2, 2)) and not chosen(*book, dilation=(2, 2))
    assert not chosen(*book, pool=((3, 3), (2, 2))) and not chosen(*book, pool=((2, 2), (1, 1)))
    assert not chosen((64, 5, 5), 64, (3, 3), None), "tiles are mostly empty"
    assert not chosen((512, 16, 16), 512, (3, 3)), "filters come from memory again and again"
    assert not chosen((64, 224, 224), 64, (3, 3), workspace=1 << 20)


def test_shorter_vectors_have_too_few_registers(monkeypatch):
    monkeypatch.setattr(numba_rows, "BYTES", 32)
    numba_rows.fitting.cache_clear()
    assert not chosen((1, 28, 28), 30, (5, 5))
    numba_rows.fitting.cache_clear()


@pytest.mark.parametrize("algorithm", ["direct", "columns", "winograd"])
def test_not_where_another_is_forced(algorithm):
    backend, case = Forced(algorithm), Case((2, 16, 8, 8), 16, 3)
    perform(backend, *real(case, "float32"), NONE, POOL)
    assert backend.ran == [algorithm]


def network(backend, dtype, fuse=True):
    layers = [
        Conv2D(16, 5),
        ReLU(),
        MaxPool2D(2),
        Conv2D(32, 3, padding="same", activation="relu"),
        Flatten(),
        Dense(3),
    ]
    return Sequential(layers, input_shape=(16, 16, 2), backend=backend, dtype=dtype, fuse=fuse, seed=4)


def test_deeper_layers_are_trained_without(dtype):
    """Windows that see the same must be exactly as large there."""
    backend = Forced("rows")
    model = network(backend, dtype)
    model.compile("sgd", "mse")
    x, t = draw(6, 16, 16, 2, dtype=dtype), draw(6, 3, dtype=dtype)
    for run in (model.predict, lambda x: model.loss(x, t)):
        backend.ran.clear()
        run(x)
        assert backend.ran == ["rows"] * 2
    for run in (model.train_on_batch, model.gradient):
        backend.ran.clear()
        run(x, t)
        assert backend.ran == ["rows", "direct"]
    backend.ran.clear()
    network(backend, dtype, fuse=False).predict(x)
    assert backend.ran == ["columns"] * 2


def test_predictions_are_those_of_numpy(dtype):
    x = draw(6, 16, 16, 2, dtype=dtype)
    mine, theirs = network(Forced("rows"), dtype), network(NumpyBackend(), "float64", fuse=False)
    theirs.set_weights([w.astype("f8") for w in mine.get_weights()])
    close(mine.backend, mine.predict(x), theirs.predict(x.astype("f8")), "rows")


def test_the_summary_says_so(capsys):
    model = network(Forced("rows"), "float32")
    model.summary(verbose=2)
    told = [line for line in capsys.readouterr().out.splitlines() if "rows" in line]
    assert told[0].endswith("  rows F(4,5)") and told[1].endswith("  direct, predicting rows F(4,3)") and len(told) == 2


def test_the_reference_tells_a_maximum_from_its_neighbours():
    """The cases above are about numbers, not ties: nearly all maxima are certain."""
    case = CASES["the book's"]
    assert certain(conv2d(*real(case, "float64"), ONE, NONE), *POOL).mean() > 0.98
