"""Augmentation: what is drawn, from what it depends, and what becomes of a picture."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from tests import reference_augment
from xconv import streams
from xconv.data import Augmentation
from xconv.data.augment import BLOCK, ONE, Draws, cos_sin
from xconv.errors import ConfigError, DTypeError, ShapeError
from xconv.streams import Purpose

EVERYTHING = Augmentation(flip=True, crop=2, rotate=30, shift=(0.2, 0.1), zoom=0.3, cutout=3, fill=(9, 8, 7))
NOTHING = dict.fromkeys(Draws._fields, 0) | {"zoom": ONE}


def pictures(kind="uint8", n=6, h=9, w=8, c=3):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (n, h, w, c)).astype(kind)


def changed(backend, augmentation, x, seed=1, epoch=1, first=0):
    """[N,H,W,C] in and out."""
    return np.array(
        backend.to_numpy(
            augmentation(backend, backend.asarray(x), seed=seed, epoch=epoch, first=first, data_format="channels_last")
        )
    )


def moved(backend, x, cutout=0, fill=0, edge=False, **draws):
    """A picture x[H,W,C] by the draws that are given."""
    one = Draws(**{name: np.array([value]) for name, value in (NOTHING | draws).items()})
    maps, fill = one.maps(x.shape[:2], cutout), np.full(x.shape[2], fill, x.dtype)
    return backend.to_numpy(backend.warp_affine(backend.asarray(x[None]), maps, fill, edge, True))[0]


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1, -2])
def test_a_quarter_turn_moves_whole_pixels(backend, quarters):
    x = pictures(h=8)[0]
    assert np.array_equal(moved(backend, x, angle=quarters * 90 * ONE), np.rot90(x, quarters))
    wide = pictures("float64", h=8, w=12)[0]
    seen = moved(backend, wide, angle=180 * ONE)
    assert np.array_equal(seen, wide[::-1, ::-1])


def test_each_part_does_what_it_says(backend):
    x = pictures("float32")[0]
    assert np.array_equal(moved(backend, x), x)
    assert np.array_equal(moved(backend, x, mirrored=1), x[:, ::-1])
    padded = np.pad(x, ((2, 2), (2, 2), (0, 0)))
    for down, along in itertools.product(range(-2, 3), repeat=2):
        window = padded[2 + down : 11 + down, 2 + along : 10 + along]
        assert np.array_equal(moved(backend, x, down=down, along=along), window)
        assert np.array_equal(moved(backend, x, down=down, along=along, mirrored=1), window[:, ::-1])
    nearest = np.pad(x, ((3, 0), (0, 1), (0, 0)), mode="edge")[:9, 1:]
    assert np.array_equal(moved(backend, x, shift_down=3 * ONE, shift_along=-ONE, edge=True), nearest)
    halves = moved(backend, x, shift_along=-ONE // 2, edge=True)
    assert np.array_equal(halves[:, :-1], (x[:, :-1] + x[:, 1:]) / 2)
    # Twice as small: the pixel in the middle of 9 x 9 stays, its neighbour shows what was two away.
    small = moved(backend, x[:, :7], zoom=2 * ONE)
    assert np.array_equal(small[2:7, 2:5], x[0:9:2, 1:6:2]) and not small[:2].any() and not small[:, :1].any()
    x[3:6, 2:5], out = 5, x.copy()
    out[3:6, 2:5] = 77
    assert np.array_equal(moved(backend, x, cut_row=4, cut_column=3, cutout=3, fill=77), out)
    out = x.copy()
    out[7:, :3] = 77  # an even side: one more before the middle than after
    assert np.array_equal(moved(backend, x, cut_row=9, cut_column=1, cutout=4, fill=77), out)


def test_a_turn_goes_about_the_middle_and_anticlockwise(backend):
    """A ramp is turned into a ramp: bilinear steps are exact on it."""
    rows, columns = np.mgrid[:11, :11] - 5.0
    angle, zoom = 20, 0.75
    seen = moved(backend, columns[..., None], angle=angle * ONE, zoom=round(zoom * ONE), edge=True)[..., 0]
    # The new picture's point p shows the old one's at zoom R(-angle) p, rows counting downwards.
    turned = zoom * (math.cos(math.radians(angle)) * columns - math.sin(math.radians(angle)) * rows)
    inside = (np.abs(turned) < 4.9) & (np.abs(rows) < 4) & (np.abs(columns) < 4)
    assert inside.sum() > 40
    np.testing.assert_allclose(seen[inside], turned[inside], atol=5e-4)  # 16 bits behind the point, 11 pixels wide


def test_sine_and_cosine_in_integers():
    angles = np.concatenate([np.arange(-180 * ONE, 180 * ONE + 1, 997), np.arange(-8, 9) * 45 * ONE // 2])
    cos, sin = cos_sin(angles)
    for angle, c, s in zip(angles.tolist(), cos.tolist(), sin.tolist(), strict=True):
        turn = math.radians(angle / ONE)
        assert abs(c - ONE * math.cos(turn)) < 0.51 and abs(s - ONE * math.sin(turn)) < 0.51


# ---------------------------------------------------------------------- draws


def test_the_numbers_stay_what_they_were():
    """A published run is repeated only where these hold."""
    drawn = EVERYTHING.draws(7, 3, 5, 2, (9, 8))
    assert [value.tolist() for value in drawn] == [
        [0, 0],
        [0, 0],
        [2, 0],
        [441176, 854062],
        [54292, 65856],
        [-60459, -35065],
        [22885, 28856],
        [2, 5],
        [1, 7],
    ]


def naive_draws(augmentation, seed, epoch, place, size):
    """One picture's numbers from Philox's raw words, in Python's integers."""
    raw = streams.philox(seed, Purpose.AUGMENT, step=epoch, block=2 * place).random_raw(8).tolist()
    words = [word >> shift & 0xFFFFFFFF for word in raw for shift in (0, 32)]

    def around(k, most):
        return (words[k] * (2 * most + 1) >> 32) - most

    shift = augmentation.shift
    return [
        words[0] >> 31 if augmentation.flip else 0,
        around(1, augmentation.crop),
        around(2, augmentation.crop),
        around(3, round(augmentation.rotate * 65536)),
        65536 + around(4, round(augmentation.zoom * 65536)),
        around(5, round(shift[0] * size[0] * 65536)),
        around(6, round(shift[1] * size[1] * 65536)),
        words[7] * size[0] >> 32,
        words[8] * size[1] >> 32,
    ]


