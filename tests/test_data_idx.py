"""The IDX reader: what it reads, and everything it must refuse."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from xconv.data import read_idx, read_pair
from xconv.errors import FileError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray) -> bytes:
    """An IDX file, written independently of the reader."""
    header = struct.pack(">BBBB", 0, 0, CODES[array.dtype.str[1:]], array.ndim)
    return header + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(path: Path, content: bytes, match: str, **settings) -> None:
    path.write_bytes(content)
    with pytest.raises(FileError, match=match) as caught:
        read_idx(path, **settings)
    assert str(path) in str(caught.value)
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["images", "images.gz", "images.idx3-ubyte"])
def test_plain_and_gzip_are_told_by_content_not_by_name(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(idx(IMAGES)))
    np.testing.assert_array_equal(read_idx(tmp_path / name), IMAGES)


@pytest.mark.parametrize("code", CODES)
def test_every_type_comes_back_in_native_order(tmp_path, code):
    array = np.array([[0, 1, -2], [3, 100, -7]]).astype(code)
    (tmp_path / "a").write_bytes(idx(array))
    got = read_idx(tmp_path / "a", dtype=array.dtype.name)
    assert got.dtype == array.dtype and got.dtype.isnative
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (5,), (1, 1, 1, 1, 1, 1, 1, 2)])
def test_shapes(tmp_path, shape):
    (tmp_path / "a").write_bytes(idx(np.zeros(shape, np.uint8)))
    assert read_idx(tmp_path / "a").shape == shape


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_prefix_is_refused(tmp_path, pack):
    whole = pack(idx(IMAGES))
    for length in range(len(whole)):
        refused(tmp_path / "cut", whole[:length], "expected")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_flipped_bit_never_gives_another_array(tmp_path, pack):
    content = idx(IMAGES)
    sha256 = hashlib.sha256(content).hexdigest()
    whole, path, harmless = pack(content), tmp_path / "flipped", 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            got = read_idx(path, sha256=sha256)
        except FileError as error:
            assert str(path) in str(error)
        else:
            np.testing.assert_array_equal(got, IMAGES)
            harmless += 1
    # gzip's header has a time stamp and the name of a system, which mean nothing
    assert harmless == 0 if pack is bytes else harmless < 8 * 10


def test_random_damage_raises_nothing_but_fileerror(tmp_path):
    rng = random.Random(0)
    for whole in (idx(IMAGES), gzip.compress(idx(IMAGES))):
        for _ in range(500):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 8)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            (tmp_path / "a").write_bytes(damaged)
            with contextlib.suppress(FileError):
                read_idx(tmp_path / "a")


def test_without_a_hash_gzip_still_checks_its_own(tmp_path):
    damaged = bytearray(gzip.compress(idx(IMAGES)))
    damaged[-5] ^= 1  # the CRC
    refused(tmp_path / "a", bytes(damaged), "whole IDX file.*CRC.*; the file was cut or altered: replace it$")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (idx(IMAGES) + b"\0", "24 bytes after the header. Received: more.*; the file was cut or altered: replace it$"),
        (gzip.compress(idx(IMAGES) + b"\0"), "24 bytes after the header. Received: more"),
        (gzip.compress(idx(IMAGES)) + b"junk", "whole IDX file.*; the file was cut or altered: replace it$"),
        (idx(IMAGES)[:-1], "expected 24 bytes.* more than 23; the file was cut or altered: replace it$"),
        (gzip.compress(idx(IMAGES)[:-1]), "expected 24 bytes.*only 23; the file was cut or altered: replace it$"),
        (gzip.compress(idx(IMAGES))[:-9], "whole IDX file.*; the file was cut or altered: replace it$"),
        (b"", "an empty file$"),
        (b"<!DOCTYPE html><html>", "3c 21 44 4f; this looks like a web page: fetch the file itself$"),
        (b"\n\n<html>", "; this looks like a web page: fetch the file itself$"),
        (b"\xef\xbb\xbf<html>", "; this looks like a web page: fetch the file itself$"),
        (gzip.compress(b"<html>not found</html>"), "3c 68 74 6d; this looks like a web page: fetch the file itself$"),
        (b"\x7fELF" + bytes(20), "expected an IDX file: 00 00.*7f 45 4c 46$"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "type code"),
        (b"\0\0\x08\x00\0", "rank from 1 to 8"),
        (b"\0\0\x08\x09" + bytes(36), "rank from 1 to 8"),
        (b"\0\0\x08\x03\0\0\0\x01", "header of 16 bytes. Received: 8"),
        (struct.pack(">4B2i", 0, 0, 8, 2, -1, 4), "sizes of 0 or more"),
        (idx(IMAGES.astype(np.int32)), "numbers of type uint8. Received: int32"),
    ],
    # Not the content: gzip's has the time in it, and two processes that share the tests would not agree on their names.
    ids=[
        "longer", "longer inside", "longer outside", "shorter", "shorter inside", "cut", "empty", "page", "page later",
        "page with a mark", "packed page", "program", "type", "no rank", "rank 9", "half a header", "negative", "int32",
    ],
)  # fmt: skip
def test_refused(tmp_path, content, match):
    refused(tmp_path / "a", content, match)


def test_shape_and_hash_are_held(tmp_path):
    refused(tmp_path / "a", idx(IMAGES), r"shape \(2, 4, 4\). Received: .*\(2, 3, 4\)", shape=(2, 4, 4))
    refused(tmp_path / "a", idx(IMAGES), r"shape \(any, 3\)", shape=(None, 3))
    refused(tmp_path / "a", idx(IMAGES), "SHA-256 00.*; the file was cut or altered: replace it$", sha256="00")
    refused(tmp_path / "a", idx(IMAGES), "; the file was cut or altered: ask Ann$", sha256="00", cure="ask Ann")
    refused(tmp_path / "a", idx(IMAGES), "; the file was cut or altered$", sha256="00", cure="")
    (tmp_path / "a").write_bytes(idx(IMAGES))
    assert read_idx(tmp_path / "a", shape=(None, 3, 4)).shape == (2, 3, 4)


def test_missing_and_folder(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_idx(tmp_path / "none")
    with pytest.raises(FileError, match="a folder"):
        read_idx(tmp_path)


def peak(call) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(FileError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("sizes", [(64, 1 << 30), (1 << 30, 1 << 30, 1 << 30), (2**31 - 1,) * 8])
def test_a_header_that_declares_the_moon_allocates_nothing(tmp_path, pack, sizes):
    path = tmp_path / "a"
    path.write_bytes(pack(struct.pack(f">4B{len(sizes)}i", 0, 0, 8, len(sizes), *sizes) + bytes(1000)))
    assert peak(lambda: read_idx(path)) < 4 << 20


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(IMAGES) + bytes(200 << 20)))
    assert peak(lambda: read_idx(path)) < 4 << 20
    with pytest.raises(FileError, match="more than that"):
        read_idx(path)
    path.write_bytes(gzip.compress(struct.pack(">4Bi", 0, 0, 8, 1, 200 << 20) + bytes(200 << 20)))
    assert peak(lambda: read_idx(path, shape=(10_000,))) < 4 << 20


def test_images_and_labels_must_agree(tmp_path):
    (tmp_path / "x").write_bytes(idx(IMAGES))
    (tmp_path / "t").write_bytes(idx(np.array([4, 2], np.uint8)))
    x, t = read_pair(tmp_path / "x", tmp_path / "t", (3, 4))
    assert x.shape == (2, 1, 3, 4) and t.dtype == np.int64 and t.tolist() == [4, 2]
    (tmp_path / "t").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(FileError, match=r"expected 2 labels.*Received: 3"):
        read_pair(tmp_path / "x", tmp_path / "t")
