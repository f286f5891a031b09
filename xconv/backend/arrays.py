"""Where a backend's arrays live: making them, moving them, waiting for them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from xconv.backend.saved import Array


class Arrays:
    """The part of Backend that the definitions of operations stand on. `xp` is the array module."""

    name = "base"
    xp: Any = np
    array_type: type = np.ndarray

    def asarray(self, a: Any, dtype: Any = None) -> Array:
        """`a` as this backend's C-contiguous array, in native byte order."""
        a = np.asarray(a)
        return np.asarray(a, dtype=np.dtype(dtype or a.dtype).newbyteorder("="), order="C")  # a scalar keeps rank 0

    def to_numpy(self, a: Array) -> np.ndarray:
        """`a` on the host."""
        return np.asarray(a)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory for a result: its content is undefined."""
        return self.xp.empty(shape, dtype)

    def contiguous(self, view: Array) -> Array:
        """The array itself where it is C-contiguous, else a copy that is."""
        if view.flags.c_contiguous:
            return view
        out = self.empty(view.shape, view.dtype)
        out[...] = view
        return out

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""

    def running(self) -> AbstractContextManager[Any]:
        """Entered around each step and prediction, for settings that must hold while kernels run."""
        return nullcontext()

    def describe(self) -> dict[str, Any]:
        """Device, versions and settings, for reports."""
        return {"backend": self.name}