@pytest.mark.parametrize("first", [0, 1, 1000, 2**40])
def test_draws_are_philoxs_words(first):
    drawn = EVERYTHING.draws(2**64 - 1, 4, first, 5, (9, 8, 3))
    for k in range(5):
        assert [int(value[k]) for value in drawn] == naive_draws(EVERYTHING, 2**64 - 1, 4, first + k, (9, 8))
    assert all(value.dtype == np.int64 and value.shape == (5,) for value in drawn)


def test_a_draw_depends_on_seed_epoch_and_place_alone():
    whole = np.array(EVERYTHING.draws(1, 2, 0, 60, (9, 8)))
    for size in (1, 7, 60):
        parts = [EVERYTHING.draws(1, 2, at, min(size, 60 - at), (9, 8)) for at in range(0, 60, size)]
        assert np.array_equal(np.concatenate(parts, axis=1), whole)
    for seed, epoch, first in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not np.array_equal(EVERYTHING.draws(seed, epoch, first, 60, (9, 8)), whole)
    # What one setting draws does not change with the others.
    alone = Augmentation(rotate=30).draws(1, 2, 0, 60, (9, 8))
    assert np.array_equal(alone.angle, whole[3]) and not alone.mirrored.any() and (alone.zoom == ONE).all()


def test_a_batch_may_lie_across_what_is_drawn_at_once(backend):
    """Maps are drawn for many pictures at once: each is still its own place's."""
    x, first = pictures("float64", 5), BLOCK - 2
    whole = changed(backend, EVERYTHING, x, 3, 1, first)
    for k in range(5):
        maps = EVERYTHING.draws(3, 1, first + k, 1, (9, 8)).maps((9, 8), 3)
        expected = reference_augment.warp(x[k : k + 1], maps, np.array([9.0, 8, 7]), False)
        assert expected.tobytes() == whole[k : k + 1].tobytes()
    long = np.repeat(x[:1], 2 * BLOCK + 3, axis=0)
    assert np.array_equal(
        changed(backend, EVERYTHING, long, 3, 1, first)[2:4], changed(backend, EVERYTHING, long[:2], 3, 1, BLOCK)
    )
    assert changed(backend, EVERYTHING, x[:0], 3, 1, BLOCK).shape == (0, 9, 8, 3)


