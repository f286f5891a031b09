"""Host memory reused from step to step: fresh pages cost a fault each, and every step needs the same sizes again."""

from __future__ import annotations

import math
import os
import threading
from typing import Any, NamedTuple, cast

import numpy as np

SMALL = 1 << 15  # below this many bytes NumPy's own cache is as good
ALIGN = 64  # a cache line, and an AVX-512 register
PAGE = 4096  # sizes of blocks are multiples of it
SEGMENT = 1 << 20, 1 << 25  # bytes asked of the system at once: a quarter of what there is, from this to that
READY = 1 << 24  # bytes of blocks that wait as they are for the next of their size, where the limit is not small


class _Segment:
    """Memory from the system, and what of it is free: places (start, end), in order and apart from each other."""

    def __init__(self, size: int) -> None:
        raw = np.empty(size + ALIGN, np.uint8)
        start = -raw.ctypes.data % ALIGN
        self.memory, self.size = raw[start : start + size], size
        self.holes = [(0, size)]

    def cut(self, hole: tuple[int, int], size: int) -> _Block:
        """The beginning of a hole."""
        start, end = hole
        i = self.holes.index(hole)
        self.holes[i : i + 1] = [(start + size, end)] if start + size < end else []
        return _Block(self.memory[start : start + size], self, start)

    def joined(self) -> None:
        """Neighbours among the holes become one."""
        holes: list[tuple[int, int]] = []
        for start, end in sorted(self.holes):
            if holes and holes[-1][1] == start:
                start = holes.pop()[0]
            holes.append((start, end))
        self.holes = holes


class _Block(NamedTuple):
    memory: np.ndarray
    segment: _Segment
    start: int


class _Lease(np.ndarray):
    """A block that goes back to its pool when nobody holds it any more."""

    pool: HostPool | None = None
    block: _Block

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool._give_back(self.block)


class HostPool:
    """Hands out arrays whose memory comes back by itself once nobody holds them or a view of them.

    An array that is still held, by a layer's saved values or by a user, is therefore never handed out again. What came
    back waits for the next of its size; beyond `READY` bytes, and where nothing has the size that is asked for,
    neighbours are joined and cut anew, so that a training step holds little more than what it needs at once. Segments
    in which nothing is held go back to the system while more than `limit` bytes are idle.
    """

    def __init__(self, limit: int = 1 << 28) -> None:
        self.limit = limit
        self._segments: list[_Segment] = []
        self._ready: dict[int, list[_Block]] = {}
        self._ready_bytes = self._idle_bytes = 0
        # Arrays die in the middle of anything, also of what is done here, where Python collects garbage or a signal's
        # handler runs: then they are only put into this list, which needs no lock.
        self._returned: list[_Block] = []
        self._lock = threading.RLock()
        self._busy = False  # whether this thread, which has the lock, is at work here
        os.register_at_fork(after_in_child=self._after_fork)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised C-contiguous array, aligned to 64 bytes."""
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < SMALL:
            return np.empty(shape, dtype)
        block = self._block(-(-nbytes // PAGE) * PAGE)
        if block is None:
            return np.empty(shape, dtype)
        # The result and all views of it keep the lease alive; when the last dies, so does it, and the block returns.
        # The memoryview is needed: a view's base is the owner of its memory, found by looking through arrays alone.
        lease = block.memory.view(_Lease)
        lease.pool, lease.block = self, block
        return np.frombuffer(memoryview(cast(Any, lease)), dtype, count=math.prod(shape)).reshape(shape)

    def _block(self, size: int) -> _Block | None:
        """One that waits, or a new one; None to a handler that interrupted this very work."""
        with self._lock:
            if self._busy:
                return None
            try:
                self._busy = True
                self._take_back()
                ready = self._ready.get(size)
                if not ready:
                    return self._cut(size)
                self._ready_bytes -= size
                self._idle_bytes -= size
                return ready.pop()
            finally:
                self._busy = False

    def _give_back(self, block: _Block) -> None:
        self._returned.append(block)
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                self._take_back()
                if self._ready_bytes > min(READY, self.limit // 16):
                    self._join()
                    self._release(self.limit)
            finally:
                self._busy = False

    def _take_back(self) -> None:
        """What came back waits for the next of its size."""
        while self._returned:
            block = self._returned.pop()
            size = block.memory.nbytes
            self._ready.setdefault(size, []).append(block)
            self._ready_bytes += size
            self._idle_bytes += size

    def _cut(self, size: int) -> _Block:
        """Out of the smallest hole that is large enough, or of a new segment."""
        found = self._smallest(size)
        if found is None:
            self._join()
            found = self._smallest(size)
        if found is None:
            segment = self._grown(size)
            found = segment, segment.holes[0]
        segment, hole = found
        self._idle_bytes -= size
        return segment.cut(hole, size)

    def _smallest(self, size: int) -> tuple[_Segment, tuple[int, int]] | None:
        fitting = [(end - start, i, start) for i, s in enumerate(self._segments) for start, end in s.holes]
        fitting = [hole for hole in fitting if hole[0] >= size]
        if not fitting:
            return None
        length, i, start = min(fitting)
        return self._segments[i], (start, start + length)

    def _grown(self, size: int) -> _Segment:
        """A new segment; where memory is short, what is idle goes back first, and no more is asked for than `size`."""
        least, most = SEGMENT
        there = sum(segment.size for segment in self._segments)
        try:
            segment = _Segment(max(size, min(max(least, there // 4), most, self.limit)))
        except MemoryError:
            self._release(0)
            segment = _Segment(size)
        self._segments.append(segment)
        self._idle_bytes += segment.size
        return segment

    def _join(self) -> None:
        """What waits becomes holes, and neighbours one."""
        for size, blocks in self._ready.items():
            while blocks:
                _, segment, start = blocks.pop()
                segment.holes.append((start, start + size))
        self._ready, self._ready_bytes = {}, 0
        for segment in self._segments:
            segment.joined()
        # Counted anew: a Ctrl-C may have come between two lines.
        self._idle_bytes = sum(end - start for segment in self._segments for start, end in segment.holes)

    def _release(self, limit: int) -> None:
        """Segments in which nothing is held go back to the system while more is idle, the largest first."""
        for segment in sorted(self._segments, key=lambda segment: -segment.size):
            if self._idle_bytes > limit and segment.holes == [(0, segment.size)]:
                self._segments.remove(segment)
                self._idle_bytes -= segment.size

    def _after_fork(self) -> None:
        self._lock, self._busy = threading.RLock(), False
