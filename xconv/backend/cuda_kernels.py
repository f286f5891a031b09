"""Launching the CUDA kernels of xconv.kernels.cuda, compiled on first use, and the structs that they take."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from xconv.errors import BackendError, DTypeError
from xconv.kernels import cuda
from xconv.shapes import Pads, Pair

BLOCK = 256  # threads in a block
MOST_BLOCKS = 1 << 16  # kernels loop over what is left

SUFFIX = {"float32": "f32", "float64": "f64"}  # of a kernel's name, by dtype
_ARGMAX_SUFFIX = {"uint8": "u8", "int32": "i32"}

_SIZES = ("n", "c", "h", "w", "oh", "ow", "kh", "kw", "sy", "sx", "top", "left")
WINDOW = np.dtype([(name, np.int64) for name in (*_SIZES, "dy", "dx", "by_place", "by_tap")])  # in columns.cu
POOL = np.dtype([(name, np.int64) for name in (*_SIZES, "image", "channel")])  # in pool.cu


class Kernels:
    """The kernels by name. A grid is sized by shapes alone, so that sums never change their order."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        self._pid = os.getpid()

    def check_process(self) -> None:
        """BackendError in a forked child, where every CUDA call would fail."""
        if os.getpid() != self._pid:
            raise BackendError(
                "backend 'cupy': CUDA does not survive a fork; start worker processes with "
                'multiprocessing.get_context("spawn")'
            )

    def each(self, file: str, kernel: str, size: int, *args: Any) -> None:
        """One thread for each of `size` entries, up to MOST_BLOCKS blocks; kernels loop over the rest."""
        self.blocks(file, kernel, (min(-(-size // BLOCK), MOST_BLOCKS),), (BLOCK,), *args)

    def blocks(self, file: str, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Launch on CuPy's current stream. A Python int is a long long, a float a double, None is NULL."""
        self.check_process()
        if 0 in grid:  # nothing to do, and CUDA refuses an empty grid
            return
        if kernel not in self._functions:
            if file not in self._modules:
                self._modules[file] = self._cupy.RawModule(code=cuda.source(file), options=("-std=c++17",))
            self._functions[kernel] = self._modules[file].get_function(kernel)
        # CuPy turns an int 0 into eight zero bytes, which is NULL; for None it gives CUDA no argument to read at all.
        self._functions[kernel](grid, block, tuple(0 if arg is None else arg for arg in args))


def max_pool_name(kernel: str, y: Any, argmax: Any) -> str:
    """The kernel for these two dtypes."""
    if argmax.dtype.name not in _ARGMAX_SUFFIX:
        raise DTypeError(f"max_pool: argmax must be uint8 or int32. Received: {argmax.dtype}")
    return f"{kernel}_{SUFFIX[y.dtype.name]}_{_ARGMAX_SUFFIX[argmax.dtype.name]}"


def window(
    x_shape: tuple[int, ...], out: Pair, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, strides: Pair
) -> np.ndarray:
    """The struct Window; `strides` are those of col by place and by tap."""
    return np.array((*x_shape, *out, *kernel, *stride, pads[0], pads[2], *dilation, *strides), WINDOW)


def pool(x_shape: tuple[int, ...], out: Pair, kernel: Pair, stride: Pair, pads: Pads) -> np.ndarray:
    """The struct Pool for maps [N,C,H,W]."""
    _, c, h, w = x_shape
    return np.array((*x_shape, *out, *kernel, *stride, pads[0], pads[2], c * h * w, h * w), POOL)


def pool_of_product(x_shape: tuple[int, ...], out: Pair, kernel: Pair, stride: Pair) -> np.ndarray:
    """The struct Pool for maps of shape [N,C,H,W] that lie as [C,N,H,W], without padding."""
    n, _, h, w = x_shape
    return np.array((*x_shape, *out, *kernel, *stride, 0, 0, h * w, n * h * w), POOL)