def test_a_class_of_ones_own_draws_as_it_says(backend):
    class Always(Augmentation):
        def draws(self, *place):
            return super().draws(*place)._replace(mirrored=np.full(place[3], self.side))

    x, given = pictures(), []
    for side in (0, 1):
        one = Always(flip=True)
        object.__setattr__(one, "side", side)
        given.append(changed(backend, one, x))
    assert np.array_equal(given[0], x) and np.array_equal(given[1], x[:, :, ::-1])
    assert np.array_equal(changed(backend, EVERYTHING, x, first=np.uint64(7)), changed(backend, EVERYTHING, x, first=7))


def even(counts):
    """Whether counts may come from a fair draw: Pearson's chi-square below its mean by six times its deviation."""
    counts = np.asarray(counts, float)
    chi, free = ((counts - counts.mean()) ** 2 / counts.mean()).sum(), counts.size - 1
    return chi < free + 6 * math.sqrt(2 * free)


def test_draws_are_even_and_cover_everything():
    n = 40_000
    drawn = Augmentation(flip=True, crop=4, rotate=15, shift=0.1, zoom=0.2, cutout=8).draws(0, 1, 0, n, (32, 28))
    assert even(np.bincount(drawn.mirrored, minlength=2)) and drawn.mirrored.max() == 1
    windows = np.bincount((drawn.down + 4) * 9 + drawn.along + 4, minlength=81)
    assert len(windows) == 81 and windows.min() > 0 and even(windows)
    for value, most in (
        (drawn.angle, 15 * ONE),
        (drawn.zoom - ONE, round(0.2 * ONE)),
        (drawn.shift_down, round(3.2 * ONE)),
        (drawn.shift_along, round(2.8 * ONE)),
    ):
        assert np.abs(value).max() <= most and np.abs(value).max() > 0.999 * most
        assert even(np.histogram(value, 50, (-most, most))[0])
    for value, side in ((drawn.cut_row, 32), (drawn.cut_column, 28)):
        counts = np.bincount(value)
        assert len(counts) == side and even(counts)
    independent = np.abs(np.corrcoef(np.array(drawn, float)) - np.eye(9))
    assert independent.max() < 6 / math.sqrt(n)


