"""Host memory reused from step to step: fresh pages cost a fault each, and every step needs the same sizes again."""

from __future__ import annotations

import math
import os
import threading
from collections import defaultdict
from typing import Any, cast

import numpy as np

SMALL = 1 << 15  # below this many bytes NumPy's own cache is as good
ALIGN = 64  # a cache line, and an AVX-512 register


class _Lease(np.ndarray):
    """A block that goes back to its pool when nobody holds it any more."""

    pool: HostPool | None = None
    block: np.ndarray

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool._give_back(self.block)


class HostPool:
    """Hands out arrays whose memory comes back by itself once nobody holds them or a view of them.

    An array that is still held, by a layer's saved values or by a user, is therefore never handed out again.
    `limit` bounds the idle bytes kept for reuse; more is given back to the system.
    """

    def __init__(self, limit: int = 1 << 28) -> None:
        self.limit = limit
        self._idle: dict[int, list[np.ndarray]] = defaultdict(list)
        self._idle_bytes = 0
        self._lock = threading.RLock()  # a collection inside `empty` may run `_give_back` in the same thread
        os.register_at_fork(after_in_child=self._after_fork)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised C-contiguous array, aligned to 64 bytes."""
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < SMALL:
            return np.empty(shape, dtype)
        size = -(-nbytes // 4096) * 4096
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                block = idle.pop()
                self._idle_bytes -= size
            else:
                block = None
        if block is None:
            raw = np.empty(size + ALIGN, np.uint8)
            start = -raw.ctypes.data % ALIGN
            block = raw[start : start + size]
        # The result and all views of it keep the lease alive; when the last dies, so does it, and the block returns.
        # The memoryview is needed: a view's base is the owner of its memory, found by looking through arrays alone.
        lease = block.view(_Lease)
        lease.pool, lease.block = self, block
        return np.frombuffer(memoryview(cast(Any, lease)), dtype, count=math.prod(shape)).reshape(shape)

    def _give_back(self, block: np.ndarray) -> None:
        with self._lock:
            if self._idle_bytes + block.nbytes <= self.limit:
                self._idle[block.nbytes].append(block)
                self._idle_bytes += block.nbytes

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
