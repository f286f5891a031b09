"""Batches for training: taken from the host, or out of a data set that lies on the device, or sent while steps run.

All give the same batches to the bit. Where arrays lie in this process's memory, a batch is an index and a cast.
Elsewhere a data set that fits is put on the device once, bytes as bytes, and each epoch's order with it, so that a
step needs nothing from the host; a larger one goes through two pinned buffers, a batch being copied while a step runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.backend import Array, Backend
from xconv.models.step import Batch

if TYPE_CHECKING:
    from xconv.models.network import Network

SHARE = 0.25  # of the device's free memory that a data set may take
BUDGET = 16 * 10**9  # bytes that it may take at most
SOURCES = ("uint8", "int64", "float32", "float64")  # what Backend.gather takes on every backend
TARGETS = ("int64", "float32", "float64")
PIECE = 1 << 26  # bytes that are put there at once: what a cast needs on the host for a while


class Feed(ABC):
    """`start` an epoch, then ask for its batches in turn."""

    def __init__(
        self, model: Network, xs: Sequence[np.ndarray], ts: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> None:
        self.backend: Backend = model.backend
        self._arrays = [*xs, *ts, *(() if weights is None else (weights,))]
        wanted = np.dtype(model.dtype)
        self._dtypes = [*(wanted for _ in xs), *(t.dtype for t in ts), *(() if weights is None else (wanted,))]
        self._inputs, self._weighted = len(xs), weights is not None

    @abstractmethod
    def start(self, order: np.ndarray) -> None:
        """Begin an epoch: order[n] has the number of each example once, int64."""

    @abstractmethod
    def _given(self, first: int, count: int, into: Sequence[Array | None]) -> list[Array]:
        """Examples order[first : first + count] of each array, each in its dtype, written `into` memory where given."""

    def batch(self, first: int, count: int, into: Batch | None = None) -> Batch:
        """Examples order[first : first + count], written into the arrays of `into` where that is given."""
        places: list[Array | None] = [None] * len(self._arrays)
        if into is not None:
            places = [*into.xs, *into.ts, *(() if into.weights is None else (into.weights,))]
        given = self._given(first, count, places)
        labels = given[self._inputs : -1] if self._weighted else given[self._inputs :]
        return Batch(given[: self._inputs], labels, given[-1] if self._weighted else None)


def feed(
    model: Network,
    xs: Sequence[np.ndarray],
    ts: Sequence[np.ndarray],
    weights: np.ndarray | None,
    batch_size: int,
) -> Feed:
    """The fastest there is for this data on the model's backend, by a fixed rule on sizes and on free memory."""
    backend = model.backend
    given = HostFeed(model, xs, ts, weights)
    free = backend.free_bytes()
    if free is None or not all(dtype.isnative and dtype.name in TARGETS for dtype in given._dtypes):
        return given
    kept = [_kept(a, dtype) for a, dtype in zip(given._arrays, given._dtypes, strict=True)]
    size = sum(math.prod(a.shape) * dtype.itemsize for a, dtype in zip(given._arrays, kept, strict=True))
    if size <= min(BUDGET, SHARE * free):
        return ResidentFeed(model, xs, ts, weights)
    return StagedFeed(model, xs, ts, weights, batch_size)


def _kept(array: np.ndarray, dtype: np.dtype) -> np.dtype:
    """The dtype in which an array lies on the device: its own where the device can cast it, and that is no larger."""
    own = np.dtype(np.uint8) if array.dtype == np.bool_ else array.dtype
    fits = own.isnative and own.name in SOURCES and own.itemsize <= dtype.itemsize
    return own if fits and (own.kind in "iu" or dtype.kind == "f") else dtype


class HostFeed(Feed):
    """An index and a cast; the order stays on the host."""

    def start(self, order: np.ndarray) -> None:
        self._order = order

    def _given(self, first: int, count: int, into: Sequence[Array | None]) -> list[Array]:
        chosen = self._order[first : first + count]
        given = []
        for array, dtype, place in zip(self._arrays, self._dtypes, into, strict=True):
            there = self.backend.asarray(array[chosen], dtype)
            if place is not None:
                with self.backend.running():
                    place[...] = there
                there = place
            given.append(there)
        return given


class ResidentFeed(Feed):
    """The whole data set is on the device, and in each epoch its order."""

    def __init__(
        self, model: Network, xs: Sequence[np.ndarray], ts: Sequence[np.ndarray], weights: np.ndarray | None
    ) -> None:
        super().__init__(model, xs, ts, weights)
        self._data = [self._put(a, _kept(a, dtype)) for a, dtype in zip(self._arrays, self._dtypes, strict=True)]

    def _put(self, array: np.ndarray, dtype: np.dtype) -> Array:
        rows = max(1, PIECE // max(1, math.prod(array.shape[1:]) * dtype.itemsize))
        with self.backend.running():
            there = self.backend.empty(array.shape, dtype)
            for first in range(0, len(array), rows):
                there[first : first + rows] = self.backend.asarray(array[first : first + rows], dtype)
        return there

    def start(self, order: np.ndarray) -> None:
        self._order = self.backend.asarray(order, np.int64)

    def _given(self, first: int, count: int, into: Sequence[Array | None]) -> list[Array]:
        with self.backend.running():
            return [
                self.backend.gather(data, self._order, first, count, dtype, place)
                for data, dtype, place in zip(self._data, self._dtypes, into, strict=True)
            ]


class StagedFeed(Feed):
    """Batches through pinned memory: the host gathers one, and it is copied while the step before it still runs."""

    def __init__(
        self,
        model: Network,
        xs: Sequence[np.ndarray],
        ts: Sequence[np.ndarray],
        weights: np.ndarray | None,
        batch_size: int,
    ) -> None:
        super().__init__(model, xs, ts, weights)
        most = min(batch_size, len(xs[0]))
        kept = [_kept(a, dtype) for a, dtype in zip(self._arrays, self._dtypes, strict=True)]
        rows = [((most, *a.shape[1:]), dtype) for a, dtype in zip(self._arrays, kept, strict=True)]
        with self.backend.running():
            self._stages = [self.backend.stage(rows) for _ in range(2)]
        self._rows = self.backend.asarray(np.arange(most))

    def start(self, order: np.ndarray) -> None:
        self._order = order

    def _given(self, first: int, count: int, into: Sequence[Array | None]) -> list[Array]:
        chosen = self._order[first : first + count]
        self._stages.reverse()
        stage = self._stages[0]  # the one whose batch came before the last
        with self.backend.running():
            for array, pinned in zip(self._arrays, stage.host(), strict=True):
                if array.dtype == pinned.dtype:
                    np.take(array, chosen, 0, out=pinned[:count], mode="clip")  # in its other mode it copies once more
                else:
                    pinned[:count] = array[chosen]
            there = stage.send(count)
            given: list[Any] = [
                self.backend.gather(data, self._rows, 0, count, dtype, place)
                for data, dtype, place in zip(there, self._dtypes, into, strict=True)
            ]
            stage.read()
        return given
