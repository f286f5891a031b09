"""Pictures moved about, on every backend, to the bit: against exact fractions, NumPy's rolls, and Pillow."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference_augment
from xconv.backend import get_backend
from xconv.backend.threads import Team
from xconv.errors import BackendError, DTypeError, ShapeError

ONE = 1 << 16
STILL = (ONE, 0, 0, 0, ONE, 0, 0, 0, 0, 0)
KINDS = ("uint8", "float32", "float64")


def pictures(kind, *shape):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, shape).astype(kind) if kind == "uint8" else rng.normal(size=shape).astype(kind)


def some_maps(n):
    """Turned and zoomed by anything, up to upside down, many places outside; every third by whole pixels."""
    rng = np.random.default_rng(2)
    maps = np.empty((n, 10), np.int64)
    maps[:, [0, 1, 3, 4]] = rng.integers(-2 * ONE, 2 * ONE, (n, 4))
    maps[:, [2, 5]] = rng.integers(-4 * ONE, 9 * ONE, (n, 2))
    maps[:, 6:] = rng.integers(-2, 7, (n, 4))
    for n, (along, down) in enumerate(rng.integers(-3, 6, (len(maps[::3]), 2))):
        maps[3 * n, :6] = ONE if n % 2 else -ONE, 0, along * ONE, 0, ONE, down * ONE
    return maps


def warped(backend, x, maps, fill, edge=False, last=True):
    """warp_affine of x[N,H,W,C], by way of [N,C,H,W] unless `last`."""
    given = backend.asarray(x if last else x.transpose(0, 3, 1, 2))
    y = backend.warp_affine(given, np.array(maps, np.int64), np.array(fill, x.dtype), edge, last)
    assert isinstance(y, backend.array_type) and y.flags.c_contiguous and y.dtype == x.dtype and y.shape == given.shape
    assert backend.to_numpy(given).tobytes() == (x if last else x.transpose(0, 3, 1, 2)).tobytes()
    y = np.array(backend.to_numpy(y))
    return np.ascontiguousarray(y if last else y.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", [True, False])
@pytest.mark.parametrize("shape", [(9, 6, 5, 3), (7, 1, 4, 1), (6, 5, 1, 2), (3, 1, 1, 4)])
def test_equals_exact_fractions_to_the_bit(backend, kind, edge, shape):
    x, fill, maps = pictures(kind, *shape), np.arange(7, 7 + shape[3]), some_maps(shape[0])
    expected = reference_augment.warp(x, maps, fill.astype(kind), edge)
    for last in (True, False):
        assert warped(backend, x, maps, fill, edge, last).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_pixels_are_the_very_pixels(backend, kind):
    x, fill = pictures(kind, 1, 7, 6, 3), [9, 8, 7]
    if kind != "uint8":
        x[0, 3, 3] = -0.0, np.inf, np.nan
    assert warped(backend, x, [STILL], fill).tobytes() == x.tobytes()
    mirror = (-ONE, 0, 5 * ONE, 0, ONE, 0, 0, 0, 0, 0)
    assert warped(backend, x, [mirror], fill).tobytes() == x[:, :, ::-1].tobytes()
    assert warped(backend, warped(backend, x, [mirror], fill), [mirror], fill).tobytes() == x.tobytes()
    square, quarter = np.ascontiguousarray(x[:, :6]), (0, -ONE, 5 * ONE, ONE, 0, 0, 0, 0, 0, 0)
    assert warped(backend, square, [quarter], fill).tobytes() == np.rot90(square, axes=(1, 2)).tobytes()
    for down, along in ((2, 0), (0, -3), (-1, 4), (9, 0), (0, -8)):
        moved = [(ONE, 0, -along * ONE, 0, ONE, -down * ONE, 0, 0, 0, 0)]
        expected = np.roll(x, (down, along), (1, 2))
        rows, columns = np.arange(7) - down, np.arange(6) - along
        nearest = x[:, rows.clip(0, 6)][:, :, columns.clip(0, 5)]
        assert warped(backend, x, moved, fill, True).tobytes() == np.ascontiguousarray(nearest).tobytes()
        expected[:, (rows < 0) | (rows > 6)] = fill
        expected[:, :, (columns < 0) | (columns > 5)] = fill
        assert warped(backend, x, moved, fill).tobytes() == expected.tobytes()


def test_a_box_is_filled(backend):
    x, maps = pictures("uint8", 3, 6, 5, 2), np.array([STILL] * 3)
    maps[:, 6:] = [(1, 4, 2, 4), (-2, 2, 3, 9), (3, 3, 0, 5)]
    expected = x.copy()
    expected[0, 1:4, 2:4], expected[1, :2, 3:] = (200, 100), (200, 100)
    for edge in (True, False):
        assert np.array_equal(warped(backend, x, maps, [200, 100], edge), expected)


def test_a_picture_by_pillow(backend):
    """A third opinion: Pillow counts from corners of pixels, and rounds bytes its own way."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    x = pictures("uint8", 1, 20, 17, 3)
    a, b, tx, c, d, ty = 0.9, -0.3, 3.0, 0.3, 0.9, -2.0
    maps = [(*(round(v * ONE) for v in (a, b, tx, c, d, ty)), 0, 0, 0, 0)]
    corner = a, b, tx + 0.5 - 0.5 * (a + b), c, d, ty + 0.5 - 0.5 * (c + d)
    seen = image.fromarray(x[0]).transform((17, 20), image.Transform.AFFINE, corner, image.Resampling.BILINEAR)
    rows, columns = np.mgrid[:20, :17]
    across, down = a * columns + b * rows + tx, c * columns + d * rows + ty
    inside = (across > 0) & (across < 16) & (down > 0) & (down < 19)  # at the borders Pillow takes the nearest
    apart = np.abs(warped(backend, x, maps, [0, 0, 0])[0].astype(int) - np.asarray(seen).astype(int))
    assert inside.sum() > 100 and apart[inside].max() <= 1


