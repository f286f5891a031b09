"""Where a backend's arrays live: making them, moving them, waiting for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from xconv.backend.recording import Recorder
from xconv.backend.saved import Array
from xconv.backend.workspace import DEFAULT, workspace_bytes
from xconv.errors import BackendError


class Arrays:
    """The part of Backend that the definitions of operations stand on. `xp` is the array module."""

    name = "base"
    xp: Any = np
    array_type: type = np.ndarray
    workspace: int = DEFAULT  # the most bytes of scratch memory that an operation takes, one image being the least
    on_host = True  # whether arrays lie in this process's memory, where moving one there costs nothing

    def __init__(self) -> None:
        self.workspace = workspace_bytes()

    @property
    def address(self) -> str:
        """What get_backend takes to give this very backend: its name, with the number of its device where needed."""
        return self.name

    def owner_of(self, array: Any) -> str | None:
        """The address of the backend that an array belongs to; None where it is no array of this kind of backend."""
        return self.address if isinstance(array, self.array_type) else None

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

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory full of zeros."""
        a = self.empty(shape, dtype)
        a[...] = 0
        return a

    def contiguous(self, view: Array) -> Array:
        """The array itself where it is C-contiguous, else a copy that is."""
        if view.flags.c_contiguous:
            return view
        out = self.empty(view.shape, view.dtype)
        out[...] = view
        return out

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""

    def recorder(self) -> Recorder | None:
        """What records the training steps of one model, to replay them; None where they run as they come."""
        return None

    def free_bytes(self) -> int | None:
        """Memory of the device that can still be taken; None where arrays lie in the host's memory."""
        return None

    def release(self) -> None:
        """Give back memory that is kept for reuse and idle."""

    def stage(self, rows: Sequence[tuple[tuple[int, ...], np.dtype]]) -> Any:
        """Pinned memory for batches of these shapes and dtypes, and as much on the device: see cupy_stage.Stage."""
        raise BackendError(f"{self.name}: arrays lie in the host's memory already: there is nowhere to send a batch")

    def running(self) -> AbstractContextManager[Any]:
        """Entered around each step and prediction, for settings that must hold while kernels run."""
        return nullcontext()

    def when(self, going: Array, change: Callable[[], None], written: Sequence[Array] = ()) -> None:
        """change(), of which nothing stays where going[0], on the device, is 0.

        change() writes by those operations that work in place (an optimizer's, moving_statistics). What else it writes
        to is `written`: where the host cannot know what `going` says, that is put aside first, and put back.
        """
        if going[0]:
            change()

    def describe(self) -> dict[str, Any]:
        """Device, versions and settings, for reports."""
        return {"backend": self.name, "workspace": self.workspace}

    def notes(self) -> list[tuple[str, str | None]]:
        """What there is to know of this backend, such as what it does without, each with the line that mends it."""
        return []

    def _parts(self, n: int, image: int, once: int = 0) -> list[slice]:
        """A batch of n cut evenly, so that scratch of `image` bytes for each image fits the workspace.

        Where there are several parts they take `once` besides. One image is the least. A fixed rule on shapes.
        """
        return cut(n, n if n * image <= self.workspace else (self.workspace - once) // image)


def cut(n: int, most: int) -> list[slice]:
    """0..n in even parts of at most so many, though of one at least."""
    parts = -(-n // max(1, most)) or 1
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def most(parts: list[slice]) -> int:
    """Images of the largest part."""
    return max(part.stop - part.start for part in parts)
