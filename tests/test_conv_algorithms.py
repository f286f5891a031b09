"""Each algorithm of convolution on Numba, forced in turn, against naive loops: where blocks, bands and tiles end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tests import reference
from tests.algorithms import ALGORITHMS, NONE, Forced, certain, conv2d, conv2d_backward, relu_pool
from tests.checks import close, draw
from xconv.backend import Need
from xconv.backend import numba_direct as direct
from xconv.backend import numba_winograd as winograd


class Case(NamedTuple):
    x: tuple[int, int, int, int]
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = NONE
    pool: tuple[int, int] = (1, 1)
    pool_stride: tuple[int, int] = (1, 1)


CASES = {
    "one output": Case((1, 1, 3, 3), 1, (3, 3)),
    "1x1": Case((2, 3, 4, 5), 7, (1, 1)),
    "the book's": Case((5, 1, 14, 14), 7, (5, 5), pool=(2, 2), pool_stride=(2, 2)),
    "overlapping pools": Case((3, 2, 9, 8), 16, (3, 2), (1, 1), (1, 1, 0, 1), (2, 3), (1, 2)),
    "strides": Case((2, 3, 11, 11), 17, (2, 2), (2, 2), (0, 1, 1, 0), (2, 2), (2, 2)),
    "stride over kernel": Case((3, 2, 13, 12), 3, (2, 3), (3, 4), (2, 0, 1, 3)),
    "pools of 3x3": Case((4, 16, 7, 7), 32, (3, 3), (1, 1), (1, 1, 1, 1), (3, 3), (2, 2)),
    "unsymmetric pads": Case((2, 20, 6, 7), 33, (3, 3), (1, 1), (2, 1, 0, 2)),
    "many channels": Case((2, 64, 5, 5), 48, (3, 3), (1, 1), (1, 1, 1, 1), (2, 2), (2, 2)),
    "gaps between pools": Case((3, 1, 10, 17), 17, (2, 5), (2, 1), NONE, (2, 3), (3, 4)),
    "more images than a block": Case((131, 1, 3, 3), 2, (3, 3)),
    "many outputs": Case((2, 1, 40, 33), 2, (3, 3)),
    "nothing but padding": Case((2, 2, 4, 4), 16, (2, 2), (1, 1), (3, 3, 3, 3)),
    "a large pool": Case((1, 1, 16, 19), 3, (2, 2), (1, 1), NONE, (14, 18), (1, 1)),
    "a prime number of vectors": Case((2, 1, 13, 4), 5, (11, 1), (1, 2)),
    "rows of several vectors": Case((2, 20, 6, 6), 4, (5, 5), (1, 1), (2, 2, 2, 2), (2, 2), (1, 1)),
}
TILES = {  # of Winograd: F(2x2) where an output is at most 2 high or wide
    "one output": Case((1, 16, 3, 3), 16, (3, 3)),
    "2 high": Case((3, 16, 4, 9), 32, (3, 3)),
    "2 wide": Case((2, 48, 6, 3), 16, (3, 3), pads=(0, 1, 0, 1)),
    "odd": Case((2, 32, 5, 5), 16, (3, 3), pads=(1, 1, 1, 1)),
    "unsymmetric pads": Case((2, 16, 6, 7), 48, (3, 3), pads=(2, 0, 1, 2)),
    "a tile an image": Case((7, 48, 4, 4), 16, (3, 3), pads=(1, 1, 1, 1)),
    "high": Case((2, 64, 10, 4), 16, (3, 3), pads=(0, 1, 2, 2)),
    "pixels": Case((4, 16, 1, 1), 16, (3, 3), pads=(2, 2, 2, 2)),
    "whole tiles": Case((2, 16, 8, 8), 80, (3, 3), pads=(1, 1, 1, 1)),
    "large": Case((1, 16, 18, 23), 16, (3, 3), pads=(0, 2, 1, 0)),
    "deep": Case((3, 128, 3, 5), 128, (3, 3), pads=(1, 1, 1, 1)),
}


def kind(algorithm, case=None):
    """The tolerance: F(2x2) rounds no worse than plain sums."""
    if algorithm != "winograd" or (case and min(reference.out_shape(case.x, (3, 3), (1, 1), case.pads)) <= 2):
        return "sum"
    return "winograd"


def named(cases):
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def whole(case):
    """x, w, b of small whole numbers, whose sums are exact in any order, with many ties and zeros."""
    rng = np.random.default_rng(len(case.x) + case.filters)
    shapes = [(case.x, 2), ((case.filters, case.x[1], *case.kernel), 2), ((case.filters,), 9)]
    return [rng.integers(-most, most + 1, shape).astype("f8") for shape, most in shapes]


def real(case, dtype):
    """x, w, b as they are in practice."""
    return [
        draw(*shape, dtype=dtype, seed=seed)
        for seed, shape in enumerate([case.x, (case.filters, case.x[1], *case.kernel), (case.filters,)])
    ]


def ways(case):
    """(name, its pooling) of the operations that a case is for."""
    pooled = [("conv2d_relu_max_pool", case.pool, case.pool_stride)] if case.pool != (1, 1) else []
    return [("conv2d", (1, 1), (1, 1)), *pooled]


def perform(backend, name, case, arrays, pool, pool_stride):
    """y, and the function that gives dx, dw, db of dy, after ReLU."""
    with backend.running():
        if name == "conv2d":
            y, saved = backend.conv2d(*arrays, case.stride, case.pads, activation="relu")
        else:
            y, saved = backend.conv2d_relu_max_pool(*arrays, case.stride, case.pads, pool, pool_stride)

    def backward(dy, need=Need()):  # noqa: B008
        with backend.running():
            return getattr(backend, f"{name}_backward")(dy, saved, need)

    return y, backward


def equal(backend, got, expected, tolerance):
    for what, mine, theirs in zip(("dx", "dw", "db"), got, expected, strict=True):
        close(backend, mine, theirs, tolerance, what)


def check_whole_numbers(backend, case, dtype):
    """conv2d with ReLU, and pooling behind it, to the bit."""
    exact = whole(case)
    conv = conv2d(*exact, case.stride, case.pads)
    for name, pool, pool_stride in ways(case):
        arrays = [a.astype(dtype) for a in exact]
        expected, dconv = relu_pool(conv, pool, pool_stride)
        y, backward = perform(backend, name, case, arrays, pool, pool_stride)
        close(backend, y, expected, "copy")
        dy = np.random.default_rng(5).integers(-3, 4, y.shape).astype("f8")
        theirs = conv2d_backward(dconv(dy), *exact[:2], case.stride, case.pads)
        equal(backend, backward(dy.astype(dtype)), theirs, "copy")


@named(CASES | TILES)
def test_the_reference_is_the_naive_one(case):
    """It leaves the filters to a product of matrices, which is checked where that takes no minutes."""
    if np.prod(case.x) * case.filters > 3000:
        case = case._replace(x=(1, 2, *case.x[2:]), filters=2)
    x, w, b = whole(case)
    y = conv2d(x, w, b, case.stride, case.pads)
    assert np.array_equal(y, reference.conv2d(x, w, b, case.stride, case.pads))
    mine, theirs = (f(y, x, w, case.stride, case.pads) for f in (conv2d_backward, reference.conv2d_backward))
    assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


# ---------------------------------------------------------------------- against the loops


@pytest.mark.parametrize("algorithm", ["columns", "direct"])
@named(CASES)
def test_whole_numbers(algorithm, dtype, case):
    backend = Forced(algorithm)
    check_whole_numbers(backend, case, dtype)
    assert backend.ran[0] == algorithm


@pytest.fixture
def block(request, monkeypatch):
    """Blocks of so many bytes."""
    monkeypatch.setattr(direct, "BLOCK", request.param)
    direct.geometry.cache_clear()
    yield request.param
    direct.geometry.cache_clear()


@pytest.mark.parametrize("block", [100, 700, 3000, 9000], indirect=True)
@named(CASES)
def test_blocks_and_bands(block, dtype, case):
    """From one row of windows in a block, which is the least, to a few images."""
    check_whole_numbers(Forced("direct", threads=3), case, dtype)


def test_bands_are_cut_where_an_image_is_larger_than_a_block():
    """What the test before this relies on; at the end of these images a band has fewer rows than the others."""
    cut = {
        (images, 0 < band < high, high % band > 0)
        for size in (28, 300)
        for images, band, high in [
            (at.shape[0], at.shape[1], at.out[0])
            for at in [direct.geometry((3, size, size), (3, 3), (1, 1), NONE, direct.NO_POOL, np.dtype("f4"))]
        ]
    }
    assert cut == {(1, False, False), (1, True, True)}


@named({name: CASES[name] for name in ("the book's", "overlapping pools", "many channels", "unsymmetric pads")})
@pytest.mark.parametrize("algorithm", ["columns", "direct"])
def test_numbers(algorithm, dtype, case):
    backend, arrays = Forced(algorithm), real(case, dtype)
    conv = conv2d(*arrays, case.stride, case.pads)
    for name, pool, pool_stride in ways(case):
        expected, dconv = relu_pool(conv, pool, pool_stride)
        y, backward = perform(backend, name, case, arrays, pool, pool_stride)
        close(backend, y, expected, "sum")
        sure = certain(conv, pool, pool_stride)
        dy = draw(*y.shape, dtype=dtype, seed=3) * sure
        assert sure.mean() > 0.98
        equal(backend, backward(dy), conv2d_backward(dconv(dy), *arrays[:2], case.stride, case.pads), "sum")


@pytest.mark.parametrize("activation", [None, "relu"])
@named(TILES)
def test_winograd(dtype, case, activation):
    backend, arrays = Forced("winograd"), real(case, dtype)
    expected = conv2d(*arrays, case.stride, case.pads)
    y, saved = backend.conv2d(*arrays, case.stride, case.pads, activation=activation)
    assert backend.ran == ["winograd"]
    dy = draw(*y.shape, dtype=dtype, seed=3)
    opened, scale = dy, np.abs(expected).max()
    if activation:
        dy *= certain(expected, (1, 1), (1, 1))
        expected, opened = np.maximum(expected, 0), np.where(expected > 0, dy, 0)
    close(backend, y, expected, kind("winograd", case), scale=scale)
    got = backend.conv2d_backward(dy, saved)
    equal(backend, got, conv2d_backward(opened, *arrays[:2], case.stride, case.pads), kind("winograd", case))


@named({name: case for name, case in TILES.items() if kind("winograd", case) == "sum"})
def test_winograd_2x2_is_exact_on_whole_numbers(dtype, case):
    """Its matrices hold nothing but 0, 1 and 1/2."""
    check_whole_numbers(Forced("winograd"), case, dtype)


@pytest.mark.parametrize("tiles", [1, 3, 32])
@pytest.mark.parametrize(("part", "threads"), [(1, 1), (1, 3), (60_000, 2), (150_000, 3)])
@pytest.mark.parametrize("own", [0, 1 << 19, winograd.OWN])
@named({name: TILES[name] for name in ("2 high", "odd", "a tile an image", "high", "pixels", "unsymmetric pads")})
def test_parts_of_winograd(case, part, threads, own, tiles, monkeypatch, dtype):
    """However many tiles are done together, images are transformed at once and filters, whole or in blocks."""
    monkeypatch.setattr(winograd, "PART", part)
    monkeypatch.setattr(winograd, "OWN", own)
    if not own:
        monkeypatch.setattr(winograd, "FILTERS", 0)
        monkeypatch.setattr(winograd, "SMALL", 0)
    monkeypatch.setattr(winograd, "GROUPS", tiles)
    monkeypatch.setattr(winograd, "TILES", tiles)
    backend, arrays = Forced("winograd", threads), real(case, dtype)
    y, saved = backend.conv2d(*arrays, case.stride, case.pads)
    layer = winograd._layer(case.x, saved.w.shape, y.shape[2:], y.itemsize)
    assert backend._apart(layer) == backend._whole(layer) == (own > 0)
    close(backend, y, conv2d(*arrays, case.stride, case.pads), kind("winograd", case))
    dy = draw(*y.shape, dtype=dtype, seed=3)
    got = backend.conv2d_backward(dy, saved)
    equal(backend, got, conv2d_backward(dy, *arrays[:2], case.stride, case.pads), kind("winograd", case))


@pytest.mark.parametrize("way", ["whole", "blocks"])
def test_winograd_of_no_images(way, monkeypatch, dtype):
    if way == "blocks":
        monkeypatch.setattr(winograd, "FILTERS", 0)
        monkeypatch.setattr(winograd, "SMALL", 0)
    backend, (x, w, b) = Forced("winograd"), real(TILES["odd"]._replace(x=(0, 32, 5, 5)), dtype)
    y, saved = backend.conv2d(x, w, b, (1, 1), (1, 1, 1, 1))
    dx, dw, db = backend.conv2d_backward(y, saved, Need(dw=np.full_like(w, np.nan)))
    assert y.shape == (0, 16, 5, 5) and dx.shape == x.shape
    assert not dw.any() and not db.any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numerical_gradients(algorithm):
    case = Case((1, 16, 3, 4), 16, (3, 3), pads=(1, 0, 1, 1)) if algorithm == "winograd" else CASES["overlapping pools"]
    if algorithm != "winograd":
        case = case._replace(x=(2, 2, 5, 6), filters=3)
    name, pool, pool_stride = ways(case)[-1]
    backend, arrays = Forced(algorithm), real(case, "float64")
    dy = None

    def value(i, a):
        moved = [a if k == i else kept for k, kept in enumerate(arrays)]
        return float((perform(backend, name, case, moved, pool, pool_stride)[0] * dy).sum())

    y, backward = perform(backend, name, case, arrays, pool, pool_stride)
    dy = draw(*y.shape, seed=3) * certain(conv2d(*arrays, case.stride, case.pads), pool, pool_stride)
    assert (y > 0).any() and (y == 0).any()
    for i, mine in enumerate(backward(dy)):
        theirs = reference.numerical_gradient(lambda a, i=i: value(i, a), arrays[i], h=1e-6)
        assert np.abs(mine - theirs).max() <= 1e-8 * np.abs(theirs).max(), ("dx", "dw", "db")[i]


# ---------------------------------------------------------------------- what is needed, and where it goes

MIDDLE = Case((5, 16, 7, 6), 32, (3, 3), pads=(1, 1, 1, 1), pool=(2, 2), pool_stride=(2, 2))


@pytest.mark.parametrize("need", [Need(x=False), Need(params=False), Need(x=False, params=False)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_what_is_needed(algorithm, need, dtype):
    backend, arrays = Forced(algorithm), real(MIDDLE, dtype)
    y, backward = perform(backend, "conv2d", MIDDLE, arrays, (1, 1), (1, 1))
    assert backend.ran == [algorithm]
    dy = draw(*y.shape, dtype=dtype, seed=3)
    everything, got = backward(dy), backward(dy, need)
    assert [g is not None for g in got] == [need.x, need.params, need.params]
    for mine, theirs in zip(got, everything, strict=True):
        assert mine is None or mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("x", [True, False])
def test_the_gradient_of_w_is_written_where_it_belongs(algorithm, x, dtype):
    backend, arrays = Forced(algorithm), real(MIDDLE, dtype)
    for name, pool, pool_stride in ways(MIDDLE)[: 2 if algorithm == "direct" else 1]:
        y, backward = perform(backend, name, MIDDLE, arrays, pool, pool_stride)
        dy = draw(*y.shape, dtype=dtype, seed=3)
        line = np.full(arrays[1].size + 2, np.nan, dtype)  # a view into a longer array, as a layer's gradient is
        dw = line[1:-1].reshape(arrays[1].shape)
        got = backward(dy, Need(x=x, dw=dw))
        assert got[1] is dw and dw.tobytes() == backward(dy)[1].tobytes()
        assert np.isnan(line[[0, -1]]).all() and not np.isnan(dw).any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_inputs_are_left_alone(algorithm, dtype):
    backend, arrays = Forced(algorithm), real(MIDDLE, dtype)
    for name, pool, pool_stride in ways(MIDDLE):
        y, backward = perform(backend, name, MIDDLE, arrays, pool, pool_stride)
        dy, before = draw(*y.shape, dtype=dtype, seed=3), [a.tobytes() for a in (*arrays, y)]
        kept = dy.tobytes()
        backward(dy)
        assert dy.tobytes() == kept and [a.tobytes() for a in (*arrays, y)] == before


# ---------------------------------------------------------------------- NaN, zeros, bits


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_in_an_image(algorithm, dtype):
    """It is wherever the definition has one; Winograd's tiles spread it to their other outputs, of that image alone."""
    backend, (x, w, b) = Forced(algorithm), real(MIDDLE, dtype)
    x[2, 3, 4, 3] = np.nan  # where every weight of a filter sees it
    conv = conv2d(x, w, b, (1, 1), MIDDLE.pads)
    for name, pool, pool_stride in ways(MIDDLE)[: 2 if algorithm == "direct" else 1]:
        y, backward = perform(backend, name, MIDDLE, (x, w, b), pool, pool_stride)
        nan = np.isnan(relu_pool(conv, pool, pool_stride)[0])
        assert nan.any() and np.isnan(y[nan]).all() and not np.isnan(np.delete(y, 2, axis=0)).any()
        assert algorithm == "winograd" or np.array_equal(np.isnan(y), nan)
        dx, dw, _ = backward(np.ones_like(y))
        # Behind pooling only the outputs that won send something back, and not every weight of theirs saw it.
        assert np.isnan(dw[:, 3]).all() if pool == (1, 1) else np.isnan(dw[:, 3]).any(axis=(1, 2)).all()
        assert not np.isnan(np.delete(dw, 3, axis=1)).any() and not np.isnan(dx).any()


