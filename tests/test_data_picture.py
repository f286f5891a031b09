"""One picture from a file: sizes, proportions, colours, bits, transparency, the camera's side, and what is none."""

from __future__ import annotations

import errno
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xconv.data import folder, read_picture
from xconv.errors import ConfigError, FileError, OutOfMemoryError

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **settings) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **settings)
    return path


# ---------------------------------------------------------------------- sizes


def test_its_own_size_gives_its_own_bytes(tmp_path):
    x = read_picture(saved(tmp_path / "a.png", COLOURS), (12, 20))
    assert x.dtype == np.uint8 and np.array_equal(x, COLOURS)
    for suffix in ("bmp", "tiff", "ppm", "webp"):
        path = saved(tmp_path / f"a.{suffix}", COLOURS, **({"lossless": True} if suffix == "webp" else {}))
        assert np.array_equal(read_picture(str(path), (12, 20)), COLOURS), suffix


def blocks(pixels: np.ndarray, n: int) -> np.ndarray:
    """Each pixel n times n times."""
    return pixels.repeat(n, axis=0).repeat(n, axis=1)


def triangle(values: np.ndarray, size: int) -> np.ndarray:
    """Rows resized to `size` by the antialiased triangle filter: each output is a mean of inputs around its centre."""
    n = len(values)
    scale = n / size
    reach = max(scale, 1.0)
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = np.maximum(0, 1 - abs(np.arange(n) + 0.5 - centre) / reach)
        out.append((weights[:, None, None] * values).sum(0) / weights.sum())
    return np.array(out)


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (24, 40), (12, 11)])
def test_squeezed_bilinearly(tmp_path, size):
    x = read_picture(saved(tmp_path / "a.png", COLOURS), size, fit="squeeze")
    rows = triangle(COLOURS.astype(float), size[0])
    expected = triangle(rows.transpose(1, 0, 2), size[1]).transpose(1, 0, 2)
    assert x.shape == (*size, 3) and abs(x - expected).max() <= 1.01  # rounded after each direction


def test_what_does_not_fit_is_cut_off_on_both_sides(tmp_path):
    path = saved(tmp_path / "wide.png", blocks(COLOURS, 3))  # 36x60
    assert np.array_equal(read_picture(path, 36), blocks(COLOURS, 3)[:, 12:48])
    path = saved(tmp_path / "high.png", blocks(COLOURS.transpose(1, 0, 2), 3))
    assert np.array_equal(read_picture(path, (36, 36)), blocks(COLOURS.transpose(1, 0, 2), 3)[12:48])
    half = read_picture(saved(tmp_path / "a.png", COLOURS), (6, 6)).astype(float)
    rows = triangle(COLOURS[:, 4:16].astype(float), 6)
    expected = triangle(rows.transpose(1, 0, 2), 6).transpose(1, 0, 2)
    assert abs(half - expected).max() <= 30 and np.mean(abs(half - expected)[1:-1, 1:-1]) < 1  # edges see the cut part


# ---------------------------------------------------------------------- colours and bits


