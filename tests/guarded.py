"""Layers on Numba whose arrays end, or begin, at pages that may not be touched: a program of its own.

Compiled code does not check its indices, and what it reads beyond an array is mostly somebody else's and harmless. Here
the processor ends the program at once; the last line printed is what ran. `python -m tests.guarded end|start`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np

from tests.algorithms import Forced
from xconv.backend import Need, numba_direct, numba_rows, numba_winograd

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []


def guarded(shape: Any, dtype: Any, end: bool) -> np.ndarray:
    """An array of NaNs, or 255s, right before a forbidden page, or right behind one."""
    dtype, entries = np.dtype(dtype), int(np.prod(shape))
    size = -(-entries * dtype.itemsize // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    _kept.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (base, base + PAGE + size):
        if _libc.mprotect(ctypes.c_void_p(page), PAGE, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    at = PAGE + size - entries * dtype.itemsize if end else PAGE
    array = np.frombuffer(memory, dtype, entries, at).reshape(shape)
    array[...] = np.nan if dtype.kind == "f" else 255
    return array


class Numpy:
    """NumPy, but for where arrays lie."""

    def __init__(self, end: bool) -> None:
        self.end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = "f8") -> np.ndarray:
        return guarded(shape, dtype, self.end)

    def zeros(self, shape: Any, dtype: Any = "f8") -> np.ndarray:
        return self.copy(np.zeros(shape, dtype))

    def zeros_like(self, a: np.ndarray) -> np.ndarray:
        return self.copy(np.zeros_like(a))

    def copy(self, a: np.ndarray) -> np.ndarray:
        out = self.empty(a.shape, a.dtype)
        out[...] = a
        return out


def main(end: bool) -> None:
    """Shapes whose blocks and tiles end in the middle of a vector, shared out to up to three threads."""
    here = Numpy(end)
    numba_direct.np = numba_rows.np = here
    whole = numba_winograd.FILTERS, numba_winograd.SMALL
    rng = np.random.default_rng(0)
    for n, k, o in [(2, 257, 17), (130, 300, 33), (5, 320, 64), (1, 1, 1), (1, 64, 3), (8, 130, 33), (9, 300, 17)]:
        for dtype in ("float32", "float64"):
            print("dense", n, k, o, dtype, flush=True)
            backend = Forced("direct", 3)
            backend.empty = here.empty  # type: ignore[method-assign]
            x, w, b, dy = (here.copy(rng.standard_normal(s).astype(dtype)) for s in ((n, k), (k, o), (o,), (n, o)))
            x[x < 0], dy[dy < 0] = 0, 0
            results = backend.dense(x, w, b), *backend.dense_backward(dy, x, w, Need(dw=here.empty(w.shape, dtype)))
            assert all(np.isfinite(result).all() for result in results)
    for algorithm, images, channels, filters, side, kernel, pool in [
        *[("winograd", n, 16, f, s, 3, 1) for n in (1, 2, 7) for f in (16, 48) for s in (1, 2, 4, 6, 17)],
        *[("blocks", n, c, f, s, 3, 1) for n in (1, 5) for c in (16, 48) for f in (16, 48) for s in (2, 6, 9)],
        *[("direct", n, c, f, 7, 3, p) for n in (1, 5) for c in (1, 3, 17) for f in (1, 17, 40) for p in (1, 2, 3)],
        ("direct", 3, 1, 6, 28, 5, 2),
        *[
            ("rows", n, c, f, s, 3, p)
            for n in (1, 4)
            for c in (1, 3)
            for f in (1, 17)
            for s in (3, 14, 19)
            for p in (1, 2)
        ],
        *[("rows", n, 1, f, s, 5, p) for n in (1, 4) for f in (16, 33) for s in (5, 17, 28) for p in (1, 2)],
    ]:
        for dtype in ("float32", "float64"):
            for threads in (1, 3):
                print(algorithm, images, channels, filters, side, kernel, pool, dtype, threads, flush=True)
                # "blocks" is Winograd's algorithm with filters that are transformed a few at a time.
                blocks = algorithm == "blocks"
                numba_winograd.FILTERS, numba_winograd.SMALL = (0, 0) if blocks else whole
                backend = Forced("winograd" if blocks else algorithm, threads)
                backend.empty = here.empty  # type: ignore[method-assign]
                backend._carved = lambda shapes, dtype: [here.empty(shape, dtype) for shape in shapes]  # type: ignore
                shapes = (images, channels, side, side), (filters, channels, kernel, kernel), (filters,)
                x, w, b = (here.copy(rng.standard_normal(shape).astype(dtype)) for shape in shapes)
                pads = (kernel // 2,) * 4
                if pool == 1:
                    y, saved = backend.conv2d(x, w, b, (1, 1), pads, activation="relu")
                    back = backend.conv2d_backward
                else:
                    y, saved = backend.conv2d_relu_max_pool(x, w, b, (1, 1), pads, (pool, pool), (pool, pool))
                    back = backend.conv2d_relu_max_pool_backward
                if algorithm == "rows":
                    more = () if pool == 1 else (((pool, pool), (pool, pool)),)
                    same = backend.conv2d_relu_inference(x, w, b, (1, 1), pads, (1, 1), *more)
                    assert same.tobytes() == y.tobytes() and backend.ran.pop() == "rows"
                got = back(here.copy(np.ones_like(y)), saved, Need(dw=here.empty(w.shape, dtype)))
                assert backend.ran == [backend.algorithm]
                for result in (y, *got):
                    assert np.isfinite(result).all()
                _kept.clear()  # those that are still in use live on


if __name__ == "__main__":
    main({"end": True, "start": False}[sys.argv[1]])
    print("done")
