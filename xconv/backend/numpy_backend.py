"""The NumPy backend: the plain definitions of `base`, with the results' memory drawn from a pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from xconv.backend.base import Array, Backend
from xconv.backend.hostpool import HostPool

BLOCK = 1 << 15  # entries: what an optimizer's formula makes on its way then stays in cache, and takes no memory


def _by_blocks(formula: Callable[..., None]) -> Callable[..., None]:
    """An optimizer's formula over one block of the flat buffer after another: to the same bits, entry by entry."""

    @wraps(formula)
    def by_blocks(self: Backend, p: Array, *args: Any, **settings: Any) -> None:
        if p.ndim != 1:
            return formula(self, p, *args, **settings)
        for first in range(0, p.size, BLOCK):
            part = slice(first, first + BLOCK)
            lines = [a[part] if getattr(a, "shape", None) == p.shape and p.size > BLOCK else a for a in args]
            formula(self, p[part], *lines, **settings)
        return None

    return by_blocks


class NumpyBackend(Backend):
    """The readable truth, on the CPU."""

    name = "numpy"

    def __init__(self) -> None:
        super().__init__()
        self.pool = HostPool()
        self.blas = ThreadpoolController().select(user_api="blas")

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory reused from results that nobody holds any more; its content is undefined."""
        return self.pool.empty(shape, dtype)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """See Backend.matmul. A column times a row NumPy does not give to BLAS; by broadcasting it takes a third."""
        if a.shape[1] != 1:
            return super().matmul(a, b, out)
        return np.multiply(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out)

    def running(self) -> AbstractContextManager[Any]:
        """No warnings of NumPy's for overflow and NaN: training reports a loss that is not finite by itself."""
        return np.errstate(all="ignore")

    def describe(self) -> dict[str, Any]:
        """Device, versions, threads and the BLAS kernels in use."""
        libraries = self.blas.info()
        return {
            **super().describe(),
            "device": cpu_name(),
            "version": f"numpy {np.__version__}",
            "threads": max((library["num_threads"] for library in libraries), default=1),
            "blas": "; ".join(
                f"{b['internal_api']} {b['version']} {b.get('architecture', '')}".strip() for b in libraries
            )
            or "unknown",
        }

    sgd = _by_blocks(Backend.sgd)
    momentum = _by_blocks(Backend.momentum)
    adagrad = _by_blocks(Backend.adagrad)
    rmsprop = _by_blocks(Backend.rmsprop)
    adam = _by_blocks(Backend.adam)


def cpu_name() -> str:
    """The processor's own name where the system tells it."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
