"""CUDA's runtime compiler through ctypes, from the wheel nvidia-cuda-nvrtc or the system: it needs no driver."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any


@cache
def library() -> Any | None:
    """libnvrtc, or None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    found = [str(path) for folder in folders for path in sorted(folder.glob("**/libnvrtc.so.*[0-9]"))]
    for name in [*found, ctypes.util.find_library("nvrtc"), "libnvrtc.so.13", "libnvrtc.so.12"]:
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    return None


def compile_cubin(source: str, name: str, arch: str, *options: str) -> bytes:
    """Machine code for `arch` ("sm_90"); RuntimeError with the compiler's log where it refuses or warns."""
    nvrtc = library()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None))
    try:
        flags = [f"-arch={arch}", *options]
        status = nvrtc.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        )
        log = _text(nvrtc, "ProgramLog", program).decode()
        if status or "warning" in log:
            raise RuntimeError(f"{name} for {arch}:\n{log}")
        return _text(nvrtc, "CUBIN", program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: Any, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(nvrtc: Any, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(nvrtc.nvrtcGetErrorString(status).decode())
