"""From the host to the device while kernels run: pinned memory, a stream of its own, and events for the order."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from xconv.backend.saved import Array

_NO_MEMORY = 2  # cudaErrorMemoryAllocation


class Stage:
    """Pinned memory and as much on the device, for one batch at a time; two of them in turn never wait for a step.

    The host writes `host()`, `send` copies it, kernels read what that gave, `read` says that they have been asked to.
    """

    def __init__(self, cupy: Any, rows: Sequence[tuple[tuple[int, ...], np.dtype]]) -> None:
        self._cuda = cuda = cupy.cuda
        self._stream = cuda.Stream(non_blocking=True)  # one that blocked would wait for the default stream's kernels
        self._pinned = [_pinned(cuda, shape, dtype) for shape, dtype in rows]
        self._there = [cupy.empty(shape, dtype) for shape, dtype in rows]
        self._copied, self._read = (cuda.Event(disable_timing=True) for _ in range(2))
        self.read()  # the pool may have given memory that kernels of this stream still use

    def host(self) -> list[np.ndarray]:
        """The arrays to write, once what they had is on the device."""
        self._copied.synchronize()
        return self._pinned

    def send(self, count: int) -> list[Array]:
        """The first `count` rows of each, on the device: whatever is asked for next waits for them there."""
        self._stream.wait_event(self._read)
        there = [a[:count] for a in self._there]
        for array, pinned in zip(there, self._pinned, strict=True):
            array.set(pinned[:count], stream=self._stream)
        self._copied.record(self._stream)
        self._cuda.get_current_stream().wait_event(self._copied)
        return there

    def read(self) -> None:
        """All kernels that read what `send` gave have been asked for."""
        self._read.record(self._cuda.get_current_stream())

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_copied"):
            self._copied.synchronize()  # pinned memory goes back to a pool, for others to write


def _pinned(cuda: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    count = math.prod(shape)
    try:
        memory = cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
    except cuda.runtime.CUDARuntimeError as error:
        if error.status != _NO_MEMORY:
            raise
        raise MemoryError(f"no pinned memory of {count * dtype.itemsize} bytes: {error}") from error
    return np.frombuffer(memory, dtype, count).reshape(shape)
