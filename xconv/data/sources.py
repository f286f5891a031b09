"""Examples that are read when a batch needs them: from a file larger than memory, or from wherever you keep yours."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from xconv.errors import ConfigError, DTypeError, ShapeError, described

HELD = 1 << 26  # bytes of a mapping that may lie in this process's memory before they are given back
_AROUND = 1 << 16  # bytes that Linux maps around the one that is asked for, where they are in its cache


class Source(ABC):
    """N examples that are read when they are needed. For yours, say `shape` (N, ...), `dtype`, and how to `read`::

        class Frames(xconv.data.Source):
            def __init__(self, path):
                self.images = h5py.File(path)["images"]
                self.shape, self.dtype = self.images.shape, self.images.dtype

            def read(self, indices):
                return self.images[indices]

    `fit`, `evaluate` and `predict` take one wherever they take an array, inputs and labels alike; values are checked
    as they come. `read` is called by one thread at a time in a `fit`, though not by the one that called `fit`.
    """

    shape: tuple[int, ...]
    dtype: Any

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
            return self._read(chosen)
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

    The system is told of all examples of a batch before the first is touched, so that it fetches them together and
    nothing around them (measured on random examples of 12 KB that were on disk only: 2.5 ms a hundred instead of 22).
    Pages that were read count as this process's memory while they are mapped: they are given back each time they may
    have come to `HELD` bytes. The system keeps them as its cache, while it has room. A mapping of mode "c" gives none
    back, since what was written to it would be lost.
    """

    def __init__(self, array: np.ndarray) -> None:
        owner = _memmap(array)
        if owner is None or not array.ndim:
            raise ConfigError(f"MappedSource: expected an np.memmap of examples. Received: {described(array)}")
        mapping: mmap.mmap = owner._mmap  # type: ignore[attr-defined]
        self._plain = array.view(np.ndarray)
        self.shape, self.dtype = array.shape, array.dtype
        self._mapping, self._private = mapping, owner.mode == "c"
        self._mapped = 0  # bytes, at most, since pages were given back
        self._span = self._at = 0
        if array.size:
            low, high = np.lib.array_utils.byte_bounds(self._plain[:1])
            self._span = high - low
            self._at = low - np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]

    def read(self, indices: np.ndarray) -> np.ndarray:
        self._fetch(indices)
        given = self._plain[indices]
        self._mapped += len(indices) * (self._span + _AROUND)
        if self._mapped > HELD and not self._private:
            self._advise("MADV_DONTNEED")
            self._mapped = 0
        return given

    def __getitem__(self, part: slice) -> Source:
        first, last = self._ends(part)
        return MappedSource(self._plain[first:last])

    def _fetch(self, indices: np.ndarray) -> None:
        """Ask for the bytes of these examples, where each one's lie together."""
        step = self._plain.strides[0]
        if not len(indices) or self._span > 2 * self._plain[:1].nbytes or step < self._span:
            return
        ends = np.flatnonzero(np.diff(indices) != 1)
        firsts = indices[np.concatenate(([0], ends + 1))]
        lasts = indices[np.concatenate((ends, [len(indices) - 1]))]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            start = self._at + first * step
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise("MADV_WILLNEED", page, self._at + last * step + self._span - page)

    def _advise(self, what: str, *where: int) -> None:
        if hasattr(self._mapping, "madvise") and hasattr(mmap, what):  # not on Windows
            self._mapping.madvise(getattr(mmap, what), *where)


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
