"""Dropout on every backend: the mask's bits against Philox written out, and what a mask depends on."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference_norm, standin
from tests.checks import draw
from xconv import streams
from xconv.errors import BackendError, ConfigError, DTypeError

PLACES = [(0, 0, 0), (2**64 - 1, 2**64 - 1, 7), (12345, 3, 2**33)]  # seed, step, node


def at(backend, step):
    return backend.asarray(np.array([step], np.uint64))


def dropped(backend, x, rate, seed=1, step=0, node=0):
    return backend.to_numpy(backend.dropout(backend.asarray(x), rate, seed, at(backend, step), node))


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 5, 4, 11), (2, 0)])
@pytest.mark.parametrize(("seed", "step", "node"), PLACES)
def test_equals_philox_to_the_bit(backend, dtype, shape, seed, step, node):
    rate, x = 0.3, draw(*shape, dtype=dtype)
    y = backend.dropout(backend.asarray(x), rate, seed, at(backend, step), node)
    assert y.flags.c_contiguous and isinstance(y, backend.array_type)
    mask = np.array(reference_norm.kept(rate, seed, step, node, x.size), bool).reshape(shape)
    expected = np.where(mask, x * np.dtype(dtype).type(1 / (1 - rate)), np.dtype(dtype).type(0))
    assert backend.to_numpy(y).dtype == expected.dtype
    assert backend.to_numpy(y).tobytes() == expected.tobytes()
    dx = backend.dropout_backward(backend.asarray(x), rate, seed, at(backend, step), node)
    assert backend.to_numpy(dx).tobytes() == expected.tobytes()  # the way back has the same mask and the same scale


def test_a_large_mask_has_numpys_own_bits(backend):
    """Larger than what a thread draws at once, and than what one thread takes."""
    n = 3 * 2**17 + 11
    philox = np.random.Philox(key=np.array([5, 3], "u8"), counter=np.array([0, 0, 2, 9], "u8"))
    words = philox.random_raw(n // 2 + 1)
    halves = np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1).ravel()[:n]
    got = dropped(backend, np.ones(n, "float32"), 0.75, seed=5, step=9, node=2)
    assert np.array_equal(got, np.where(halves >= 0.75 * 2**32, np.float32(4), np.float32(0)))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_as_many_are_kept_as_the_rate_says(backend, rate):
    n = 200_000
    y = dropped(backend, np.ones(n, "float32"), rate)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs((y != 0).mean() - (1 - rate)) < 4 * deviation
    assert abs(y.mean() - 1) < 4 * deviation / (1 - rate)  # the expected value stays
    for lag in (1, 2, 7, 8):  # neighbours are dropped independently of one another
        both = ((y[lag:] != 0) & (y[:-lag] != 0)).mean()
        assert abs(both - (1 - rate) ** 2) < 6 * deviation


def test_a_mask_depends_on_its_place_alone(backend):
    x = np.ones((4, 6, 5, 5), "float32")
    masks = {
        (seed, step, node): dropped(backend, x, 0.5, seed, step, node).tobytes()
        for seed in (0, 1) for step in (0, 1, 2) for node in (0, 1, 2)
    }  # fmt: skip
    assert len(set(masks.values())) == len(masks)
    for place in reversed(masks):
        assert dropped(backend, x, 0.5, *place).tobytes() == masks[place]
    flat = dropped(backend, x.ravel(), 0.5, 0, 1, 2)
    assert flat.tobytes() == masks[0, 1, 2]  # the shape is nothing
    assert dropped(backend, x[:2], 0.5, 0, 1, 2).tobytes() == flat[:300].tobytes()  # a batch starts as a smaller one
    images = flat.reshape(4, -1)
    assert len({image.tobytes() for image in images}) == 4  # and its images have masks of their own


def test_a_half_equal_to_the_threshold_is_kept(backend):
    halves = [int(half) for half in streams.mask_words(1, 0, 0, 16)]
    for i, half in enumerate(halves):
        assert dropped(backend, np.ones(16, "float32"), half / 2**32)[i] > 0
        assert dropped(backend, np.ones(16, "float32"), (half + 1) / 2**32)[i] == 0


def test_rate_0_keeps_everything(backend, dtype):
    x = backend.asarray(draw(3, 7, dtype=dtype))
    y = backend.dropout(x, 0.0, 1, at(backend, 0), 0)
    assert y is not x and backend.to_numpy(y).tobytes() == backend.to_numpy(x).tobytes()
    y += 1.0
    assert backend.to_numpy(x).tobytes() == draw(3, 7, dtype=dtype).tobytes()


def test_a_dropped_infinity_is_zero(backend):
    y = dropped(backend, np.full(64, np.inf, "float32"), 0.5)
    assert set(y.tolist()) == {0.0, np.inf}


def test_rates_near_1(backend):
    x = np.ones(1000, "float32")
    assert not dropped(backend, x, 1 - 1e-12).any()  # the threshold is 2**32 itself
    assert dropped(backend, x, 0.99).max() == np.float32(1 / (1 - 0.99))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, np.nan, "0.5", None, True])
def test_rates_that_cannot_be(backend, rate):
    with pytest.raises(ConfigError, match=r"^rate must be a number from 0 to 1, and less than 1\. Received: "):
        backend.dropout(backend.asarray(np.ones(3)), rate, 1, at(backend, 0), 0)


@pytest.mark.parametrize("rate", [np.float64(0.3), np.float32(0.3), 0])
def test_rates_of_other_kinds(backend, rate):
    x = draw(50, dtype="float32")
    assert dropped(backend, x, rate).tobytes() == dropped(backend, x, float(rate)).tobytes()


def test_threads_draw_the_same_mask(monkeypatch):
    numba = pytest.importorskip("xconv.backend.numba_backend").NumbaBackend()
    monkeypatch.setattr("xconv.backend.numba_norm.DRAWN", 64)
    x, seen = draw(1003, dtype="float32"), set()
    for threads in (1, 2, 5):

        def ranges(n, work, most=None, t=threads):
            return [(n * i // t, n * (i + 1) // t) for i in range(t)]

        monkeypatch.setattr(numba.team, "ranges", ranges)
        seen.add(numba.dropout(x, 0.4, 1, np.array([2], np.uint64), 3).tobytes())
    mask = np.array(reference_norm.kept(0.4, 1, 2, 3, 1003))
    assert seen == {np.where(mask, x * np.float32(1 / (1 - 0.4)), np.float32(0)).tobytes()}


def test_words_from_the_middle_are_those_of_the_whole():
    whole = streams.mask_words(1, 2, 3, 1001)
    assert whole.dtype == np.uint32 and whole.shape == (1001,)
    for first, n in ((0, 0), (0, 8), (8, 3), (992, 9), (504, 497)):
        assert np.array_equal(streams.mask_words(1, 2, 3, n, first), whole[first : first + n])


# ---------------------------------------------------------------------- on the device


@pytest.fixture
def cupy():
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    return standin.real() or standin.install()


def test_a_recorded_step_reads_the_count_anew(cupy):
    x, step = cupy.asarray(draw(4, 25, dtype="float32")), at(cupy, 0)
    y, dx = cupy.xp.zeros(x.shape, "float32"), cupy.xp.zeros(x.shape, "float32")

    def work():
        y[...] = cupy.dropout(x, 0.5, 1, step, 0)
        dx[...] = cupy.dropout_backward(x, 0.5, 1, step, 0)

    launch, _ = standin.record(cupy, work)
    for count in (0, 5, 2**64 - 1):
        step.fill(count)
        launch()
        expected = dropped(cupy, draw(4, 25, dtype="float32"), 0.5, step=count)
        assert cupy.to_numpy(y).tobytes() == cupy.to_numpy(dx).tobytes() == expected.tobytes()


def test_what_the_device_refuses(cupy):
    x = cupy.asarray(draw(3, dtype="float32"))
    with pytest.raises(BackendError, match=r"dropout: expected arrays of backend 'cupy'"):
        cupy.dropout(x, 0.5, 1, np.zeros(1, np.uint64), 0)
    for wrong in (np.zeros(1, np.int64), np.zeros(2, np.uint64)):
        with pytest.raises(DTypeError, match=r"dropout: step must be uint64\[1\]\. Received: "):
            cupy.dropout(x, 0.5, 1, cupy.asarray(wrong), 0)
