"""Compiled kernels: Numba for the CPU in `cpu`, CUDA C++ in `cuda`. Imports nothing of xconv.

This folder is installed as ``xconv.kernels``; it must never take the global name ``kernels``, which another
published package has.
"""

if __name__ != "xconv.kernels":
    raise ImportError(f"this folder is the package xconv.kernels; import it by that name. Received: {__name__}")
