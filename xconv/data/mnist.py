"""MNIST and its like: the sample inside this package, files of your own, or a checked download."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from xconv.data.dataset import DataSet
from xconv.data.download import UnreadableError, cache_dir, download
from xconv.data.idx import read_idx
from xconv.errors import FileError

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class _Origin:
    """Where a data set lies. `files`: x_train, t_train, x_test, t_test as (file, shape, SHA-256 of what it unpacks to).

    The hash is that of the content and not of the .gz, since mirrors and distributions pack the same bytes anew.
    """

    folder: str
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    files: tuple[tuple[str, tuple[int, ...], str], ...]


_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _files(train: int, hashes: tuple[str, str, str, str]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    shapes: tuple[tuple[int, ...], ...] = ((train, 28, 28), (train,), (10_000, 28, 28), (10_000,))
    return tuple(zip(_FILES, shapes, hashes, strict=True))


_SAMPLE = _Origin(
    "mnist_sample",
    DIGITS,
    (),
    _files(
        10_000,
        (
            "2889698e6bc3614913e76901316712919d1998fc2b44512451bfe65bc1e668b1",
            "651e38e2ac0632f5113ec18f1df4977117f953197819034009971a6675a0df78",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)
_ORIGINS = {
    "mnist": _Origin(
        "mnist",
        DIGITS,
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        _files(
            60_000,
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
    "fashion-mnist": _Origin(
        "fashion-mnist",
        CLOTHES,
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        _files(
            60_000,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    ),
}
SAMPLE = Path(__file__).parent / "mnist_sample"
NAMES = ("mnist-sample", *_ORIGINS)


def load(name: str) -> DataSet:
    """One of `NAMES`; the sample lies inside the package, the others under $XCONV_DATA_DIR or in the cache."""
    if name == "mnist-sample":
        folder, source = SAMPLE, _SAMPLE
        cure = "install xconv anew, with pip install --force-reinstall xconv"
        arrays = [
            read_idx(folder / f"{file}.gz", shape=shape, sha256=sha256, cure=cure)
            for file, shape, sha256 in source.files
        ]
    else:
        source = _ORIGINS[name]
        root = os.environ.get("XCONV_DATA_DIR")
        folder = Path(root or cache_dir()) / source.folder
        if root:
            paths = [_found(folder, file) for file, _, _ in source.files]
            wanted = zip(paths, source.files, strict=True)
            cure = "replace it, or unset XCONV_DATA_DIR to have it downloaded"
            arrays = [read_idx(path, shape=shape, sha256=sha256, cure=cure) for path, (_, shape, sha256) in wanted]
        else:
            arrays = [_cached(folder, source.mirrors, *file) for file in source.files]
    x_train, t_train, x_test, t_test = arrays
    return DataSet(
        name,
        x_train[:, None],
        t_train.astype(np.int64),
        x_test[:, None],
        t_test.astype(np.int64),
        source.classes,
        str(folder),
    )


def read_pair(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], image_shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[N, 1, H, W] and labels int64[N] from any two IDX files; FileError where their counts differ."""
    x = read_idx(images, shape=(None, *(image_shape or (None, None))))
    t = read_idx(labels, shape=(None,))
    if len(x) != len(t):
        raise FileError(f"{labels}: expected {len(x)} labels, as many as the images in {images}. Received: {len(t)}")
    return x[:, None], t.astype(np.int64)


def _found(folder: Path, file: str) -> Path:
    """`file`, plain or gzipped, in a folder under $XCONV_DATA_DIR."""
    for path in (folder / file, folder / f"{file}.gz"):
        if path.exists():
            return path
    raise FileError(
        f"{folder / file}[.gz]: expected this file, since XCONV_DATA_DIR is set. Received: no such file. "
        "Put the data set's four files there, or unset XCONV_DATA_DIR to have them downloaded"
    )


def _cached(folder: Path, mirrors: tuple[str, ...], file: str, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """The array of `file` in the cache, brought there first where it is missing or damaged."""
    path = folder / f"{file}.gz"
    read = partial(read_idx, shape=shape, sha256=sha256, cure="delete it, and it will be fetched again")
    try:
        return read(path)
    except UnreadableError:
        raise
    except FileError:  # missing or damaged
        limit = math.prod(shape) + 4096  # what cannot be packed grows a little
        cure = f"Set XCONV_DATA_DIR to a folder that holds {folder.name}/{path.name}, or use 'mnist-sample'"
        if path.exists():
            cure = f"The one in the cache, {path}, is damaged. {cure}"
        check = partial(read, cure="")
        download([mirror + path.name for mirror in mirrors], path, check, limit, cure)
        return read(path)