def test_colours_become_grey_and_grey_colours(tmp_path):
    path = saved(tmp_path / "a.png", COLOURS)
    grey = read_picture(path, (12, 20), channels=1)
    assert grey.shape == (12, 20, 1)
    assert abs(grey[..., 0] - COLOURS @ np.array([0.299, 0.587, 0.114])).max() <= 0.51  # ITU-R 601
    path = saved(tmp_path / "g.png", COLOURS[..., 0])
    assert np.array_equal(read_picture(path, (12, 20)), COLOURS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_mode_is_read(tmp_path, mode):
    shade = np.full((4, 4, 3), (255, 0, 0), np.uint8) if mode != "1" else np.full((4, 4, 3), 255, np.uint8)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    path = saved(tmp_path / f"a.{suffix}", shade, mode)
    x = read_picture(path, 4)
    expected = (255, 255, 255) if mode == "1" else (76, 76, 76) if mode == "LA" else (255, 0, 0)
    assert abs(x.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    values = np.linspace(0, 65535, 80).round().astype(np.uint16).reshape(4, 20)
    path = saved(tmp_path / f"deep.{suffix}", values)
    assert np.array_equal(read_picture(path, (4, 20), channels=1)[..., 0], values // 256)
    assert np.array_equal(read_picture(path, (4, 20))[..., 2], values // 256)


def test_sixteen_bits_of_other_byte_order_and_format(tmp_path):
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0x1234, 0xFF00))
    big.save(tmp_path / "big.tiff")
    assert read_picture(tmp_path / "big.tiff", (1, 2), channels=1).ravel().tolist() == [0x12, 0xFF]
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 0x1234, 0xFF00))
    assert read_picture(tmp_path / "a.pgm", (1, 2), channels=1).ravel().tolist() == [0x12, 0xFF]
    (tmp_path / "ten.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">HH", 512, 1023))  # white as its header says
    assert read_picture(tmp_path / "ten.pgm", (1, 2), channels=1).ravel().tolist() == [0x80, 0xFF]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("most", [1, 255, 65535])
def test_pixels_of_no_known_range_are_refused(tmp_path, dtype, most):
    """Bytes in 32 bits, say, of which the upper eight of sixteen would be black."""
    saved(tmp_path / "wide.tiff", np.array([[0, most]], dtype))
    kind = "signed or 32-bit pixels" if dtype == "int32" else "floating-point pixels"
    with pytest.raises(FileError, match=rf"wide\.tiff: expected a picture of 8 or 16 bits\. Received: {kind}, of no"):
        read_picture(tmp_path / "wide.tiff", 2)


def test_what_is_transparent_is_white_unless_it_is_asked_for(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 3] = [[0, 51], [204, 255]]
    path = saved(tmp_path / "a.png", pixels)
    assert read_picture(path, 2, channels=1)[..., 0].tolist() == [[255, 204], [51, 0]]
    assert np.array_equal(read_picture(path, 2, channels=4), pixels)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (read_picture(tmp_path / "p.png", 2) == 255).all()


def test_of_several_frames_the_first(tmp_path):
    first, second = (Image.new("L", (4, 4), shade) for shade in (10, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (read_picture(tmp_path / "a.gif", 4, channels=1) == 10).all()


# ---------------------------------------------------------------------- the camera's side


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """By the words of the standard: what the first row and the first column of the file are to be seen as."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    seen = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: stored.T[:, ::-1], 7: stored.T[::-1, ::-1], 8: stored.T[::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(read_picture(path, seen.shape, channels=1)[..., 0], seen)


def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    path = saved(tmp_path / "a.png", COLOURS, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own
        assert np.array_equal(read_picture(path, (12, 20)), COLOURS)


# ---------------------------------------------------------------------- what is none


def test_what_is_no_picture_is_told_as_what_it_is(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for path, received in (
        ("text.png", "another kind of file"), ("empty.png", "another kind of file"), ("nowhere.png", "no such file"),
        ("pipe.png", "something else"), (".", "a folder"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=rf"expected a picture, such as a PNG\. Received: {received}$"):
            read_picture(tmp_path / path, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff"])
def test_every_cut_is_an_error(tmp_path, suffix):
    """In the last bytes a format may hold nothing of the picture."""
    whole = saved(tmp_path / f"a.{suffix}", COLOURS).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in range(0, len(whole) - 60, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match=f"cut.{suffix}: expected a picture"):
            read_picture(path, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_damage_gives_a_picture_or_a_typed_error(tmp_path, suffix):
    whole = bytearray(saved(tmp_path / f"a.{suffix}", COLOURS).read_bytes())
    path = tmp_path / f"bad.{suffix}"
    rng, refused = np.random.default_rng(1), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, of odd metadata
        for i in range(150):
            damaged = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 40 + 8 * i), 3):
                damaged[at] = rng.integers(0, 256)
            path.write_bytes(damaged)
            try:
                assert read_picture(path, 4).shape == (4, 4, 3)
            except FileError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 5


def bomb(side: int) -> bytes:
    """A small PNG that declares side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("heard", ["error", "ignore"])
@pytest.mark.parametrize("side", [9_460, 12_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused(tmp_path, side, heard):
    """Just above the bound, and where Pillow itself would warn, and raise."""
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    with warnings.catch_warnings():
        warnings.simplefilter(heard, Image.DecompressionBombWarning)
        with pytest.raises(FileError, match=r"bomb\.png: expected a picture of at most 89,478,485 pixels\. Received: "):
            read_picture(tmp_path / "bomb.png", 4)


def test_threads_that_read_leave_the_filters_of_warnings_alone(tmp_path, monkeypatch):
    """They are the whole process's: what one thread puts back, another may have set."""
    path = saved(tmp_path / "a.png", COLOURS)
    before, seen, original = list(warnings.filters), [], Image.open

    def opened(*args, **settings):
        seen.append(list(warnings.filters))
        return original(*args, **settings)

    monkeypatch.setattr(Image, "open", opened)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(x, COLOURS) for x in pool.map(lambda _: read_picture(path, (12, 20)), range(32)))
    assert seen == [before] * 32 and warnings.filters == before


@pytest.mark.parametrize("where", ["PIL.ImageOps.fit", "PIL.ImageOps.exif_transpose"])
def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch, where):
    def none_left(*_):
        raise MemoryError

    for name in "ab":
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            saved(tmp_path / name / f"{i}.png", COLOURS)
    monkeypatch.setattr(where, none_left)
    with pytest.raises(OutOfMemoryError, match=r"0\.png: this picture takes more memory than there is"):
        read_picture(tmp_path / "a" / "0.png", 4)
    with pytest.raises(OutOfMemoryError, match="this picture takes more memory"):
        folder(tmp_path, 4)


def test_a_place_that_cannot_be_looked_at(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "is_file", refuse)  # as it does before Python 3.14
    with pytest.raises(FileError, match=r"a\.png: expected a picture that can be read\. Received: .*Permission denied"):
        read_picture(tmp_path / "a.png", 4)


def test_wishes_that_cannot_be(tmp_path):
    path = saved(tmp_path / "a.png", COLOURS)
    for size in (0, (4, -1), (4, 4, 3), "4", None):
        with pytest.raises(ConfigError, match="image_size"):
            read_picture(path, size)
    for channels in (2, 0, "3", [3], None):
        with pytest.raises(ConfigError, match="channels must be 1, 3 or 4"):
            read_picture(path, 4, channels=channels)
    with pytest.raises(ConfigError, match=r"fit must be 'crop' or 'squeeze'\. Received: 'stretch'"):
        read_picture(path, 4, fit="stretch")