def test_no_pictures_and_strange_ones(backend):
    assert warped(backend, pictures("uint8", 0, 3, 3, 1), np.empty((0, 10)), [0]).shape == (0, 3, 3, 1)
    x = pictures("float32", 4, 6, 10, 6)[::2, ::-1, ::2, ::3]
    expected = reference_augment.warp(np.ascontiguousarray(x), some_maps(2), np.zeros(2, "f4"), True)
    given = backend.asarray(np.ascontiguousarray(pictures("float32", 4, 6, 10, 6)))[::2, ::-1, ::2, ::3]
    y = backend.warp_affine(given, some_maps(2), np.zeros(2, "f4"), True, True)
    assert np.array_equal(backend.to_numpy(y), expected)


def test_many_pictures_go_in_parts(backend, monkeypatch):
    x, maps = pictures("float64", 11, 4, 5, 2), some_maps(11)
    whole = warped(backend, x, maps, [0, 1])
    monkeypatch.setattr(backend, "workspace", 4000)
    assert warped(backend, x, maps, [0, 1]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", [True, False])
def test_threads_share_pictures_out(monkeypatch, kind, edge):
    numba, x, maps = get_backend("numba"), pictures(kind, 37, 28, 29, 1), some_maps(37)
    expected = reference_augment.warp(x, maps, np.array([7], kind), edge).tobytes()
    for threads in (1, 2, 5):
        team, shared = Team(threads), []
        monkeypatch.setattr(numba, "team", team)
        monkeypatch.setattr(
            team, "each", lambda f, parts, each=team.each, seen=shared: (seen.append(parts), each(f, parts))
        )
        assert warped(numba, x, maps, [7], edge).tobytes() == expected
        assert [len(parts) for parts in shared] == [threads]


def test_wrong_arguments_are_refused(backend):
    x, maps, fill = backend.asarray(pictures("uint8", 2, 4, 4, 3)), np.array([STILL] * 2), np.zeros(3, "u1")
    for wrong, error, message in [
        ((x[0], maps, fill), ShapeError, "must be pictures"),
        ((x, maps[:1], fill), ShapeError, "maps and fill must have shapes"),
        ((x, maps[:, :9], fill), ShapeError, "maps and fill must have shapes"),
        ((x, maps, fill[:2]), ShapeError, "maps and fill must have shapes"),
        ((x, maps.astype("f8"), fill), DTypeError, "maps int64"),
        ((x, maps, fill.astype("f4")), DTypeError, "fill of that dtype"),
        ((x.astype("i4"), maps, fill.astype("i4")), DTypeError, "x must be uint8"),
    ]:
        with pytest.raises(error, match=rf"^warp_affine: .*{message}.*Received"):
            backend.warp_affine(*wrong, False, True)
    with pytest.raises(ShapeError, match="maps and fill"):  # four channels, where they come first
        backend.warp_affine(x, maps, fill)


def test_the_device_refuses_pictures_of_the_host(cupy):
    with pytest.raises(BackendError, match=r"backend\.asarray"):
        cupy.warp_affine(pictures("uint8", 1, 2, 2, 1), np.array([STILL]), np.zeros(1, "u1"), False, True)
