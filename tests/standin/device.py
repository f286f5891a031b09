"""The stand-in's device: memory in a pool, streams, and the recording of what runs on them.

Everything that "runs on the device" is a function without arguments over fixed memory. A capture keeps those
functions; launching the graph calls them again, in order, on the same addresses, as a CUDA graph does.
"""

from __future__ import annotations

import itertools
import threading
import weakref
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

    def __init__(self, pool: MemoryPool, block: np.ndarray, source: Memory | None = None) -> None:
        self.pool, self.block, self.source = pool, block, source
        self.ptr = block.ctypes.data
        self.device = state.current_device()
        block.fill(0xFF)
        Memory.live.add(self)

    def __del__(self) -> None:
        self.pool.give_back(self.block, self.source)


_idle: list[Any] = []  # what pools have free, which they keep when they are dropped, as CuPy's do


class MemoryPool:
    """As cupy.cuda.MemoryPool. A capture may only take blocks that the steps before it have left free."""

    def __init__(self, allocator: Callable[[int], Memory] | None = None) -> None:
        self._allocator = allocator  # of another pool, where its memory comes from
        self._free: dict[int, list[tuple[np.ndarray, Memory | None]]] = defaultdict(list)
        _idle.append(self._free)
        self._total = self._used = 0
        self._limit = 0
        self.freed = 0  # how often idle memory was given back

    def malloc(self, size: int) -> Memory:
        rounded = max(512, -(-size // 512) * 512)
        try:
            block, source = self._free[rounded].pop()
        except IndexError:
            if state.capture is not None:
                raise CUDARuntimeError(901, f"the memory pool grows by {rounded} bytes during capture") from None
            if self._limit and self._total + rounded > self._limit:
                self.free_all_blocks()
            if self._limit and self._total + rounded > self._limit:
                raise OutOfMemoryError(f"Out of memory allocating {rounded} bytes (limit {self._limit})") from None
            source = None if self._allocator is None else self._allocator(rounded)
            raw = np.empty(rounded + 512, np.uint8) if source is None else source.block
            start = -raw.ctypes.data % 512
            block = raw[start : start + rounded]
            self._total += rounded
        self._used += rounded
        memory = Memory(self, block, source)
        if state.capture is not None:
            state.capture.took(memory)
        return memory

    def give_back(self, block: np.ndarray, source: Memory | None) -> None:
        self._used -= block.size
        self._free[block.size].append((block, source))

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_bytes(self) -> int:
        return self._total - self._used

    def get_limit(self) -> int:
        return self._limit

    def free_all_blocks(self, stream: Any = None) -> None:
        self._total = self._used
        self._free.clear()
        self.freed += 1

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = size or 0


class Event:
    """As cupy.cuda.Event: what a stream was given before it was recorded."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.seen: dict[int, int] = {}
        self.captured = False

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or state.stream
        self.seen, self.captured = stream._past(), stream.is_capturing()

    def synchronize(self) -> None:
        if self.captured:
            spoil("event synchronize")
        state.host_saw(self.seen)


class Stream:
    """As cupy.cuda.Stream. Work runs at once, in the order of its calls, whatever the stream.

    On a device it would not: `seen` has, for each stream, how much of its work was done before anything that this one
    will do, by events that it waits for and by the host's waiting. `ordered` asks that it be all.
    """

    _numbers = itertools.count(0x1000)
    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(self._numbers)
        self.non_blocking = non_blocking
        self.seen: dict[int, int] = {}
        self.capture: Capture | None = None

    def __enter__(self) -> Stream:
        state.stream_stack().append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        state.stream_stack().pop()

    def use(self) -> Stream:
        state.stream_stack()[-1] = self
        return self

    def _past(self) -> dict[int, int]:
        """What is done once all work that this stream was given is."""
        return {**self.seen, self.ptr: state.given[self.ptr]}

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.captured != self.is_capturing():
            spoil("waiting for an event of a stream that is captured, or in one for another's")
        merge(self.seen, event.seen)

    def synchronize(self) -> None:
        if self.capture is not None:
            spoil("stream synchronize")
        state.host_saw(self._past())

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.capture is not None or state.capture is not None:
            raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported: a capture is under way")
        self.capture = state.capture = Capture(self)
        state.captures.append(self.capture)

    def end_capture(self) -> Graph:
        capture, self.capture = self.capture, None
        if capture is None:
            raise CUDARuntimeError(1, "this stream is not capturing")
        state.captures.remove(capture)
        state.capture = None
        if capture.spoilt:
            raise CUDARuntimeError(901, f"cudaErrorStreamCaptureInvalidated: {capture.spoilt}")
        return Graph(capture)

    def is_capturing(self) -> bool:
        return self.capture is not None


Stream.null = Stream(null=True)


class Capture:
    """What is captured on one stream, and the memory that it needs."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.work: list[Callable[[], Any]] = []
        self.spoilt = ""
        self.pools: dict[weakref.ref[MemoryPool], int] = {}  # that it took memory from, and how often they had freed
        self.memory: set[weakref.ref[Memory]] = set()  # what it works with
        self.own: set[weakref.ref[Memory]] = set()  # what it took itself, which may go back

    def append(self, work: Callable[[], Any]) -> None:
        self.work.append(work)

    def took(self, memory: Memory) -> None:
        self.own.add(weakref.ref(memory))
        self.pools.setdefault(weakref.ref(memory.pool), memory.pool.freed)

    def touch(self, memory: Memory) -> None:
        self.memory.add(weakref.ref(memory))


class Graph:
    """As cupy.cuda.Graph: launch() runs again what was captured, if the memory is there still."""

    def __init__(self, capture: Capture) -> None:
        self.work, self._pools = capture.work, capture.pools
        self._needed = capture.memory - capture.own

    def upload(self, stream: Stream | None = None) -> None:
        refuse_in_capture("graph upload")

    def launch(self, stream: Stream | None = None) -> None:
        with stream or state.stream:
            refuse_in_capture("graph launch")
            for pool, freed in self._pools.items():
                found = pool()
                if found is None or found.freed != freed:
                    raise CUDARuntimeError(
                        700, "cudaErrorIllegalAddress: the pool of a captured graph gave memory back"
                    )
            if any(memory() is None for memory in self._needed):
                raise CUDARuntimeError(700, "cudaErrorIllegalAddress: an array that a captured graph uses is gone")
            issue()
            for again in self.work:
                again()


class State:
    """What the device is doing, and how often the host met it."""

    def __init__(self) -> None:
        self.captures: list[Capture] = []  # of all threads
        self.default_pool = MemoryPool()
        self.module: Any = None  # the stand-in cupy
        self.keep: Any = None  # what C code calls back must not be collected
        self.transfers = 0
        self.devices = 1  # how many there are
        self.given: dict[int, int] = defaultdict(int)  # work that each stream got
        self.ordered = False  # whether work that may run beside another stream's is refused
        self._host: dict[int, int] = {}  # of that, what the host has waited for
        self._local = threading.local()

    def stream_stack(self) -> list[Stream]:
        """This thread's streams, the current one last."""
        if not hasattr(self._local, "streams"):
            self._local.streams = [Stream.null]
        return self._local.streams

    @property
    def stream(self) -> Stream:
        """This thread's current stream."""
        return self.stream_stack()[-1]

    @property
    def allocator(self) -> Callable[[int], Memory]:
        """Where this thread takes memory from; None, the default, is the pool of all."""
        return getattr(self._local, "allocator", None) or self.default_pool.malloc

    @allocator.setter
    def allocator(self, allocator: Callable[[int], Memory] | None) -> None:
        self._local.allocator = None if allocator == self.default_pool.malloc else allocator

    @property
    def capture(self) -> Capture | None:
        """The capture that this thread began, or that its stream is in."""
        return self.stream.capture or getattr(self._local, "capture", None)

    @capture.setter
    def capture(self, capture: Capture | None) -> None:
        self._local.capture = capture

    def host_saw(self, seen: dict[int, int]) -> None:
        """The host waited for this, so all that it asks for later comes after it."""
        merge(self._host, seen)

    def past(self, stream: Stream) -> dict[int, int]:
        """What is done before work that `stream` is given now."""
        return merge(dict(self._host), stream._past())

    def device_stack(self) -> list[int]:
        """This thread's devices, the current one last."""
        if not hasattr(self._local, "stack"):
            self._local.stack = [0]
        return self._local.stack

    def current_device(self) -> int:
        return self.device_stack()[-1]


state = State()


def merge(seen: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    """`seen`, with the later of both for each stream."""
    seen.update({stream: max(count, seen.get(stream, 0)) for stream, count in other.items()})
    return seen


def refuse_in_capture(what: str) -> None:
    """CuPy's refusal, before CUDA hears of it, of what cannot be recorded."""
    if state.capture is not None:
        raise CUDARuntimeError(
            900, f"cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing: {what}"
        )


def spoil(what: str) -> None:
    """CUDA's own refusal, after which the capture cannot be ended well either."""
    for capture in state.captures:
        capture.spoilt = what
    raise CUDARuntimeError(900, f"cudaErrorStreamCaptureUnsupported: {what}")


def synchronize() -> None:
    """Wait for the whole device, which no thread may while any captures."""
    if state.captures:
        spoil("device synchronize")
    state.host_saw(dict(state.given))


def transfer(what: str) -> None:
    """Count a transfer between host and device; refuse it in a capture."""
    refuse_in_capture(what)
    issue()
    state.transfers += 1
    if what == "get":
        state.host_saw(state.stream._past())


def issue() -> None:
    """Something is given to the current stream to do."""
    stream = state.stream
    if stream.ptr == 0 and any(not capture.stream.non_blocking for capture in state.captures):
        spoil("work on the default stream, which a stream that is captured and not non-blocking waits for")
    past = state.past(stream)
    late = [hex(other) for other, count in state.given.items() if past.get(other, 0) < count]
    if state.ordered and late:
        raise AssertionError(f"work on stream {stream.ptr:#x} does not wait for that on {', '.join(late)}")
    state.given[stream.ptr] += 1


def run(work: Callable[[], Any], *, again: Callable[[], Any] | None = None) -> None:
    """Run `work` on the device; a capture runs nothing and keeps `again` (or `work`) for replay."""
    capture = state.capture
    if capture is None:
        issue()
        work()
    elif state.stream is not capture.stream:
        raise CUDARuntimeError(906, "work on another stream than the one that is captured")
    else:
        capture.append(again or work)


@contextmanager
def using_allocator(allocator: Callable[[int], Memory] | None = None) -> Iterator[None]:
    """As cupy.cuda.using_allocator."""
    before, state.allocator = state.allocator, allocator
    try:
        yield
    finally:
        state.allocator = before


def host_array(memory: Memory, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The memory seen as an array of the host."""
    count = int(np.prod(shape, dtype=np.int64))
    return memory.block[: count * dtype.itemsize].view(dtype)[:count].reshape(shape)
