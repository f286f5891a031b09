"""Examples that are read when a batch needs them: from a file larger than memory, or from wherever you keep yours."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from xconv.errors import ConfigError, DTypeError, FileError, ShapeError, described

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux


class Source(ABC):
    """N examples that are read when they are needed. For yours, say `shape` (N, ...), `dtype`, and how to `read`::

        class Frames(xconv.data.Source):
            def __init__(self, path):
                self.images = h5py.File(path)["images"]
                self.shape, self.dtype = self.images.shape, self.images.dtype

            def read(self, indices):
                return self.images[indices]

    `fit`, `evaluate` and `predict` take one wherever they take an array, inputs and labels alike; values are checked
    as they come. `read` is called by one thread at a time in a `fit`, though not by the one that called `fit`. What it
    gives is copied, so that it may fill the same array each time.
    """

    shape: tuple[int, ...]
    dtype: Any
    _anew = False  # whether each `read` gives memory of its own

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """The examples of these numbers, as [n, *shape[1:]] in `dtype`. indices[n] is int64 and strictly increasing."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes, the examples' among them."""
        return len(self.shape)

    def __getitem__(self, part: slice) -> Source:
        """The examples of a slice without a step, unread."""
        first, last = self._ends(part)
        return _Part(self, first, last)

    def take(self, chosen: np.ndarray) -> np.ndarray:
        """The examples of these numbers, int64[n], in any order: [n, *shape[1:]]; ShapeError or DTypeError where `read`
        gives something else.
        """
        if np.all(chosen[1:] > chosen[:-1]):
            given = self._read(chosen)
            return given if self._anew else np.array(given)  # a batch waits for its step, while the next is read
        indices, places = np.unique(chosen, return_inverse=True)
        return self._read(indices)[places]

    def _read(self, indices: np.ndarray) -> np.ndarray:
        given, name = np.asarray(self.read(indices)), type(self).__name__
        expected = (len(indices), *self.shape[1:])
        if given.shape != expected:
            raise ShapeError(
                f"{name}.read: expected {len(indices)} examples, of shape {expected}. Received: {described(given)}"
            )
        if given.dtype != self.dtype:
            raise DTypeError(f"{name}.read: expected {np.dtype(self.dtype)}, its dtype. Received: {described(given)}")
        return given

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        if copy is False:
            raise ValueError(f"{self!r} has no array to share: all of it would be read")
        whole = self.take(np.arange(len(self)))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of shape {tuple(self.shape)}, dtype {self.dtype}>"

    def _ends(self, part: Any) -> tuple[int, int]:
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise ConfigError(
                f"{type(self).__name__}: expected a slice, as in x[:1000]; single examples are read by take(indices). "
                f"Received: {described(part)}"
            )
        first, last, _ = part.indices(len(self))
        return first, max(first, last)


class _Part(Source):
    """Examples first to last - 1 of another source."""

    def __init__(self, source: Source, first: int, last: int) -> None:
        self._source, self._first = source, first
        self.shape, self.dtype = (last - first, *source.shape[1:]), source.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self._source.read(indices + self._first)

    def take(self, chosen: np.ndarray) -> np.ndarray:
        return self._source.take(chosen + self._first)


class MappedSource(Source):
    """An np.memmap of any layout, left on disk: what np.memmap objects become that a model is given.

    Examples are read from its file, past the mapping: pages of a mapping count as this process's memory once they are
    touched, and with each example come its neighbours (up to 1 MB on recent Linux; training from 2 GB so took 1.2). The
    system is told of all examples of a batch before it is asked for the first, so that it fetches them together and
    nothing around them (examples of 12 KB that are on disk only come in half the time). Where nobody can say
    which file it is (it was deleted; not on Linux), or the mapping may differ from it (mode "c"), or the bytes of an
    example lie scattered, they are read by the mapping, whose pages are then given back, unless what was written to it
    would be lost.
    """

    _anew = True

    def __init__(self, array: np.ndarray) -> None:
        owner = _memmap(array)
        if owner is None or not array.ndim:
            raise ConfigError(f"MappedSource: expected an np.memmap of examples. Received: {described(array)}")
        self._mapping: mmap.mmap = owner._mmap  # type: ignore[attr-defined]
        self._array, self.shape, self.dtype = array.view(np.ndarray), array.shape, array.dtype
        self._private = owner.mode == "c"
        self._file: _File | None = None
        row = self._array[:1]
        low, high = np.lib.array_utils.byte_bounds(row)
        self._span = high - low  # bytes from the first to the last of one example
        if row.size and self._span <= 2 * row.nbytes and not self._private:
            self._file = _file_of(low)
            self._within = row.__array_interface__["data"][0] - low

    def read(self, indices: np.ndarray) -> np.ndarray:
        if self._file is None:
            given = self._array[indices]
            if not self._private and hasattr(self._mapping, "madvise"):
                self._mapping.madvise(mmap.MADV_DONTNEED)
            return given
        step = self._array.strides[0]
        buffer = np.empty((len(indices), self._span), np.uint8)
        self._file.read(_runs(indices, step == self._span), step, buffer)
        shape, strides = (len(indices), *self.shape[1:]), (self._span, *self._array.strides[1:])
        return np.ascontiguousarray(np.ndarray(shape, self.dtype, buffer, self._within, strides))

    def __getitem__(self, part: slice) -> Source:
        first, last = self._ends(part)
        return MappedSource(self._array[first:last])


