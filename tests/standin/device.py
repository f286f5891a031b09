"""The stand-in's device: memory in a pool, streams, and the recording of what runs on them.

Everything that "runs on the device" is a function without arguments over fixed memory. A capture keeps those
functions; launching the graph calls them again, in order, on the same addresses, as a CUDA graph does.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class Memory:
    """A block of a pool; it goes back when the last array on it is gone. Fresh content is NaN bytes."""

    live: ClassVar[WeakSet[Memory]] = WeakSet()

    def __init__(self, pool: MemoryPool, block: np.ndarray) -> None:
        self.pool, self.block = pool, block
        self.ptr = block.ctypes.data
        self.device = state.current_device()
        block.fill(0xFF)
        Memory.live.add(self)

    def __del__(self) -> None:
        self.pool.give_back(self.block)


class MemoryPool:
    """As cupy.cuda.MemoryPool. A capture may only take blocks that the steps before it have left free."""

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._total = self._used = 0
        self._limit = 0

    def malloc(self, size: int) -> Memory:
        rounded = max(512, -(-size // 512) * 512)
        try:
            block = self._free[rounded].pop()
        except IndexError:
            if state.capture is not None:
                raise CUDARuntimeError(901, f"the memory pool grows by {rounded} bytes during capture") from None
            if self._limit and self._total + rounded > self._limit:
                raise OutOfMemoryError(f"Out of memory allocating {rounded} bytes (limit {self._limit})") from None
            raw = np.empty(rounded + 512, np.uint8)
            start = -raw.ctypes.data % 512
            block = raw[start : start + rounded]
            self._total += rounded
        self._used += rounded
        return Memory(self, block)

    def give_back(self, block: np.ndarray) -> None:
        self._used -= block.size
        self._free[block.size].append(block)

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_all_blocks(self, stream: Any = None) -> None:
        self._total = self._used
        self._free.clear()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size or 0


class Stream:
    """As cupy.cuda.Stream. Work runs at once, in the order of its calls, whatever the stream."""

    _numbers = itertools.count(0x1000)
    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(self._numbers)
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        self._before.append(state.stream)
        state.stream = self
        return self

    def __exit__(self, *_: Any) -> None:
        state.stream = self._before.pop()

    def use(self) -> Stream:
        state.stream = self
        return self

    def synchronize(self) -> None:
        refuse_in_capture("stream synchronize")

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if state.capture is not None:
            raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported: a capture is under way")
        state.capture, state.capture_stream = [], self

    def end_capture(self) -> Graph:
        if state.capture is None or state.capture_stream is not self:
            raise CUDARuntimeError(1, "this stream is not capturing")
        graph, problems = Graph(state.capture), state.blas_problems
        state.capture, state.blas_problems = None, []
        if problems:
            raise CUDARuntimeError(901, problems[0])
        return graph

    def is_capturing(self) -> bool:
        return state.capture is not None and state.capture_stream is self


Stream.null = Stream(null=True)


class Graph:
    """As cupy.cuda.Graph: launch() runs again what was captured."""

    def __init__(self, work: list[Callable[[], Any]]) -> None:
        self.work = work

    def launch(self, stream: Stream | None = None) -> None:
        for again in self.work:
            again()


class State:
    """What the device is doing, and how often the host met it."""

    def __init__(self) -> None:
        self.capture: list[Callable[[], Any]] | None = None
        self.capture_stream: Stream | None = None
        self.stream = Stream.null
        self.default_pool = MemoryPool()
        self.allocator: Callable[[int], Memory] = self.default_pool.malloc
        self.module: Any = None  # the stand-in cupy
        self.keep: Any = None  # what C code calls back must not be collected
        self.blas_problems: list[str] = []
        self.transfers = 0
        self.devices = 1  # how many there are
        self._local = threading.local()

    def device_stack(self) -> list[int]:
        """This thread's devices, the current one last."""
        if not hasattr(self._local, "stack"):
            self._local.stack = [0]
        return self._local.stack

    def current_device(self) -> int:
        return self.device_stack()[-1]


state = State()


def refuse_in_capture(what: str) -> None:
    """The error that CUDA gives for a thing that cannot be recorded."""
    if state.capture is not None:
        raise CUDARuntimeError(
            900, f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing: {what}"
        )


def transfer(what: str) -> None:
    """Count a transfer between host and device; refuse it in a capture."""
    refuse_in_capture(what)
    state.transfers += 1


def run(work: Callable[[], Any], *, again: Callable[[], Any] | None = None) -> None:
    """Run `work` on the device; a capture runs nothing and keeps `again` (or `work`) for replay."""
    if state.capture is None:
        work()
    else:
        if state.stream is not state.capture_stream:
            raise CUDARuntimeError(906, "work on another stream than the one that is captured")
        state.capture.append(again or work)


@contextmanager
def using_allocator(allocator: Callable[[int], Memory] | None = None) -> Iterator[None]:
    """As cupy.cuda.using_allocator."""
    before = state.allocator
    state.allocator = allocator or state.default_pool.malloc
    try:
        yield
    finally:
        state.allocator = before


def host_array(memory: Memory, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The memory seen as an array of the host."""
    count = int(np.prod(shape, dtype=np.int64))
    return memory.block[: count * dtype.itemsize].view(dtype)[:count].reshape(shape)
