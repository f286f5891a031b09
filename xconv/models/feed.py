"""Batches for training: taken from the host, or out of a data set that lies on the device, or sent while steps run.

All give the same batches to the bit. Where arrays lie in this process's memory, a batch is an index and a cast.
Elsewhere a data set that fits is put on the device once, bytes as bytes, and each epoch's order with it, so that a
step needs nothing from the host; a larger one goes through two pinned buffers, a batch being copied while a step runs.

What costs the host more than a hand-over between threads (0.01 ms, and up to a slice of Python's interpreter where that
is busy) is prepared by a thread beside the step: examples that are read late (Sources, files, generators), and where
the host computes somebody's own augmentation. A batch of arrays, an index and a cast (0.03 ms), is not, nor is our
Augmentation of one: a kernel that takes every processor, as the step does, and as much time beside it as before it.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.backend import Array
from xconv.data.sources import Pixels
from xconv.errors import OutOfMemoryWarning
from xconv.models.ahead import Ahead
from xconv.models.batches import Examples, Part, Stream, is_lazy
from xconv.models.entry import Augmented, Change, Entry, kept
from xconv.models.rescue import SMALLER, release, with_room
from xconv.models.step import Batch

if TYPE_CHECKING:
    from xconv.models.network import Network

SHARE = 0.25  # of the device's free memory that a data set may take
BUDGET = 16 * 10**9  # bytes that it may take at most
TARGETS = ("int64", "float32", "float64")  # what Backend.gather casts to on every backend
PIECE = 1 << 26  # bytes that are put there at once: what a cast needs on the host for a while


class Feed(ABC):
    """``with feed.epoch(number) as parts``, and then `batch(part)` for each, in turn, gives an epoch's batches."""

    def __init__(
        self, model: Network, data: Examples | Stream, batch_size: Any, shuffle: bool, augmented: Augmented | None
    ) -> None:
        self.backend, self.data, self._model = model.backend, data, model
        self._size, self._seed = batch_size, model.seed if shuffle else None
        self._dtype, self._augmented = np.dtype(model.dtype), augmented
        self._entry = Entry(self.backend)

    @property
    def prepared(self) -> bool:
        """Whether a thread prepares batches beside the step."""
        return self.data.lazy

    @contextmanager
    def epoch(self, number: int) -> Iterator[Iterator[Part]]:
        """The parts of the epoch of that number, which counts from 1."""
        parts = self._parts(number)
        if not self.prepared:
            yield parts
            return
        with Ahead(parts) as made:
            yield made

    @abstractmethod
    def _parts(self, epoch: int) -> Generator[Part]:
        """What can be done beside a step, for each batch in turn."""

    @abstractmethod
    def batch(self, part: Part, into: Batch | None = None) -> Batch:
        """What is left to do, in the thread that trains; written into the arrays of `into` where they fit."""

    def _change(self, place: int, part: Part) -> Change | None:
        return None if self._augmented is None else self._augmented.change(place, part, self.backend)

    def _finished(self, part: Part, into: Batch | None = None) -> Batch:
        """The batch of a part that holds all its arrays, on the host."""
        entry, backend = self._entry, self.backend
        wholes = [None] * len(part.xs) if isinstance(self.data, Stream) else map(_memory, self.data.xs)
        xs = [
            entry(x, self._dtype, place, self._change(i, part), whole)
            for i, (x, place, whole) in enumerate(zip(part.xs, _places(into and into.xs, part.xs), wholes, strict=True))
        ]
        ts = [
            entry.written(backend.asarray(t), place)
            for t, place in zip(part.ts, _places(into and into.ts, part.ts), strict=True)
        ]
        if part.weights is None:
            return Batch(xs, ts, None)
        weights = backend.asarray(part.weights, self._dtype)
        return Batch(xs, ts, entry.written(weights, None if into is None else into.weights))


def _memory(data: Any) -> Any:
    """The array that examples lie in, or the Source that they are read from."""
    return data.bytes if isinstance(data, Pixels) else data