@pytest.mark.parametrize(("algorithm", "channels"), [("winograd", 16), ("columns", 3), ("direct", 16), ("direct", 3)])
def test_nan_in_a_gradient(algorithm, channels, dtype):
    """It reaches dx of its image, dw and db of its filter, and nothing else."""
    case = MIDDLE._replace(x=(5, channels, 7, 6), pads=NONE)
    backend, (x, w, b) = Forced(algorithm, threads=1), real(case, dtype)
    for name, pool, pool_stride in ways(case)[: 2 if algorithm == "direct" else 1]:
        y, backward = perform(backend, name, case, (x, w, b + 50), pool, pool_stride)  # every ReLU is open
        dy = draw(*y.shape, dtype=dtype, seed=3)
        dy[2, 7, -1, -1] = np.nan  # the last window of its image
        dconv = relu_pool(conv2d(x, w, b + 50, (1, 1), NONE), pool, pool_stride)[1](dy)
        nan = np.isnan(conv2d_backward(dconv, x, w, (1, 1), NONE)[0])
        dx, dw, db = backward(dy)
        assert nan.any() and np.isnan(dx[nan]).all() and np.isnan(dw[7]).all() and np.isnan(db[7])
        assert not np.isnan(np.delete(dx, 2, axis=0)).any(), "another image"
        assert not np.isnan(np.delete(dw, 7, axis=0)).any() and not np.isnan(np.delete(db, 7)).any()
        assert algorithm == "winograd" or np.array_equal(np.isnan(dx), nan)


