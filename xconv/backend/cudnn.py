"""cuDNN through NVIDIA's `nvidia-cudnn-frontend`: plans kept by what they are for, run on CuPy's current stream."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from xconv.backend.base import Array
from xconv.backend.cudnn_plans import Conv, Plan, build
from xconv.errors import BackendError

OLDEST = (1, 18)  # of the frontend
_PER_THREAD = 2  # cudaStreamPerThread: one name for a stream in each thread


def find(cupy: Any) -> tuple[Cudnn | None, str]:
    """(cuDNN, its version), or (None, why there is none and the line that mends it)."""
    install = f'pip install "xconv[cudnn{cupy.cuda.runtime.runtimeGetVersion() // 1000}]"'
    try:
        import cudnn
    except ModuleNotFoundError as error:
        what = "not installed" if error.name == "cudnn" else f"not usable: its frontend needs {error.name}"
        return None, f"{what}: {install}"
    except (ImportError, OSError) as error:
        return None, f"not usable ({_line(error)}): {install}"
    frontend = tuple(int(part) for part in cudnn.__version__.split(".")[:2])
    if frontend < OLDEST:
        return None, f"not usable, nvidia-cudnn-frontend {cudnn.__version__} being too old: {install}"
    try:
        found = Cudnn(cupy, cudnn)
        return found, f"{cudnn.backend_version_string()} (frontend {cudnn.__version__})"
    except Exception as error:  # whatever the frontend raises for a library that is missing, broken or too old
        return None, f"not usable ({_line(error)}): {install}"


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Cudnn:
    """Plans and handles of one device. A handle serves one stream, and one call at a time."""

    def __init__(self, cupy: Any, cudnn: Any) -> None:
        self._cupy, self._cudnn = cupy, cudnn
        self._plans: dict[tuple[Any, ...], Plan | None] = {}
        self._building = threading.RLock()
        self._idle: dict[tuple[int, ...], list[Any]] = defaultdict(list)
        key, handle = self._handle()  # proves that the library is there
        self._idle[key].append(handle)

    def plan(self, operation: str, conv: Conv, limit: int) -> Plan | None:
        """The plan for "fprop", "dgrad" or "wgrad", built once; None where cuDNN has none in `limit` bytes."""
        key = operation, conv, limit
        if key not in self._plans:
            with self._building:
                if key not in self._plans:
                    self._plans[key] = self._build(operation, conv, limit)
        return self._plans[key]

    def _build(self, operation: str, conv: Conv, limit: int) -> Plan | None:
        key, handle = self._handle()
        try:
            return build(self._cudnn, operation, conv, limit, handle=handle)
        except Exception as error:
            raise BackendError(f"cuDNN failed to plan {operation} of {conv}: {_line(error)}") from error
        finally:
            self._idle[key].append(handle)

    def run(self, plan: Plan, arrays: dict[int, Array], workspace: Array) -> None:
        """Run it on CuPy's current stream; arrays by what they are (cudnn_plans.X, W, Y, B)."""
        key, handle = self._handle()
        pointers = {uid: int(array.data.ptr) for uid, array in arrays.items()}
        try:
            plan.graph.execute(pointers, int(workspace.data.ptr), handle=handle)
        except Exception as error:
            raise BackendError(f"cuDNN failed: {_line(error)}") from error
        finally:
            self._idle[key].append(handle)

    def _handle(self) -> tuple[tuple[int, ...], Any]:
        """A handle that nobody else uses now, on the current stream, and where it goes back to."""
        stream = int(self._cupy.cuda.get_current_stream().ptr)
        thread = threading.get_ident() if stream == _PER_THREAD else 0
        key = int(self._cupy.cuda.get_device_id()), stream, thread
        try:
            return key, self._idle[key].pop()
        except IndexError:
            handle = self._cudnn.create_handle()
            self._cudnn.set_stream(handle=handle, stream=stream)
            return key, handle
