"""Why CuPy cannot run: each cause, provoked by stand-in modules, has its own reason and its own fix."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests import standin
from tests.standin import device, module
from xconv import backend as backends
from xconv.errors import BackendError

pytestmark = pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")


@pytest.fixture
def fake():
    return standin.install()


def _cupy_that(**changes):
    """A stand-in with parts of cupy.cuda replaced: {"runtime.getDeviceCount": function}."""
    cupy = module.build()
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = cupy
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    return cupy


def _raise(error):
    def function(*_, **__):
        raise error

    return function


class DynamicLibNotFoundError(RuntimeError):
    """As cuda.pathfinder's."""


NOT_FOUND = DynamicLibNotFoundError('Failure finding "libnvrtc.so.13"\n')
HEADERS = RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers.")
CAUSES = {
    "no driver": ({"cuda__runtime__driverGetVersion": lambda: 0}, "no NVIDIA driver", "nvidia.com/drivers"),
    "old driver": (
        {"cuda__runtime__driverGetVersion": lambda: 12040},
        r"driver is for CUDA 12\.4, and this CuPy needs CUDA 13",
        r"xconv\[cuda12\]",
    ),
    "driver refuses": (
        {"cuda__runtime__getDeviceCount": _raise(device.CUDARuntimeError(35, "insufficient driver"))},
        "too old for this CuPy",
        "update the driver",
    ),
    "no device": (
        {"cuda__runtime__getDeviceCount": _raise(device.CUDARuntimeError(100, "no CUDA-capable device"))},
        "no CUDA device",
        "CUDA_VISIBLE_DEVICES",
    ),
    "count of none": ({"cuda__runtime__getDeviceCount": lambda: 0}, "no CUDA device", "nvidia-smi"),
    "other failure": (
        {"cuda__runtime__getDeviceCount": _raise(device.CUDARuntimeError(999, "unknown\nerror"))},
        "CUDA does not start: unknown error",
        "nvidia-smi",
    ),
    "no nvrtc": ({"cuda__nvrtc__getVersion": _raise(NOT_FOUND)}, "NVRTC", r'pip install "cupy-cuda13x\[ctk\]"'),
    "no headers": ({"arange": _raise(HEADERS)}, "CUDA headers were not found", r"cupy-cuda13x\[ctk\]"),
    "kernel fails": ({"arange": _raise(RuntimeError("x" * 999))}, "first kernel failed: RuntimeError: x+...", "ctk"),
    "kernel lies": (
        {"arange": lambda n, dtype: standin.state.module.zeros(n, dtype)},
        "first kernel gave 0 instead of 4",
        "nvidia-smi",
    ),
}


def diagnosed(cupy, pathfinder=None):
    from xconv.backend.cupy_backend import CupyBackend

    before = standin.state.module
    try:
        with standin.modules(cupy, pathfinder), pytest.raises(BackendError) as caught:
            CupyBackend()
    finally:
        standin.state.module = before
    error = caught.value
    assert error.reason in str(error) and error.fix in str(error) and "\n" not in str(error)
    assert str(error).startswith("backend 'cupy' cannot run here: ")
    return error


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_told_apart(fake, cause):
    changes, reason, fix = CAUSES[cause]
    error = diagnosed(_cupy_that(**changes))
    assert error.version == "cupy 14.2.0"
    assert re.search(reason, error.reason)
    assert re.search(fix, error.fix)


def test_cupy_missing_or_broken(fake, tmp_path, monkeypatch):
    assert diagnosed(None).reason == "CuPy is not installed"
    assert diagnosed(None).fix.startswith('pip install "xconv[cuda13]"')
    for text, expected in [
        ("raise ImportError('=====\\nlibcudart.so.13: cannot open\\n=====')", "cannot be imported: libcudart.so.13"),
        ("import no_such_module", "needs no_such_module"),
    ]:
        (tmp_path / "cupy.py").write_text(text)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        from xconv.backend.cupy_backend import CupyBackend

        with pytest.raises(BackendError, match=expected):
            CupyBackend()
        sys.path_importer_cache.pop(str(tmp_path), None)
        (tmp_path / "cupy.py").unlink()


def test_cublas_missing(fake):
    pathfinder = ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib = _raise(DynamicLibNotFoundError("libcublasLt.so.13"))
    error = diagnosed(_cupy_that(), pathfinder)
    assert error.reason.startswith("cuBLAS") and "[ctk]" in error.fix
    pathfinder.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(abs_path="/nowhere/libcublas.so.13")
    assert diagnosed(_cupy_that(), pathfinder).reason.startswith("cuBLAS")


def test_backends_lists_the_reason(fake, monkeypatch):
    monkeypatch.setattr(backends, "_made", {})
    with standin.modules(_cupy_that(cuda__runtime__driverGetVersion=lambda: 0), None):
        row = next(row for row in backends.backends() if row.name == "cupy")
    assert not row.usable and row.reason == "there is no NVIDIA driver" and "nvidia-smi" in row.fix
    standin.state.module = fake.xp
    monkeypatch.setattr(backends, "_made", {"cupy": fake})
    assert backends.backends()[0].usable and backends.backends()[0].device == "stand-in"
