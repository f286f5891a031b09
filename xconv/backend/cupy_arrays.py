"""Arrays on the device: their way there and back, and what the CuPy backend's operations ask of them."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from xconv.backend import gpu_memory
from xconv.backend.base import Array, Backend
from xconv.backend.cublas import Cublas
from xconv.backend.cuda import dotted, usable_cupy
from xconv.backend.cuda_kernels import SUFFIX, Kernels
from xconv.backend.cupy_record import CupyRecorder, capturing
from xconv.backend.cupy_stage import Stage
from xconv.errors import BackendError, DTypeError, described


class CupyArrays(Backend):
    """The part of CupyBackend that its operations stand on."""

    name = "cupy"
    on_host = False
    array_type: Any

    def __init__(self, device: int = 0) -> None:
        super().__init__()
        self.xp, self.devices = usable_cupy(device)
        self.device = device
        self._here = self.xp.cuda.Device(device)
        self.array_type = self.xp.ndarray
        with self._here:
            self.memory_limit = gpu_memory.set_limit(self.xp)
            self._cublas = Cublas(self.xp)
        self._kernels = Kernels(self.xp)
        self._streams: list[Any] = []  # of recorders that are gone, for the next ones
        self._now = threading.local()
        if self.devices > 1:
            self._keep_to_this_device()

    # ------------------------------------------------------------------ the device

    @property
    def address(self) -> str:
        return f"{self.name}:{self.device}" if self.device else self.name

    def owner_of(self, array: Any) -> str | None:
        if not isinstance(array, self.array_type):
            return None
        device = array.device.id
        return f"{self.name}:{device}" if device else self.name

    def running(self) -> AbstractContextManager[Any]:
        """This backend's device is the current one, for what is computed with arrays themselves, too."""
        return self._here

    def _keep_to_this_device(self) -> None:
        """Every public operation makes this device the current one while it runs, where there are several.

        A thread has one current device, the first unless it says otherwise: kernels, memory and handles come from it.
        """
        current = self.xp.cuda.runtime.getDevice

        def kept(operation: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(operation)
            def on_this_device(*args: Any, **kwargs: Any) -> Any:
                if current() == self.device:
                    return operation(*args, **kwargs)
                with self._here:
                    return operation(*args, **kwargs)

            return on_this_device

        for name, _ in inspect.getmembers(type(self), inspect.isfunction):
            if not name.startswith("_") and name not in ("running", "owner_of"):
                setattr(self, name, kept(getattr(self, name)))

    # ------------------------------------------------------------------ arrays and transfers

    def asarray(self, a: Any, dtype: Any = None) -> Array:
        """`a` on the device, C-contiguous, in native byte order: the one place where host data comes in."""
        self._kernels.check_process()
        if not hasattr(a, "__cuda_array_interface__"):
            a = super().asarray(a, dtype)
            if a.dtype.kind not in "biufc":
                raise DTypeError(f"asarray: expected numbers. Received: {described(a)}")
        there = self.xp.ascontiguousarray(self.xp.asarray(a), dtype)
        return there if there.shape == a.shape else there.reshape(a.shape)  # it makes rank 1 of a scalar

    def to_numpy(self, a: Array) -> np.ndarray:
        """`a` on the host, once the device has computed it."""
        return np.asarray(a) if isinstance(a, np.ndarray) else a.get()

    def synchronize(self) -> None:
        """Wait for everything on the device."""
        with capturing:
            self._here.synchronize()

    def recorder(self) -> CupyRecorder:
        """CUDA graphs."""
        return CupyRecorder(self.xp, self._streams)

    def free_bytes(self) -> int:
        with self._here:
            return gpu_memory.free_bytes(self.xp)

    def release(self) -> None:
        with self._here:
            self.xp.get_default_memory_pool().free_all_blocks()

    def stage(self, rows: Sequence[tuple[tuple[int, ...], np.dtype]]) -> Stage:
        return Stage(self.xp, rows)

    def when(self, going: Array, change: Callable[[], None], written: Sequence[Array] = ()) -> None:
        """Kernels that work in place read `going`, so that nothing waits for it; the rest is copied and put back."""
        before = [array.copy() for array in written]
        self._now.going = going
        try:
            change()
        finally:
            self._now.going = None
        if before:
            undone = (going == 0).reshape(())
            for array, kept in zip(written, before, strict=True):
                self.xp.copyto(array, kept, where=undone)

    @property
    def _going(self) -> Array | None:
        """What kernels that work in place are to read now, in this thread."""
        return getattr(self._now, "going", None)

    def describe(self) -> dict[str, Any]:
        """Device, its memory and compute capability, versions of CuPy, CUDA, driver and cuBLAS."""
        runtime = self.xp.cuda.runtime
        about = runtime.getDeviceProperties(self.device)
        return {
            **super().describe(),
            "device": about["name"].decode(),
            "address": self.address,
            "devices": self.devices,
            "version": f"cupy {self.xp.__version__}",
            "memory": about["totalGlobalMem"],
            "memory_limit": self.memory_limit,
            "compute_capability": f"{about['major']}.{about['minor']}",
            "cuda": dotted(runtime.runtimeGetVersion()),
            "driver": dotted(runtime.driverGetVersion()),
            "cublas": self._cublas.version(),
        }

    def notes(self) -> list[tuple[str, str | None]]:
        if self.devices == 1:
            return []
        return [(f"GPU {self.device} of {self.devices}: 'cupy:0' to 'cupy:{self.devices - 1}'", None)]

    # ------------------------------------------------------------------ what operations ask of their arguments

    def _mine(self, operation: str, *arrays: Array) -> None:
        """BackendError where an array is not on this device: host data comes in through asarray alone."""
        for array in arrays:
            if not isinstance(array, self.array_type):
                kind = f"{type(array).__module__}.{type(array).__qualname__}"
                raise BackendError(
                    f"{operation}: expected arrays of backend {self.address!r} (convert with backend.asarray). "
                    f"Received: {kind}, {described(array)}"
                )
            if self.devices > 1 and array.device.id != self.device:
                raise BackendError(
                    f"{operation}: expected arrays of backend {self.address!r}, on GPU {self.device} (move with "
                    f"backend.asarray). Received: {described(array)} of backend {self.owner_of(array)!r}"
                )

    def _suffix(self, operation: str, *arrays: Array) -> str:
        """The kernels' suffix for these arrays, which must be ours and all float32 or all float64."""
        self._mine(operation, *arrays)
        kinds = {array.dtype.name for array in arrays}
        if len(kinds) != 1 or not kinds <= SUFFIX.keys():
            got = ", ".join(str(array.dtype) for array in arrays)
            raise DTypeError(f"{operation}: expected arrays all of float32 or all of float64. Received: {got}")
        return SUFFIX[kinds.pop()]

    def _in_place(self, operation: str, *arrays: Array) -> None:
        """BackendError where an array that is to be changed would be copied instead."""
        for array in arrays:
            if not array.flags.c_contiguous:
                raise BackendError(f"{operation}: an array updated in place must be C-contiguous. {described(array)}")

    def _flat(self, array: Array) -> Array:
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)
