"""Why CuPy can or cannot run here: each cause told apart, with the line that mends it."""

from __future__ import annotations

import ctypes
import os
from typing import Any, NoReturn

from xconv.errors import BackendError

_NO_DEVICE, _DRIVER_TOO_OLD = 100, 35  # cudaErrorNoDevice, cudaErrorInsufficientDriver
_NO_DRIVER = "there is no NVIDIA driver"
_DRIVER = (
    "install one from https://www.nvidia.com/drivers (in a container: start it with --gpus all); "
    "`nvidia-smi` must list a GPU"
)


def dotted(version: int) -> str:
    """13020 -> 13.2, as CUDA counts."""
    return f"{version // 1000}.{version % 1000 // 10}"


def refuse(reason: str, fix: str, version: str | None = None, cause: BaseException | None = None) -> NoReturn:
    """BackendError in one line: the reason, and what to do."""
    reason = " ".join(reason.split())
    if len(reason) > 300:
        reason = reason[:297] + "..."
    message = f"backend 'cupy' cannot run here: {reason}; {fix}"
    raise BackendError(message, reason=reason, fix=fix, version=version) from cause


def driver_version() -> int:
    """The newest CUDA that the NVIDIA driver runs, 13020 for 13.2, asked without CuPy; 0 where there is no driver."""
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so"):
        version = ctypes.c_int()
        try:
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0:
                return version.value
        except (OSError, AttributeError):
            pass
    return 0


def _without_cupy(missing: str, cause: BaseException) -> NoReturn:
    """What is to be installed first: nothing else helps without a driver, which also says for which CUDA."""
    driver, install = driver_version(), 'pip install "xconv[cudnn13]"'  # CuPy, CUDA's libraries and cuDNN
    if driver == 0:
        refuse(f"{_NO_DRIVER}, and {missing}", f"{_DRIVER}; then {install}, or cudnn12 for CUDA 12", cause=cause)
    if driver < 12000:
        old = f"the NVIDIA driver is for CUDA {dotted(driver)}, and {missing}"
        refuse(old, f"update the driver; then {install}", cause=cause)
    refuse(missing, install if driver >= 13000 else install.replace("13", "12"), cause=cause)


def usable_cupy(device: int = 0) -> tuple[Any, int]:
    """The module cupy, once driver, device, compiler and headers have proved to be there; how many GPUs it sees."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        what = "CuPy" if error.name == "cupy" else f"{error.name}, which CuPy needs,"
        _without_cupy(f"{what} is not installed", error)
    except ImportError as error:
        lines = [line.strip("= ") for line in str(error).splitlines()]
        why = " ".join(line for line in lines if line)
        extra = "cuda12" if 0 < driver_version() < 13000 else "cuda13"
        refuse(f"CuPy cannot be imported: {why}", f'pip install --force-reinstall "xconv[{extra}]"', cause=error)
    version = f"cupy {cupy.__version__}"
    devices = _check_driver(cupy, version)
    if device >= devices:
        these = "one device, 'cupy'" if devices == 1 else f"{devices} devices, 'cupy:0' to 'cupy:{devices - 1}'"
        refuse(
            f"there is no CUDA device {device}",
            f"take one that is there ({these}), or check CUDA_VISIBLE_DEVICES; `nvidia-smi` lists all",
            version,
        )
    with cupy.cuda.Device(device):
        _check_compiler(cupy, version)
    return cupy, devices


def _check_driver(cupy: Any, version: str) -> int:
    """How many devices there are: at least one."""
    runtime = cupy.cuda.runtime
    driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        refuse(_NO_DRIVER, _DRIVER, version)
    old = f"the NVIDIA driver is for CUDA {dotted(driver)}"
    update = f'update the driver, or pip install "xconv[cuda{driver // 1000}]" in place of cuda{built_for // 1000}'
    if driver // 1000 < built_for // 1000:
        refuse(f"{old}, and this CuPy needs CUDA {built_for // 1000}", update, version)
    fix = "check CUDA_VISIBLE_DEVICES; `nvidia-smi` must list a GPU"
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        status = getattr(error, "status", None)
        if status == _DRIVER_TOO_OLD:
            refuse(f"{old}, which is too old for this CuPy", update, version, error)
        if status != _NO_DEVICE:
            refuse(f"CUDA does not start: {error}", fix, version, error)
        devices = 0
    if devices == 0:
        refuse("there is no CUDA device", fix, version)
    return int(devices)


def _check_compiler(cupy: Any, version: str) -> None:
    """NVRTC answers, and one elementwise kernel compiles and gives the right result."""
    toolkit = f'pip install "cupy-cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}x[ctk]"'
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        refuse("NVRTC, CUDA's compiler library, was not found", toolkit, version, error)
    try:
        got = float((cupy.arange(3, dtype="float32") * 2.0)[2:].get()[0])
    except Exception as error:
        if "CUDA headers" in str(error):
            refuse("the CUDA headers were not found", toolkit, version, error)
        refuse(f"the first kernel failed: {type(error).__name__}: {error}", toolkit, version, error)
    if got != 4.0:
        refuse(f"the first kernel gave {got:g} instead of 4", "check the device with `nvidia-smi`", version)
