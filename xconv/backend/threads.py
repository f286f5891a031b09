"""A team of threads for kernels that release the GIL, and a guard that keeps BLAS from competing with it."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from xconv.errors import ConfigError


def default_threads() -> int:
    """$XCONV_NUM_THREADS, but no more than the processors this process may use; as many as those where it is not set.

    ConfigError where it is no such number, RuntimeWarning where it is too large: threads that share a processor wait
    for one another. A `Team` takes any number.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = asked_threads()
    if asked is not None and asked > usable:
        warnings.warn(
            f"XCONV_NUM_THREADS is {asked}, more than the processors this process may use; {usable} is taken "
            "instead, since threads that share a processor slow each other down",
            RuntimeWarning,
            stacklevel=3,
        )
    return usable if asked is None else min(asked, usable)


def asked_threads() -> int | None:
    """$XCONV_NUM_THREADS, or None where it is not set."""
    asked = os.environ.get("XCONV_NUM_THREADS")
    if not asked:
        return None
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(
            f"XCONV_NUM_THREADS must be an integer >= 1, or unset to use every processor. Received: {asked!r}"
        )
    return int(asked)


class Team:
    """`threads` - 1 workers and the caller. Any number of callers may ask at once; each waits for its own parts.

    Plain threads that sleep between calls: unlike OpenMP's they do not spin against BLAS, and after a fork the child
    starts its own.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], list[Any], int, Any]] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0

    def _start(self) -> None:
        with self._lock:
            while self._started < self.threads - 1:
                threading.Thread(target=self._work, name=f"xconv-{self._started + 1}", daemon=True).start()
                self._started += 1

    def _work(self) -> None:
        with np.errstate(all="ignore"):  # of this thread; the callers' is set by Backend.running
            while True:
                self._do(*self._tasks.get())

    @staticmethod
    def _do(function: Callable[..., Any], arguments: tuple[Any, ...], results: list[Any], i: int, done: Any) -> None:
        error = None
        try:
            results[i] = function(*arguments)
        except BaseException as caught:
            error = caught
        done.put(error)

    def each(self, function: Callable[..., Any], parts: list[tuple[Any, ...]]) -> list[Any]:
        """[function(*part) for part in parts], side by side; the results are in the order of the parts."""
        results: list[Any] = [None] * len(parts)
        if len(parts) == 1:
            return [function(*parts[0])]
        if self._started < self.threads - 1:
            self._start()
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        for i, part in enumerate(parts[1:], 1):
            self._tasks.put((function, part, results, i, done))
        self._do(function, parts[0], results, 0, done)
        errors = [done.get() for _ in parts]
        for error in errors:
            if error is not None:
                raise error
        return results

    def ranges(self, n: int, work: float, most: int | None = None) -> list[tuple[int, int]]:
        """0..n cut evenly, a range a thread; one range where `work`, in entries, is too little to share.

        `most` is how many there may be at most.
        """
        parts = 1 if work < 2e4 else max(1, min(self.threads, n, self.threads if most is None else most))
        return [(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


class OneBlasThread:
    """While anyone is inside, BLAS uses one thread, because our own run side by side; then it gets back what it had."""

    def __init__(self) -> None:
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        # Newer threadpoolctl lets OpenBLAS be set only by the thread that set it first, and ignores others without a
        # word. Ours may enter and leave in any order, and are counted here; so we ask beneath that right.
        self._get = [_own(library, "get") or library.get_num_threads for library in libraries]
        self._set = [
            _own(library, "set") or getattr(library, "_real_set_num_threads", library.set_num_threads)
            for library in libraries
        ]
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[int] = []
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [get() for get in self._get]
                for set_threads in self._set:
                    set_threads(1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for set_threads, threads in zip(self._set, self._before, strict=True):
                    set_threads(threads)


def _own(library: Any, what: str) -> Callable[..., int] | None:
    """OpenBLAS's own function, which threadpoolctl would look for by its name at each call."""
    if library.internal_api != "openblas" or library.threading_layer == "openmp" or not hasattr(library, "_get_symbol"):
        return None
    function: Callable[..., int] | None = library._get_symbol(f"openblas_{what}_num_threads")
    return function
