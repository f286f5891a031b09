"""CIFAR-10 in its binary version (https://www.cs.toronto.edu/~kriz/cifar.html), which needs no unpickling.

A file is nothing but records of 3,073 bytes: a label from 0 to 9, then 32x32 pixels, all red ones first, then green,
then blue, each row by row.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xconv.data.dataset import DataSet
from xconv.data.download import UnreadableError, cache_dir, download
from xconv.errors import ConfigError, FileError, OutOfMemoryError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
_PIECE = 1024  # records that are read at a time
_DAMAGED = "the file was cut or altered"
_STRANGERS = {  # what comes instead, by its first bytes
    b"\x80": "the start of a pickle, as in CIFAR-10's Python version: xconv reads the binary version, and no pickles",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"<": "the start of a web page: fetch the file itself",
}


@dataclass(frozen=True)
class _Origin:
    """Where CIFAR-10 lies: the archive, with its length and SHA-256, and in it `files` (name, SHA-256).

    Each has so many `images`; those of the last are for testing.
    """

    mirrors: tuple[str, ...]
    archive: tuple[int, str]
    files: tuple[tuple[str, str], ...]
    images: int = 10_000


FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
_ORIGIN = _Origin(
    ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
    (170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    (
        ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    ),
)


def read_cifar10(*paths: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[N, 3, 32, 32] and labels int64[N] from files in this format, one after another.

    Each file holds any number of records, but at least one. FileError, naming the file, what was expected and what
    came, where one is missing, is a folder, is not made of whole records, or has a label above 9. Memory stays within
    the arrays and 3 MB; OutOfMemoryError where there is not so much.
    """
    if not paths:
        raise ConfigError("read_cifar10: expected the path of at least one file. Received: none")
    return _read([Path(path) for path in paths])


def load() -> DataSet:
    """CIFAR-10: 50,000 training and 10,000 test images, from $XCONV_DATA_DIR, the cache, or a download."""
    root = os.environ.get("XCONV_DATA_DIR")
    folder = Path(root or cache_dir()) / FOLDER
    if root:
        _check_there(folder)
        arrays = _read_all(folder, "replace it, or unset XCONV_DATA_DIR to have it downloaded")
    else:
        try:
            arrays = _read_all(folder, "delete it, and it will be fetched again")
        except UnreadableError:
            raise
        except FileError:  # missing or damaged
            arrays = _fetch(folder)
    return DataSet("cifar10", *arrays, CLASSES, str(folder))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, t_train, x_test, t_test


def _read_all(folder: Path, cure: str) -> Arrays:
    """The six files of CIFAR-10 in `folder`, each by its hash."""
    paths = [folder / name for name, _ in _ORIGIN.files]
    hashes = [sha256 for _, sha256 in _ORIGIN.files]
    train = _read(paths[:-1], _ORIGIN.images, hashes[:-1], cure)
    return *train, *_read(paths[-1:], _ORIGIN.images, hashes[-1:], cure)


