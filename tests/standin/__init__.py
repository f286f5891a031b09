"""A strict `cupy` without a device: CuPy's refusals, our CUDA kernels run on the CPU, a cuBLAS, and graph capture.

from tests.standin import install, recording, record

backend = install()                 # a CupyBackend on it, the same one in the whole process
with recording():                   # refuses what a CUDA graph cannot record
    model.train_step(x, t)
launch, _ = record(backend, step)   # warm-up, capture; launch() replays on the same addresses
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

from tests.cuda_shim import MISSING
from tests.standin import cudnn, module
from tests.standin.device import Stream, state
from xconv import backend as backends
from xconv.backend import Backend
from xconv.errors import BackendError

__all__ = [
    "MISSING",
    "fresh_backend",
    "install",
    "install_with_cudnn",
    "modules",
    "real",
    "real_or_reason",
    "record",
    "recording",
    "state",
]


@contextmanager
def modules(cupy: ModuleType | None, pathfinder: ModuleType | None, cudnn: ModuleType | None = None) -> Iterator[None]:
    """`import cupy`, `cuda.pathfinder` and `cudnn` give these; None makes the import fail as if not installed."""
    root = ModuleType("cuda")
    root.pathfinder = pathfinder  # type: ignore[attr-defined]
    names = {"cupy": cupy, "cuda": root, "cuda.pathfinder": pathfinder, "cudnn": cudnn}
    with patch.dict(sys.modules, names):
        yield


def fresh_backend(with_cudnn: bool = False) -> Backend:
    """A new CupyBackend on a new stand-in."""
    from xconv.backend.cupy_backend import CupyBackend

    with modules(module.build(), module.pathfinder(), cudnn.build() if with_cudnn else None):
        backend = CupyBackend()
        backends.prove(backend)
    return backend


@cache
def install() -> Backend:
    """The CupyBackend on the stand-in; "cupy" means this one from now on, unless a real device is usable."""
    backend = fresh_backend()
    if real() is None:
        backends._made["cupy"] = backend
    return backend


@cache
def install_with_cudnn() -> Backend:
    """Another CupyBackend, which finds a cuDNN; no name leads to it."""
    return fresh_backend(with_cudnn=True)


@cache
def real() -> Backend | None:
    """The CupyBackend on a real device, where there is one."""
    found = real_or_reason()
    return None if isinstance(found, str) else found


@cache
def real_or_reason() -> Backend | str:
    """The CupyBackend on a real device, or why there is none."""
    from xconv.backend.cupy_backend import CupyBackend

    try:
        backend = CupyBackend()
        backends.prove(backend)
    except BackendError as error:
        return str(error)
    return backend


@contextmanager
def recording(stream: Stream | None = None) -> Iterator[None]:
    """What runs inside is captured, and what CUDA cannot capture is refused."""
    stream = stream or Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            yield
        finally:
            stream.end_capture()


def record(backend: Backend, step: Callable[[], Any], warm_up: int = 3) -> tuple[Any, Any]:
    """(launch, what the step gave), by CuPy's own calls: on the stand-in and on a device alike.

    A stream and a pool of the step's own, steps to warm up, capture. launch() replays the step and waits for it.
    """
    cuda = backend.xp.cuda
    pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
    backend.synchronize()
    gc.collect()
    gc.disable()  # a collection could free memory in the middle of a capture
    try:
        with cuda.using_allocator(pool.malloc), stream:
            for _ in range(warm_up):
                step()
            stream.synchronize()
            stream.begin_capture()
            try:
                result = step()
            finally:
                graph = stream.end_capture()
    finally:
        gc.enable()

    def launch(keep: Any = (pool, result)) -> None:  # the graph reads and writes this memory
        backend.synchronize()  # what the host changed meanwhile, on another stream
        graph.launch(stream)
        stream.synchronize()

    return launch, result