@pytest.mark.parametrize("algorithm", ["columns", "direct"])
def test_a_window_of_zeros_gives_exactly_zero(algorithm, dtype):
    """And so a ReLU behind it stays shut. Winograd leaves residues there: why the rule keeps it from ReLUs."""
    backend, (x, w, b) = Forced(algorithm), real(MIDDLE, dtype)
    x[:, :, 2:, 1:5] = 0
    b[:] = 0
    for name, pool, pool_stride in ways(MIDDLE)[: 2 if algorithm == "direct" else 1]:
        y, backward = perform(backend, name, MIDDLE, (x, w, b), pool, pool_stride)
        zeros = np.zeros(y.shape, bool)
        rows, columns = ((3, 7), (2, 4)) if pool == (1, 1) else ((2, 3), (1, 2))
        zeros[:, :, slice(*rows), slice(*columns)] = True
        assert (y[zeros] == 0).all() and (y > 0).any()
        dx, dw, db = backward(np.where(zeros, 1, 0).astype(dtype))
        assert not dx.any() and not dw.any() and not db.any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bits_repeat_and_threads_agree(algorithm, dtype):
    arrays, found = real(MIDDLE, dtype), []
    conv = conv2d(*arrays, (1, 1), MIDDLE.pads)
    for threads in (1, 2, 3):
        backend = Forced(algorithm, threads)
        for name, pool, pool_stride in ways(MIDDLE):
            dy = draw(*certain(conv, pool, pool_stride).shape, dtype=dtype) * certain(conv, pool, pool_stride)
            results = []
            for _ in range(2):
                y, backward = perform(backend, name, MIDDLE, arrays, pool, pool_stride)
                results.append([y, *backward(dy)])
            assert [a.tobytes() for a in results[0]] == [a.tobytes() for a in results[1]]
            found.append((name, results[0]))
    for name, results in found:
        first = next(kept for other, kept in found if other == name)
        if algorithm != "columns":  # whose products are wider or narrower, for which BLAS has other kernels
            assert results[0].tobytes() == first[0].tobytes(), "an image is computed alike whoever does it"
        for mine, theirs in zip(results, first, strict=True):
            close(Forced(None), mine, theirs.astype("f8"), kind(algorithm))
