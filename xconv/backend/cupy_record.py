"""Recording on CUDA: a function is captured on a stream of its own as a CUDA graph, which one launch replays."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from xconv.backend.recording import NotRecorded, Recorder, Recording

WARM_UPS = 3  # calls before the capture: they load kernels, make handles, and fill the pool

# One capture at a time. While it lasts a thread may not wait for the whole device, which CUDA refuses and which spoils
# the capture: `CupyArrays.synchronize` takes this lock, too. Everything else other threads do is allowed in the relaxed
# mode, CuPy's default.
capturing = threading.RLock()


class CupyRecorder(Recorder):
    """A stream for the recordings of one model. Streams are used again: cuBLAS keeps a handle and 32 MiB for each."""

    def __init__(self, cupy: Any, idle: list[Any]) -> None:
        self.cupy = cupy
        try:
            self.stream = idle.pop()
        except IndexError:
            # Not blocking: a capture on a stream that waits for the default stream would forbid its use to all threads.
            self.stream = cupy.cuda.Stream(non_blocking=True)
        weakref.finalize(self, idle.append, self.stream)

    def recording(self) -> CupyRecording:
        # What steps so far took and gave back is not needed twice, and idle memory of one stream is not another's.
        self.cupy.get_default_memory_pool().free_all_blocks()
        return CupyRecording(self)


class CupyRecording(Recording):
    """A graph, and the pool whose memory it writes. Nothing else takes memory from that pool once it is captured.

    The pool is filled from CuPy's own, whose limit then holds for both. Where memory is short only that one frees what
    is idle: idle memory of this one is what a replay will write.

    The caller's stream waits for the graph, and the graph for what the caller asked for before: on the device all is in
    the order of the calls. The host waits for nothing.
    """

    def __init__(self, recorder: CupyRecorder) -> None:
        cuda = recorder.cupy.cuda
        self._recorder, self._cuda = recorder, cuda
        self._device, self._pool = cuda.Device(), cuda.MemoryPool(recorder.cupy.get_default_memory_pool().malloc)
        self._asked, self._done = (cuda.Event(disable_timing=True) for _ in range(2))
        self._graph: Any = None
        self._left = WARM_UPS

    @property
    def warm(self) -> bool:
        return not self._left

    def __call__(self, function: Callable[[], Any]) -> None:
        caller, stream = self._cuda.get_current_stream(), self._recorder.stream
        if self._graph is None and self.warm:
            self._capture(function)
        self._asked.record(caller)
        stream.wait_event(self._asked)
        try:
            if self._graph is not None:
                self._graph.launch(stream)
            else:
                self._left -= 1
                with self._own_memory():
                    self.result = function()
        finally:
            self._done.record(stream)
            caller.wait_event(self._done)

    @contextmanager
    def _own_memory(self) -> Iterator[None]:
        with self._cuda.using_allocator(self._pool.malloc), self._recorder.stream:
            yield

    def _capture(self, function: Callable[[], Any]) -> None:
        """Sets graph and result; NotRecorded where CUDA, CuPy or the function refuses. Nothing runs on the device."""
        why = ""
        with capturing:
            collects = gc.isenabled()
            gc.collect()
            gc.disable()  # a collection in the middle could wait for the device, to free memory or streams
            try:
                graph, result = self._captured(function)
                graph.upload(self._recorder.stream)
                self._graph, self.result, self.recorded = graph, result, True
            except Exception as error:  # the calls before ran, so what it is that fails now is the capture
                why = f"{type(error).__name__}: {error}"
            finally:
                if collects:
                    gc.enable()
        if why:  # out of the except, or the error would hold on to the arrays of the step
            self.close()
            raise NotRecorded(why)

    def _captured(self, function: Callable[[], Any]) -> tuple[Any, Any]:
        stream = self._recorder.stream
        with self._own_memory():
            stream.begin_capture()
            try:
                result = function()
            except BaseException:
                with suppress(Exception):  # says that the capture is spoilt, which is known
                    stream.end_capture()
                raise
            return stream.end_capture(), result

    def close(self) -> None:
        """Give the memory back. A pool that is merely dropped would keep what it has."""
        self._graph = self.result = None
        with self._device:
            self._recorder.stream.synchronize()
            self._pool.free_all_blocks()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            with suppress(Exception):  # the device failed: there is nothing to give back to it, and nobody to tell
                self.close()