def test_not_every_draw_is_even():
    """The test of evenness finds a coin that is not fair."""
    assert not even([20_700, 19_300]) and not even([400] * 80 + [700])


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_a_batch_is_what_its_draws_say(backend, kind):
    x = pictures(kind)
    y = changed(backend, EVERYTHING, x, seed=5, epoch=2, first=11)
    maps = EVERYTHING.draws(5, 2, 11, 6, (9, 8)).maps((9, 8), 3)
    assert y.tobytes() == reference_augment.warp(x, maps, np.array([9, 8, 7], kind), False).tobytes()
    for at in (0, 4):  # one by one: the same
        assert np.array_equal(changed(backend, EVERYTHING, x[at : at + 1], 5, 2, 11 + at), y[at : at + 1])
    turned = backend.asarray(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    first = EVERYTHING(backend, turned, seed=5, epoch=2, first=11, data_format="channels_first")
    assert np.array_equal(backend.to_numpy(first).transpose(0, 2, 3, 1), y)
    assert np.array_equal(backend.to_numpy(turned).transpose(0, 2, 3, 1), x)


def test_nothing_asked_for_is_a_copy(backend):
    x = backend.asarray(pictures())
    y = Augmentation()(backend, x, seed=1, epoch=1, first=0, data_format="channels_last")
    y[...] = 0
    assert np.array_equal(backend.to_numpy(x), pictures())


def test_the_fill_is_per_channel_or_the_nearest(backend):
    x = np.full((4, 6, 6, 2), 50, "u1")
    seen = changed(backend, Augmentation(crop=5, fill=(1, 2)), x)
    assert {tuple(pixel) for pixel in seen.reshape(-1, 2).tolist()} == {(50, 50), (1, 2)}
    assert (changed(backend, Augmentation(crop=5, rotate=180, fill="edge"), x) == 50).all()
    cut = changed(backend, Augmentation(cutout=3, fill="edge"), x)
    assert set(cut.ravel().tolist()) == {50, 0}


# ---------------------------------------------------------------------- settings


def test_settings_come_back():
    for augmentation in (Augmentation(), EVERYTHING, Augmentation(rotate=5, fill="edge"), Augmentation(fill=[1, 2])):
        config = json.loads(json.dumps(augmentation.config()))
        again = Augmentation.from_config(config)
        assert again == augmentation and again.config() == config and hash(again) == hash(augmentation)
        assert eval(repr(augmentation)) == augmentation
    assert repr(Augmentation(flip=True, crop=4)) == "Augmentation(flip=True, crop=4)"
    assert Augmentation(crop=np.int64(4), shift=np.float32(0.5)).config()["shift"] == 0.5
    assert Augmentation(crop=4) != Augmentation(crop=4, flip=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": 1}, "flip must be True or False"),
        ({"crop": -1}, "crop must be an integer >= 0"),
        ({"crop": 1.5}, "crop must be an integer >= 0"),
        ({"rotate": 181}, "rotate must be a finite number from 0 to 180"),
        ({"rotate": -5}, "rotate must be"),
        ({"shift": 1.5}, "shift must be a finite number from 0 to 1"),
        ({"shift": (0.1, 0.1, 0.1)}, r"shift must be a number, or \(height, width\)"),
        ({"zoom": 1}, "zoom must be"),
        ({"zoom": math.nan}, "zoom must be"),
        ({"cutout": True}, "cutout must be an integer"),
        ({"fill": "reflect"}, "fill must be 'edge'"),
        ({"fill": math.inf}, "fill must be a finite number"),
        ({"fill": [1, "2"]}, "fill must be a finite number"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=rf"^augmentation: {message}.*Received: "):
        Augmentation(**wrong)


@pytest.mark.parametrize("config", [{"flips": True}, {"crop": "4"}, [1], None, {"kind": "Flip", "flip": 3}])
def test_configs_that_cannot_be(config):
    with pytest.raises(ConfigError, match=r"^augmentation: .*Received: "):
        Augmentation.from_config(config)


@pytest.mark.parametrize(
    ("settings", "shape", "kind", "error", "message"),
    [
        ({}, (4, 784), "float32", ShapeError, r"expected pictures of shape \(height, width, channels\)"),
        ({}, (4, 8, 8, 3), "int64", DTypeError, "expected pictures of uint8, float32 or float64"),
        ({}, (4, 0, 8, 3), "uint8", ShapeError, "1 to 16384 pixels a side"),
        ({"cutout": 9}, (4, 8, 12, 3), "uint8", ConfigError, "cutout must be at most 8 for pictures of 8x12"),
        ({"crop": 8}, (4, 12, 8, 3), "uint8", ConfigError, "crop must be at most 7 for pictures of 12x8"),
        ({"fill": (1, 2)}, (4, 8, 8, 3), "uint8", ConfigError, "one for each of the 3 channels"),
        ({"fill": 0.5}, (4, 8, 8, 3), "uint8", ConfigError, "whole numbers from 0 to 255"),
        ({"fill": -1}, (4, 8, 8, 3), "uint8", ConfigError, "whole numbers from 0 to 255"),
    ],
)
def test_pictures_that_cannot_be(backend, settings, shape, kind, error, message):
    with pytest.raises(error, match=rf"^augmentation: .*{message}.*Received: "):
        changed(backend, Augmentation(**settings), np.zeros(shape, kind))


def test_other_arguments_that_cannot_be(backend):
    x = backend.asarray(pictures())
    with pytest.raises(ConfigError, match="seed must be"):
        EVERYTHING(backend, x, seed=-1, epoch=1, first=0, data_format="channels_last")
    with pytest.raises(ConfigError, match="data_format must be"):
        EVERYTHING(backend, x, seed=1, epoch=1, first=0, data_format="NHWC")
