"""Pictures in folders, one for each class, as a data set."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from xconv import checks, streams
from xconv.backend.threads import default_threads
from xconv.data.dataset import DataSet
from xconv.data.picture import check_wish, decoded, load_readers
from xconv.errors import ConfigError, FileError, OutOfMemoryError, described
from xconv.files import readable

TEST_SHARE = 0.2
TRAIN, TEST = "train", ("test", "val")  # the first there is of the latter
NO_PICTURES = frozenset((  # by their suffixes
    ".cfg", ".csv", ".db", ".html", ".htm", ".ini", ".json", ".jsonl", ".log", ".md", ".py", ".pdf", ".rst", ".sh",
    ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml",
))  # fmt: skip
_SHOWN = 3  # names in a message
_LAYOUT = "a sub-folder for each class, or train/ and test/ with these in them"

Classes = Mapping[str, Sequence[Path]]  # the pictures of each class, both in the order of their names


def folder(
    path: str | os.PathLike[str],
    image_size: int | tuple[int, int],
    *,
    channels: int = 3,
    fit: str = "crop",
    test_share: float | None = None,
    seed: int = 0,
    subset: str = "both",
) -> DataSet:
    """Pictures in sub-folders of `path`, one for each class, whose name it bears: a data set of uint8[N, C, H, W].

    Labels count the classes in the order of their names, in which a byte that is not UTF-8 is shown as \\xe9. Either
    `path` holds train/ and test/ (or val/ in its place, which is left alone where there is test/ too), and in both a
    folder for each class, the same in both; or the classes' folders stand in `path`, and of each class `test_share` of
    the pictures, a fifth where it is not given, one at least, are held out for testing, the same ones each time for the
    same `seed` and number of files.

    Pictures are all files in a class's folder and below, whatever their suffix, but hidden ones (.DS_Store) and those
    that clearly are none (.txt, .csv, .json, Thumbs.db, ...: `NO_PICTURES`); they are brought to `image_size` (H, W)
    and to 1, 3 or 4 `channels` as `read_picture` says, by $XCONV_NUM_THREADS threads, or one a processor. Files beside
    the classes' folders, and hidden folders, are left alone. With `subset` "train" or "test" only these are read, and
    there are none of the others.

    FileError where there is no such folder, or nothing in it; where it has fewer than two classes, or one without
    pictures, or one that only train/ or only test/ has; and, with their number and the first names, where pictures
    cannot be read: nothing is loaded then. ConfigError for arguments that cannot be. OutOfMemoryError where the bytes
    of all pictures, or one while it is read, do not fit into memory.
    """
    height, width = check_wish(image_size, channels, fit, "folder")
    streams.check_seed(seed)
    if subset not in ("both", "train", "test"):
        raise ConfigError(f"folder: subset must be 'both', 'train' or 'test'. Received: {described(subset)}")
    path = Path(path)
    try:
        train, test = _split(path, test_share, seed)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: expected {_LAYOUT}. Received: {error}") from error
    if subset == "test":
        train = dict.fromkeys(train, ())
    elif subset == "train":
        test = dict.fromkeys(test, ())
    pictures = [picture for part in (train, test) for found in part.values() for picture in found]
    t_train, t_test = (_labels(part) for part in (train, test))
    x = _read(pictures, (height, width), channels, fit, path)
    n = len(t_train)
    names = tuple(readable(label) for label in train)
    return DataSet(readable(path.resolve().name), x[:n], t_train, x[n:], t_test, names, str(path))


def _split(path: Path, test_share: float | None, seed: int) -> tuple[Classes, Classes]:
    """The pictures to train and to test with."""
    if test_share is not None:
        checks.number(test_share, "folder: test_share", least=0.0, most=1.0)
        if not 0 < test_share < 1:
            raise ConfigError(f"folder: test_share must be above 0 and below 1. Received: {described(test_share)}")
    if not path.is_dir():
        raise FileError(f"{path}: expected a folder. Received: {'a file' if path.exists() else 'no such folder'}")
    inside = {entry.name for entry in _folders(path)}
    if TRAIN not in inside or not _folders(path / TRAIN):  # "train" may be a class, too
        return _held_out(path, _classes(path), TEST_SHARE if test_share is None else test_share, seed)
    name = next((name for name in TEST if name in inside), None)
    if name is None:
        raise FileError(
            f"{path}: expected test/ or val/ beside train/; where there is none, give {path / TRAIN} itself, of which "
            f"a share is held out. Received: {_listed(sorted(inside))}"
        )
    if test_share is not None:
        raise ConfigError(f"folder: no test_share where there is {path / name}. Received: {described(test_share)}")
    train, test = _classes(path / TRAIN), _classes(path / name)
    for one, other, where in ((train, test, name), (test, train, TRAIN)):
        missing = [label for label in one if label not in other]
        if missing:
            raise FileError(f"{path / where}: expected the classes that the other has. Received: no {_listed(missing)}")
    return train, test


def _labels(part: Classes) -> np.ndarray:
    return np.repeat(np.arange(len(part), dtype=np.int64), [len(found) for found in part.values()])


def _held_out(path: Path, classes: Classes, share: float, seed: int) -> tuple[Classes, Classes]:
    """`share` of each class, one picture at least, taken out for testing."""
    train, test = {}, {}
    for number, (label, found) in enumerate(classes.items()):
        n = len(found)
        if n < 2:
            raise FileError(
                f"{path / label}: expected at least 2 pictures, of which one is held out for testing. Received: {n}"
            )
        count = min(max(round(share * n), 1), n - 1)
        chosen = set(streams.held_out_order(seed, number, n)[:count].tolist())
        train[label] = [picture for i, picture in enumerate(found) if i not in chosen]
        test[label] = [picture for i, picture in enumerate(found) if i in chosen]
    return train, test


def _classes(path: Path) -> Classes:
    """The classes in one folder: at least two, each with pictures."""
    classes = {entry.name: _pictures(Path(entry.path)) for entry in _folders(path)}
    if not classes:
        inside = sorted(os.listdir(path))
        received = f"no folder, but {_listed(inside)}" if inside else "an empty folder"
        raise FileError(f"{path}: expected {_LAYOUT}. Received: {received}")
    empty = [label for label, found in classes.items() if not found]
    if empty:
        raise FileError(f"{path}: expected pictures of each class. Received: none in {_listed(empty)}")
    if len(classes) == 1:
        raise FileError(f"{path}: expected the folders of at least two classes. Received: {_listed(list(classes))}")
    return classes


def _folders(path: Path) -> list[os.DirEntry[str]]:
    """The folders in a folder in the order of their names; hidden ones, and macOS's in archives, are none."""
    with os.scandir(path) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))]
    return sorted(found, key=lambda entry: entry.name)