def _read(
    paths: Sequence[Path], images: int | None = None, hashes: Sequence[str] = (), cure: str = "replace it"
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all `paths`, of so many `images` each where that is known, and with those SHA-256."""
    damaged = f"{_DAMAGED}: {cure}"
    names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    try:
        counts = [_records(path, images, damaged) for path in paths]  # of all, before anything is read
        x = np.empty((sum(counts), *IMAGE_SHAPE), np.uint8)
        t = np.empty(len(x), np.int64)
        first = 0
        for i, (path, count) in enumerate(zip(paths, counts, strict=True)):
            part = slice(first, first + count)
            _read_one(path, x[part], t[part], hashes[i] if hashes else None, damaged)
            first += count
    except FileError:
        raise
    except OSError as error:
        raise UnreadableError(f"{names}: expected CIFAR-10 files. Received: {error}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"{names}: their content takes more memory than there is") from error
    return x, t


def _records(path: Path, images: int | None, damaged: str) -> int:
    """How many records the file holds, as its length tells."""
    if not path.is_file():
        received = "a folder" if path.is_dir() else "something else" if path.exists() else "no such file"
        raise FileError(f"{path}: expected a file of CIFAR-10's binary version. Received: {received}")
    size = path.stat().st_size
    count, rest = divmod(size, RECORD)
    if rest == 0 and size and images in (None, count):
        return count
    with path.open("rb") as file:
        start = file.read(2)
    stranger = next((what for mark, what in _STRANGERS.items() if start.startswith(mark)), None)
    expected = f"whole records of {RECORD:,} bytes" if images is None else f"{images:,} records of {RECORD:,} bytes"
    received = f"{size:,} bytes, {count:,} times that" + (f" and {rest:,} more" if rest else "")
    why = stranger or (damaged if images is not None else "each is a label and 32x32 pixels in three colours")
    raise FileError(f"{path}: expected {expected}. Received: {received if size else 'an empty file'}; {why}")


def _read_one(path: Path, x: np.ndarray, t: np.ndarray, sha256: str | None, damaged: str) -> None:
    """Fill x[N,3,32,32] and t[N] with the file's records."""
    piece = np.empty((_PIECE, RECORD), np.uint8)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for first in range(0, len(x), _PIECE):
            records = piece[: len(x) - first]
            got = file.readinto(records.data)
            if got != records.size:
                raise FileError(
                    f"{path}: expected {len(x) * RECORD:,} bytes. Received: {first * RECORD + got:,}; {damaged}"
                )
            digest.update(records.data)
            part = slice(first, first + len(records))
            t[part] = records[:, 0]
            x[part] = records[:, 1:].reshape(-1, *IMAGE_SHAPE)
        if file.read(1):
            raise FileError(f"{path}: expected {len(x) * RECORD:,} bytes. Received: more than that; {damaged}")
    wrong = np.flatnonzero(t >= len(CLASSES))
    if wrong.size:
        at = int(wrong[0])
        raise FileError(
            f"{path}: expected labels from 0 to {len(CLASSES) - 1}. Received: {t[at]} in record {at}, at byte "
            f"{at * RECORD:,}; {damaged}"
        )
    if sha256 is not None and digest.hexdigest() != sha256:
        raise FileError(f"{path}: expected content of SHA-256 {sha256}. Received: {digest.hexdigest()}; {damaged}")


def _check_there(folder: Path) -> None:
    """FileError, with what to put where, if one of the six files is not in a folder under $XCONV_DATA_DIR."""
    missing = [name for name, _ in _ORIGIN.files if not (folder / name).exists()]
    if not missing:
        return
    cure = f"Unpack {ARCHIVE} into {folder.parent}, or unset XCONV_DATA_DIR to have it downloaded"
    if (folder.parent / "cifar-10-batches-py").is_dir():
        cure = f"The Python version, which is there, is pickles, which xconv does not read. {cure}"
    raise FileError(
        f"{folder / missing[0]}: expected this file, since XCONV_DATA_DIR is set. Received: no such file. {cure}"
    )


def _fetch(folder: Path) -> Arrays:
    """Download the archive, and put its six files into `folder` once all of them are right."""
    size, sha256 = _ORIGIN.archive
    cure = f"Set XCONV_DATA_DIR to a folder that holds {FOLDER}/{_ORIGIN.files[0][0]} and the other five"
    if any((folder / name).exists() for name, _ in _ORIGIN.files):
        cure = f"What is in the cache, {folder}, is damaged. {cure}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as work:
            archive, unpacked = Path(work) / ARCHIVE, Path(work) / FOLDER
            mirrors = [mirror + ARCHIVE for mirror in _ORIGIN.mirrors]
            download(mirrors, archive, lambda path: _check_archive(path, size, sha256), size, cure)
            unpacked.mkdir()
            _unpack(archive, unpacked)
            arrays = _read_all(unpacked, f"{ARCHIVE} does not hold what it held before")
            for name, _ in _ORIGIN.files:
                os.replace(unpacked / name, folder / name)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{folder}: expected a folder to keep downloads in. Received: {error}. {cure}") from error
    return arrays


def _check_archive(path: Path, size: int, sha256: str) -> None:
    with path.open("rb") as file:
        received = hashlib.file_digest(file, "sha256").hexdigest()
    length = path.stat().st_size
    if length != size or received != sha256:
        raise FileError(
            f"{path}: expected {size:,} bytes of SHA-256 {sha256}. Received: {length:,} bytes of {received}"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the six files out of the archive, by our own names: no name, link or mode in it is followed."""
    wanted = {name for name, _ in _ORIGIN.files}
    size = _ORIGIN.images * RECORD
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix(f"{FOLDER}/")
                content = tar.extractfile(member) if name in wanted and member.isreg() else None
                if content is None:
                    continue
                if member.size != size:
                    raise FileError(
                        f"{ARCHIVE}: expected {name} of {size:,} bytes. Received: one of {member.size:,} bytes"
                    )
                with content, (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise FileError(f"{ARCHIVE}: expected a gzipped tar archive. Received: {error}") from error
