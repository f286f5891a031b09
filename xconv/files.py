"""Files that are whole or absent: written beside their place, flushed to the disk, and renamed into it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xconv.errors import FileError

_STRAY_SECONDS = 3600
# Suffixes of other formats, which a model is not written under.
FOREIGN = {".h5": "Keras's", ".hdf5": "Keras's", ".keras": "Keras's", ".pkl": "pickle's", ".pickle": "pickle's"}


def readable(name: str) -> str:
    """A file's name as text that every file and page can hold: a byte that is not UTF-8 is shown as \\xe9."""
    if name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name):
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a new `path` to, which takes its place when the block ends well.

    A reader, or a machine that lost power, sees the old file or the new one. FileError where `path` cannot be written,
    raised before the block where that can be known; then what was there is untouched.
    """
    path = Path(path).resolve()  # a link stays a link
    _check_place(path)
    work = path.with_name(
        f".{path.name}.{secrets.token_hex(6)}.tmp"
    )  # a folder: libraries have temporaries of their own
    try:
        _clear_strays(path)
        work.mkdir()
        part = work / path.name
        part.touch()
        mode = part.stat().st_mode  # as the umask has it, whatever the block makes of it
        yield part
        part.chmod(mode)
        _flush(part)
        os.replace(part, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise FileError(f"{path}: could not be written: {error}. What was there is unchanged") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`path` as a folder that files can be written to, made where it is missing.

    FileError where that cannot be. Where the block fails, the folders that were made for it and are still empty go.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".xconv.{secrets.token_hex(6)}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a file is in the way"
        elif not path.is_dir():
            parent = next((folder for folder in path.absolute().parents if folder.is_dir()), path.absolute().parent)
            reason = f"a place in {parent}, where no folder can be made ({reason})"
        _remove_empty(missing)
        raise FileError(f"{path}: expected a folder that can be written to. Received: {reason}") from error
    try:
        yield path
    except BaseException:
        _remove_empty(missing)
        raise


def _remove_empty(folders: list[Path]) -> None:
    """Innermost first; one that holds something, or is not there, stays as it is."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_place(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        received = "a file" if folder.exists() else "no such folder"
        raise FileError(f"{path}: expected a folder {folder}. Received: {received}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"{path}: expected a folder that can be written to. Received: {folder}, which cannot")
    if path.is_dir():
        raise FileError(f"{path}: expected a name for a file. Received: a folder")


def _clear_strays(path: Path) -> None:
    """Remove what killed writers of `path` left, once it is so old that nobody can still be writing it."""
    mark = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp")
    for stray in path.parent.iterdir():
        if mark.fullmatch(stray.name):
            with contextlib.suppress(OSError):
                if time.time() - stray.stat().st_mtime > _STRAY_SECONDS:
                    shutil.rmtree(stray)


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last; only POSIX systems open folders."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
