"""The CUDA kernels on the CPU: each .cu compiled by g++ over `cuda_shim.h` and called through ctypes."""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("cuda_shim.h")
COMPILER = shutil.which("g++") or ""
SANITIZED = "XCONV_SANITIZE" in os.environ  # see sanitized.py
MISSING = "" if COMPILER else "g++ is not installed"
# Not optimised: most of the time goes into compiling, fifty broken copies among the rest.
FLAGS = ("-std=c++17", "-O0", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")

SANITIZE = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all") if SANITIZED else ()

_order = 0  # in which a block's threads run: see cuda_shim.h


@contextmanager
def threads_in_order(order: int) -> Iterator[None]:
    """What is launched inside runs its threads first to last (0), last to first (1) or shuffled by that seed."""
    global _order
    before, _order = _order, order
    try:
        yield
    finally:
        _order = before


_KERNEL = re.compile(r'extern "C" __global__ void (\w+?)(##suffix)?\(')


def kernel_names(source: str) -> list[str]:
    """Names of the kernels in a source, macros expanded by the preprocessor."""
    expanded = subprocess.run(
        [COMPILER, "-E", "-P", "-x", "c++", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout
    return [match[1] for match in _KERNEL.finditer(expanded)]


def all_checks() -> dict[str, tuple[str, Any]]:
    """kernel -> (its file, its check), from every module of checks beside this one."""
    modules = [importlib.import_module(f"{__name__}.{path.stem}") for path in sorted(HEADER.parent.glob("*checks.py"))]
    return {kernel: found for module in modules for kernel, found in module.CHECKS.items()}


def built(text: str, *flags: str) -> Path:
    """C++ as a shared library, from a cache keyed by everything that goes into it."""
    key = hashlib.sha256("\0".join((HEADER.read_text(), text, *FLAGS, *flags)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"xconv-cuda-shim-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            out = Path(scratch) / "built.so"
            command = [COMPILER, *FLAGS, *flags, "-x", "c++", "-", "-o", str(out)]
            result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RuntimeError(f"g++ refused the source:\n{result.stderr[:4000]}")
            os.replace(out, library)
    return library


def compiled(source: str) -> ctypes.PyDLL:
    """A CUDA source as a library with launchers beside its kernels.

    PyDLL keeps the interpreter's lock while a kernel runs: threadIdx and shared memory are plain globals.
    """
    text = f'#include "{HEADER}"\n{source}\n'
    for name in kernel_names(source):
        text += f'extern "C" const char* signature_{name}() {{ return shim::signature({name}); }}\n'
        text += f'extern "C" int launch_{name}(const unsigned* dims, void** args)\n'
        text += f"{{ return shim_launch({name}, dims, args); }}\n"
    flags = ["-DSHIM_FIBERS"] if "__syncthreads" in source else []
    return ctypes.PyDLL(str(built(text, *flags, *SANITIZE)))


class Kernel:
    """One kernel, launched as on a device: kernel(grid, block, args). Arguments are checked against its signature.

    Arguments: an array for a pointer, 0 for a null pointer to const, a Python int for long long, a float for
    double, and a structured array of one element for a struct by value.
    """

    def __init__(self, library: ctypes.PyDLL, name: str) -> None:
        try:
            self._launch = library[f"launch_{name}"]
        except AttributeError:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}") from None
        self.name = name
        about = library[f"signature_{name}"]
        about.restype = ctypes.c_char_p
        self.signature = about().decode().split()

    def bind(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> Any:
        """A function without arguments that launches; it keeps addresses, not arrays, as a recorded graph does."""
        if len(args) != len(self.signature):
            raise TypeError(f"{self.name}: {len(self.signature)} arguments expected, got {len(args)}")
        values = [self._value(*pair) for pair in zip(self.signature, args, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        sizes = (*grid, 1, 1)[:3] + (*block, 1, 1)[:3]
        if min(sizes) < 1 or np.prod(sizes[3:]) > 1024 or sizes[0] > 2**31 - 1 or max(sizes[1:3]) > 65535:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: grid {grid}, block {block}")
        dims = (ctypes.c_uint * 7)(*sizes)

        def launch() -> None:
            assert values  # the pointers lead here
            dims[6] = _order
            if self._launch(dims, pointers):
                raise RuntimeError(f"{self.name}: only some threads of a block reached __syncthreads")

        return launch

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        self.bind(grid, block, args)()

    def _value(self, code: str, arg: Any) -> Any:
        if code[0] in "*=":
            if type(arg) is int and arg == 0 and code[0] == "*":
                return ctypes.c_void_p(0)
            if not isinstance(arg, np.ndarray) or arg.dtype.str[1:] != code[1:]:
                raise TypeError(f"{self.name}: array of {code[1:]} expected, got {getattr(arg, 'dtype', arg)!r}")
            if not arg.flags.c_contiguous or (code[0] == "=" and not arg.flags.writeable):
                raise TypeError(f"{self.name}: a pointer needs a C-contiguous array, writeable where it is written")
            return ctypes.c_void_p(arg.ctypes.data)
        if code == "i8" and type(arg) is int:
            if not -(2**63) <= arg < 2**63:
                raise OverflowError(f"{self.name}: Python int {arg} is too large for long long")
            return ctypes.c_longlong(arg)
        if code == "f8" and type(arg) is float:
            return ctypes.c_double(arg)
        if code[0] == "V" and isinstance(arg, np.ndarray) and arg.size == 1 and arg.dtype.str[1:] == code:
            return ctypes.create_string_buffer(arg.tobytes(), arg.nbytes)
        raise TypeError(f"{self.name}: a parameter of type {code} cannot take {arg!r}")


class Module:
    """The kernels of one source, as cupy.RawModule has them."""

    def __init__(self, source: str) -> None:
        self._library = compiled(source)
        self._kernels: dict[str, Kernel] = {}

    def barriers(self) -> int:
        """How often a thread has come to a barrier."""
        count = self._library.shim_barriers
        count.restype = ctypes.c_ulonglong
        return int(count())

    def get_function(self, name: str) -> Kernel:
        """The kernel of that name."""
        if name not in self._kernels:
            self._kernels[name] = Kernel(self._library, name)
        return self._kernels[name]


@cache
def module(name: str) -> Module:
    """The kernels of kernels/cuda/`name`.cu."""
    from xconv.kernels import cuda

    return Module(cuda.source(name))
