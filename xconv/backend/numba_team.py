"""What the Numba backend's operations stand on: a team of threads, and the ways to share work out to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numba
import numpy as np

from xconv.backend.base import Array
from xconv.backend.numpy_backend import NumpyBackend
from xconv.backend.threads import OneBlasThread, Team, default_threads

LINE = 64  # bytes of a cache line
EXAMPLES = 128  # of a prediction for each thread: what one layer leaves is then in a cache for the next
PRODUCTS = 128  # multiplications by a convolution's kernels that take as long as one entry of `Team.ranges`


class _Running:
    """Two contexts in one; by hand, since every step enters it several times."""

    def __init__(self, quiet: AbstractContextManager[Any], one_thread: OneBlasThread) -> None:
        self._quiet, self._one_thread = quiet, one_thread

    def __enter__(self) -> None:
        self._quiet.__enter__()
        self._one_thread.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._one_thread.__exit__()
        self._quiet.__exit__(*error)


class NumbaTeam(NumpyBackend):
    """The part of NumbaBackend that knows of threads."""

    name = "numba"

    def __init__(self) -> None:
        super().__init__()
        self.team = Team(default_threads())
        self._one_blas_thread = OneBlasThread()

    @property
    def together(self) -> int:  # type: ignore[override]
        return EXAMPLES * max(2, self.team.threads)

    def running(self) -> AbstractContextManager[Any]:
        """BLAS with one thread, because ours run side by side, and none of NumPy's warnings."""
        return _Running(super().running(), self._one_blas_thread)

    def describe(self) -> dict[str, Any]:
        """Device, versions, threads and the BLAS kernels in use."""
        return {
            **super().describe(),
            "version": f"numba {numba.__version__}, numpy {np.__version__}",
            "threads": self.team.threads,
        }

    def asarray(self, a: Any, dtype: Any = None) -> Array:
        """As NumPy's, and writable: for read-only arrays every kernel would be compiled once more."""
        a = super().asarray(a, dtype)
        return a if a.flags.writeable else a.copy()

    def _over(
        self, n: int, work: float, function: Callable[..., Any], *arguments: Any, most: int | None = None
    ) -> list[Any]:
        """function(*arguments, first, last) over 0..n, shared out to `most` threads at most."""
        if n == 1:
            return [function(*arguments, 0, 1)]
        return self.team.each(function, [(*arguments, *part) for part in self.team.ranges(n, work, most)])

    def _sliced(self, function: Callable[..., Any], *lines: Array, then: tuple[Any, ...] = ()) -> None:
        """function(*lines, *then) with the arrays of one axis cut into a slice a thread, where cache lines begin."""
        size, entries = lines[0].size, LINE // lines[0].itemsize
        parts = self.team.ranges(-(-size // entries), size)
        if len(parts) == 1:
            function(*lines, *then)
            return
        self.team.each(function, [(*(line[i * entries : j * entries] for line in lines), *then) for i, j in parts])

    @staticmethod
    def _summed(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        """dw and db of all threads together."""
        (dw, db), *others = parts
        for more_dw, more_db in others:
            dw += more_dw
            db += more_db
        return dw, db