def _places(given: Sequence[Array] | None, like: Sequence[Any]) -> Sequence[Array | None]:
    return [None] * len(like) if given is None else given


def feed(
    model: Network,
    data: Examples | Stream,
    batch_size: Any,
    shuffle: bool = True,
    augmented: Augmented | None = None,
) -> Feed:
    """The fastest there is for this data on the model's backend, by a fixed rule on sizes and on free memory."""
    free, given = model.backend.free_bytes(), (model, data, batch_size, shuffle, augmented)
    if free is None or isinstance(data, Stream):
        return HostFeed(*given)
    dtypes = [np.dtype(model.dtype), *(t.dtype for t in data.ts if not is_lazy(t))]
    if not all(dtype.isnative and dtype.name in TARGETS for dtype in dtypes):
        return HostFeed(*given)
    if not data.lazy and _size(data, dtypes[0]) <= min(BUDGET, SHARE * free):
        try:
            return ResidentFeed(*given)
        except MemoryError:  # what is free may lie in pieces, or another process took it
            pass
        release(model)
        warnings.warn(
            f"{model.name}: memory is short: the data set does not fit on the device beside the model, and each batch "
            "is sent there for itself",
            OutOfMemoryWarning,
            stacklevel=5,
        )
    return with_room(model, lambda: StagedFeed(*given), f"what sends batches of {batch_size} examples", SMALLER)


def _size(data: Examples, dtype: np.dtype) -> int:
    """Bytes of the examples on a device."""
    weights = 0 if data.weights is None else len(data) * dtype.itemsize
    xs = sum(math.prod(x.shape) * kept(x.dtype, dtype).itemsize for x in data.xs)
    return xs + sum(math.prod(t.shape) * t.dtype.itemsize for t in data.ts) + weights


class HostFeed(Feed):
    """An index and a cast, which where the host computes a thread can do; batches that somebody makes, for a device."""

    @property
    def prepared(self) -> bool:
        return self.data.lazy or (self._augmented is not None and self._augmented.beside)

    def _parts(self, epoch: int) -> Generator[Part]:
        for part in self.data.parts(self._size, epoch, self._seed):
            if self.backend.on_host:
                xs, ts, weights = self._finished(part)
                part = part._replace(xs=xs, ts=ts, weights=weights)
            yield part

    def batch(self, part: Part, into: Batch | None = None) -> Batch:
        if self.backend.on_host:
            return Batch(part.xs, part.ts, part.weights)
        return self._finished(part, into)