def _pictures(path: Path) -> list[Path]:
    """All files in a folder and below that may be pictures. Links are followed; a loop of them is an OSError."""
    found = []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _pictures(Path(entry.path))
            elif os.path.splitext(entry.name)[1].lower() not in NO_PICTURES:
                found.append(Path(entry.path))
    return found


def _read(pictures: Sequence[Path], size: tuple[int, int], channels: int, fit: str, path: Path) -> np.ndarray:
    """All pictures as uint8[N, C, H, W], or FileError with the number and the first of those that cannot be read."""
    shape = (len(pictures), channels, *size)
    try:
        x = np.empty(shape, np.uint8)
    except (MemoryError, ValueError) as error:
        raise OutOfMemoryError(
            f"{path}: {len(pictures):,} pictures of {size[0]}x{size[1]} with {channels} channels take more memory than "
            "there is: take a smaller image_size, or read them batch by batch"
        ) from error

    def read(i: int) -> str | None:
        """Fill x[i], or say why not."""
        try:
            x[i] = decoded(pictures[i], *size, channels, fit).transpose(2, 0, 1)
        except FileError as error:
            return str(error)
        return None

    settings = {"desc": path.name, "unit": " pictures", "leave": False, "file": sys.stderr, "disable": None, "delay": 1}
    load_readers()
    # Pillow gives the interpreter free while it decodes and resizes.
    with tqdm(total=len(pictures), **settings) as bar, ThreadPoolExecutor(default_threads()) as pool:
        problems = []
        try:
            for problem in pool.map(read, range(len(pictures))):
                bar.update()
                if problem:
                    problems.append(problem)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for all the others
            raise
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        raise FileError(
            f"{path}: expected pictures that can be read: replace or remove the others. Received: {len(problems):,} of "
            f"{len(pictures):,} that cannot be{', such as' if len(problems) > _SHOWN else ':'} {shown}"
        )
    return x


def _listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
