"""Arrays on the device: their way there and back, and what the CuPy backend's operations ask of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv.backend.base import Array, Backend
from xconv.backend.cublas import Cublas
from xconv.backend.cuda import dotted, usable_cupy
from xconv.backend.cuda_kernels import SUFFIX, Kernels
from xconv.errors import BackendError, DTypeError, described


class CupyArrays(Backend):
    """The part of CupyBackend that its operations stand on."""

    name = "cupy"

    def __init__(self) -> None:
        super().__init__()
        self.xp = usable_cupy()
        self.array_type = self.xp.ndarray
        self._cublas = Cublas(self.xp)
        self._kernels = Kernels(self.xp)

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
        self.xp.cuda.Device().synchronize()

    def describe(self) -> dict[str, Any]:
        """Device, its memory and compute capability, versions of CuPy, CUDA, driver and cuBLAS."""
        runtime = self.xp.cuda.runtime
        device = self.xp.cuda.get_device_id()
        about = runtime.getDeviceProperties(device)
        return {
            **super().describe(),
            "device": about["name"].decode(),
            "version": f"cupy {self.xp.__version__}",
            "memory": about["totalGlobalMem"],
            "compute_capability": f"{about['major']}.{about['minor']}",
            "cuda": dotted(runtime.runtimeGetVersion()),
            "driver": dotted(runtime.driverGetVersion()),
            "cublas": self._cublas.version(),
            "precision": "float32 without TF32",
        }

    # ------------------------------------------------------------------ what operations ask of their arguments

    def _mine(self, operation: str, *arrays: Array) -> None:
        """BackendError where an array is not on the device: host data comes in through asarray alone."""
        for array in arrays:
            if not isinstance(array, self.array_type):
                kind = f"{type(array).__module__}.{type(array).__qualname__}"
                raise BackendError(
                    f"{operation}: expected arrays of backend 'cupy' (convert with backend.asarray). "
                    f"Received: {kind}, {described(array)}"
                )

    def _suffix(self, operation: str, *arrays: Array) -> str:
        """The kernels' suffix for these arrays, which must be ours and all float32 or all float64."""
        self._mine(operation, *arrays)
        kinds = {array.dtype.name for array in arrays}
        if len(kinds) != 1 or not kinds <= SUFFIX.keys():
            got = ", ".join(str(array.dtype) for array in arrays)
            raise DTypeError(f"{operation}: expected arrays all of float32 or all of float64. Received: {got}")
        return SUFFIX[kinds.pop()]

    def _flat(self, array: Array) -> Array:
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)