class ResidentFeed(Feed):
    """The whole data set is on the device, and in each epoch its order."""

    data: Examples

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        data = self.data
        self._xs = [self._put(x, kept(x.dtype, self._dtype)) for x in data.xs]
        self._ts = [self._put(t, t.dtype) for t in data.ts]
        self._weights = None if data.weights is None else self._put(data.weights, self._dtype)

    def _put(self, array: Any, dtype: np.dtype) -> Array:
        array = array.bytes if isinstance(array, Pixels) else array
        rows = max(1, PIECE // max(1, math.prod(array.shape[1:]) * dtype.itemsize))
        with self.backend.running():
            there = self.backend.empty(array.shape, dtype)
            for first in range(0, len(array), rows):
                there[first : first + rows] = self.backend.asarray(array[first : first + rows], dtype)
        return there

    def _parts(self, epoch: int) -> Generator[Part]:
        n = len(self.data)
        order = self.data.order(epoch, self._seed)
        order = np.arange(n) if order is None else order
        cure = "take fewer examples, or a smaller network"
        make = partial(self.backend.asarray, order, np.int64)
        self._order = with_room(self._model, make, f"the order of {n} examples", cure)
        for first in range(0, n, self._size):
            yield Part(epoch, first, min(self._size, n - first), [], [])

    def batch(self, part: Part, into: Batch | None = None) -> Batch:
        where = self._order, part.first, part.size
        with self.backend.running():
            xs = [self._input(i, part, place) for i, place in enumerate(_places(into and into.xs, self._xs))]
            ts = [
                self._entry.gather(t, *where, t.dtype, False, place)
                for t, place in zip(self._ts, _places(into and into.ts, self._ts), strict=True)
            ]
            if self._weights is None:
                return Batch(xs, ts, None)
            place = None if into is None else into.weights
            return Batch(xs, ts, self._entry.gather(self._weights, *where, self._dtype, False, place))

    def _input(self, i: int, part: Part, place: Array | None) -> Array:
        data, change, scaled = self._xs[i], self._change(i, part), isinstance(self.data.xs[i], Pixels)
        where = self._order, part.first, part.size
        if change is None:
            return self._entry.gather(data, *where, self._dtype, scaled, place)
        if data.dtype == np.uint8:
            raw = data[self._order[part.first : part.first + part.size]]
        else:
            raw = self._entry.gather(data, *where, self._dtype, False)
        return self._entry.cast(raw, self._dtype, scaled, place, change)


class StagedFeed(Feed):
    """Batches through pinned memory: the host gathers one, and it is copied while the step before it still runs.

    A thread reads what is read late; out of arrays the host takes examples into the pinned memory itself.
    """

    data: Examples

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        data, most = self.data, min(self._size, len(self.data))
        staged = [(x, kept(x.dtype, self._dtype)) for x in data.xs]
        staged += [(t, t.dtype) for t in data.ts if not is_lazy(t)]
        self._weights_staged = data.weights is not None and data.weigh is None
        if data.weights is not None and self._weights_staged:
            staged.append((data.weights, self._dtype))
        self._staged = [array for array, _ in staged]  # what goes through pinned memory, in its order there
        rows = [((most, *array.shape[1:]), dtype) for array, dtype in staged]
        with self.backend.running():
            self._stages = [self.backend.stage(rows) for _ in range(2)]

    def _parts(self, epoch: int) -> Generator[Part]:
        return self.data.parts(self._size, epoch, self._seed, only_lazy=True)

    def batch(self, part: Part, into: Batch | None = None) -> Batch:
        data, entry = self.data, self._entry
        # Labels that are read late are small, and only then is known what they are: they go by themselves.
        late = [None if t is None else self.backend.asarray(t) for t in part.ts]
        weights = None if part.weights is None else self.backend.asarray(part.weights, self._dtype)
        self._stages.reverse()
        stage = self._stages[0]  # the one whose batch came before the last
        with self.backend.running():
            read = [*part.xs, *[None] * (len(self._staged) - len(part.xs))]
            for pinned, array, given in zip(stage.host(), self._staged, read, strict=True):
                _fill(pinned, array, given, part)
            there = iter(stage.send(part.size))
            xs = [
                entry.cast(next(there), self._dtype, isinstance(x, Pixels), place, self._change(i, part), lent=True)
                for i, (x, place) in enumerate(zip(data.xs, _places(into and into.xs, data.xs), strict=True))
            ]
            ts = [
                entry.cast(next(there), t.dtype, False, place, lent=True)
                if given is None
                else entry.written(given, place)
                for t, given, place in zip(data.ts, late, _places(into and into.ts, late), strict=True)
            ]
            place = None if into is None else into.weights
            if self._weights_staged:
                weights = entry.cast(next(there), self._dtype, False, place, lent=True)
            elif weights is not None:
                weights = entry.written(weights, place)
            stage.read()
        return Batch(xs, ts, weights)


def _fill(pinned: np.ndarray, data: Any, given: Any, part: Part) -> None:
    """A batch into pinned memory: what was read already, or examples out of an array."""
    if given is not None:
        pinned[: part.size] = given.bytes if isinstance(given, Pixels) else given
        return
    array: Any = data.bytes if isinstance(data, Pixels) else data
    chosen = part.chosen
    if array.dtype == pinned.dtype and array.flags.carray and not isinstance(chosen, slice):
        np.take(array, chosen, 0, out=pinned[: part.size], mode="clip")  # in its other mode it copies once more
    else:
        pinned[: part.size] = array[chosen]