def _runs(indices: np.ndarray, together: bool) -> list[tuple[int, int]]:
    """The first of consecutive numbers, and how many they are; each by itself where they do not lie `together`."""
    if not together:
        return [(i, 1) for i in indices.tolist()]
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    if not len(indices):
        return []
    starts = [0, *ends.tolist()]
    return [(int(indices[a]), b - a) for a, b in zip(starts, [*starts[1:], len(indices)], strict=True)]


class _File:
    """A file opened for reading, with the place where example 0 begins."""

    def __init__(self, path: str, start: int) -> None:
        self._path, self._start = path, start
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def read(self, runs: list[tuple[int, int]], step: int, buffer: np.ndarray) -> None:
        """Runs of examples, so many bytes from one to the next, into buffer[n, bytes of one]; FileError if it ends."""
        whole, missing, row = buffer.reshape(-1).data, [], 0
        for first, count in runs:  # what the system has in its cache
            place, part = self._start + first * step, whole[row : row + count * buffer.shape[1]]
            row += len(part)
            got = self._cached(place, part)
            if got < len(part):
                missing.append((first, place + got, part[got:]))
        for _, place, part in missing:  # the rest it fetches all at once
            os.posix_fadvise(self._handle, place, len(part), os.POSIX_FADV_WILLNEED)
        for first, place, part in missing:
            while part:
                try:
                    got = os.preadv(self._handle, [part], place)
                except OSError as error:
                    raise FileError(f"{self._path}: example {first} cannot be read: {error}") from error
                if not got:
                    raise FileError(
                        f"{self._path}: expected {len(part)} more bytes of example {first} at {place}. Received: the "
                        "end of the file, which was longer when it was mapped"
                    )
                place, part = place + got, part[got:]

    def _cached(self, place: int, part: memoryview) -> int:
        """How many bytes were read because they are in memory already."""
        try:
            return os.preadv(self._handle, [part], place, _NOWAIT)
        except OSError:  # none of them, or the file system cannot tell
            return 0


def _file_of(address: int) -> _File | None:
    """The file that is mapped at an address, from the byte there on; None where the system does not say."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return None
    for line in lines:
        span, _, offset, _, _, *path = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            # The name is the file's present one, or says that it has none.
            if not path or not path[0].startswith("/") or path[0].endswith(" (deleted)"):
                return None
            try:
                return _File(path[0].replace("\\012", "\n"), int(offset, 16) + address - low)
            except OSError:
                return None
    return None


class Pixels(Source):
    """Images kept as bytes that a model sees as numbers from 0 to 1: x / 255 in the model's dtype, to the very bits.

    `bytes` is a uint8 array [N, ...], an np.memmap or a Source. They stay bytes until a batch is made, and where there
    is a device they become numbers on it: a quarter of the memory, and of the traffic.
    """

    def __init__(self, bytes: Any) -> None:
        self.bytes: np.ndarray | Source = on_disk(bytes)
        if not isinstance(self.bytes, np.ndarray | Source) or self.bytes.dtype != np.uint8 or not self.bytes.ndim:
            raise DTypeError(f"Pixels: expected a uint8 array, np.memmap or Source. Received: {described(bytes)}")
        self.shape, self.dtype = self.bytes.shape, np.dtype(np.uint8)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The bytes."""
        return self.bytes[indices] if isinstance(self.bytes, np.ndarray) else self.bytes.take(indices)

    def take(self, chosen: np.ndarray) -> np.ndarray:
        return self.read(chosen)

    def __getitem__(self, part: slice) -> Pixels:
        first, last = self._ends(part)
        return Pixels(self.bytes[first:last])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them as numbers from 0 to 1, float32 unless said otherwise."""
        if copy is False:
            raise ValueError(f"{self!r} holds no such array: bytes become numbers")
        return pixels(np.asarray(self.bytes), "float32" if dtype is None else dtype)


def pixels(x: np.ndarray, dtype: Any = "float32") -> np.ndarray:
    """x / 255: bytes to numbers from 0 to 1, of x's shape."""
    return np.divide(x, 255, dtype=dtype)


def on_disk(a: Any) -> Any:
    """A MappedSource of an array whose memory is that of an np.memmap, and anything else as it is."""
    return a if _memmap(a) is None else MappedSource(a)


def _memmap(a: Any) -> np.memmap | None:
    """The np.memmap that an array is, or is a view of; None for what was computed from one."""
    while isinstance(a, np.ndarray):
        if isinstance(a, np.memmap) and a._mmap is not None:  # type: ignore[attr-defined]
            return a
        a = a.base
    return None
