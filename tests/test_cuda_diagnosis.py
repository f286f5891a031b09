"""Why CuPy cannot run: each cause, provoked by stand-in modules, has its own reason and its own fix."""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest

from tests import standin
from tests.standin import cudnn, device, module
from xconv import backend as backends
from xconv.backend import cuda
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


@pytest.mark.parametrize(
    ("driver", "reason", "fix"),
    [
        (0, "there is no NVIDIA driver, and CuPy is not installed",
         r'^install one from https://www\.nvidia\.com/drivers .*; then pip install "xconv\[cudnn13\]", or cudnn12'),
        (11080, "the NVIDIA driver is for CUDA 11.8, and CuPy is not installed", "^update the driver; then pip "),
        (12040, "CuPy is not installed", r'^pip install "xconv\[cudnn12\]"$'),
        (13020, "CuPy is not installed", r'^pip install "xconv\[cudnn13\]"$'),
    ],
)  # fmt: skip
def test_what_is_to_be_installed_first(fake, monkeypatch, driver, reason, fix):
    """Without CuPy the driver's own library says whether there is a driver, and for which CUDA."""
    monkeypatch.setattr(cuda, "driver_version", lambda: driver)
    error = diagnosed(None)
    assert error.reason == reason and re.search(fix, error.fix)


def test_the_driver_is_asked_without_cupy(monkeypatch):
    asked = []

    class Library:
        @staticmethod
        def cuDriverGetVersion(pointer):
            pointer._obj.value = 12040
            return 0

    def load(name):
        asked.append(name)
        if name == "libcuda.so.1":
            raise OSError("cannot open shared object file")
        return Library

    monkeypatch.setattr(cuda.ctypes, "CDLL", load)
    monkeypatch.setattr(cuda.os, "name", "posix")
    assert cuda.driver_version() == 12040 and asked == ["libcuda.so.1", "libcuda.so"]
    monkeypatch.setattr(cuda.ctypes, "CDLL", _raise(OSError("cannot open shared object file")))
    assert cuda.driver_version() == 0


def test_another_gpu_is_called_by_its_name(fake, monkeypatch, run):
    monkeypatch.setattr(backends, "_made", {})
    with standin.modules(_cupy_that(cuda__runtime__driverGetVersion=lambda: 0), None):
        for name, told in (("cupy:1", "'cupy:1'"), ("cupy:0", "'cupy'"), ("cupy", "'cupy'")):
            with pytest.raises(BackendError) as caught:
                backends.get_backend(name)
            error = caught.value
            assert str(error) == f"backend {told} cannot run here: {error.reason}; {error.fix}"
            assert (error.reason, error.version) == ("there is no NVIDIA driver", "cupy 14.2.0")
        code, _, err = run("train", "--backend", "cupy:1")
    standin.state.module = fake.xp
    assert code == 2 and "backend 'cupy:1' cannot run here: there is no NVIDIA driver" in err


def test_cupy_broken(fake, tmp_path, monkeypatch):
    for text, expected in [
        ("raise ImportError('=====\\nlibcudart.so.13: cannot open\\n=====')", "cannot be imported: libcudart.so.13"),
        ("import no_such_module", "no_such_module, which CuPy needs, is not installed"),
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
    pathfinder = no_cublas()
    error = diagnosed(_cupy_that(), pathfinder)
    assert error.reason.startswith("cuBLAS") and "[ctk]" in error.fix
    pathfinder.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(abs_path="/nowhere/libcublas.so.13")
    assert diagnosed(_cupy_that(), pathfinder).reason.startswith("cuBLAS")


def no_cublas():
    pathfinder = ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib = _raise(DynamicLibNotFoundError("libcublasLt.so.13"))
    return pathfinder


EVERY = {
    **{cause: (lambda cause=cause: (_cupy_that(**CAUSES[cause][0]), None), *CAUSES[cause][1:]) for cause in CAUSES},
    "no cupy": (lambda: (None, None), "CuPy is not installed", r"xconv\[cudnn1[23]\]"),
    "no cublas": (lambda: (_cupy_that(), no_cublas()), "cuBLAS, CUDA's matrix library, was not found", r"\[ctk\]"),
}


@pytest.mark.parametrize("cause", EVERY)
def test_the_command_prints_each_reason_with_its_fix(fake, monkeypatch, run, cause):
    modules, reason, fix = EVERY[cause]
    monkeypatch.setattr(backends, "_made", {})
    with standin.modules(*modules()):
        ended = [run(*args) for args in (["backends", "cupy"], ["backends"], ["train", "--backend", "cupy"])]
    standin.state.module = fake.xp
    assert [code for code, _, _ in ended] == [1, 0, 2]  # non-zero where cupy was named
    for _, out, _ in ended[:2]:
        told, mended = next(pair for pair in pairwise(out.splitlines()) if pair[0].startswith("cupy: "))
        assert re.search(reason, told) and mended.startswith("  to mend it: ") and re.search(fix, mended)
    assert re.search(reason, ended[2][2]) and re.search(fix, ended[2][2]) and ended[2][1] == ""


def test_a_backend_that_runs_exits_with_0(fake, monkeypatch, run):
    monkeypatch.setattr(backends, "_made", {"cupy": fake})
    code, out, _ = run("backends", "cupy", "--json")
    assert code == 0 and [row["name"] for row in json.loads(out)] == ["cupy"]
    with standin.modules(_cupy_that(), None):
        code, out, _ = run("backends", "numpy", "cupy:3")
    standin.state.module = fake.xp
    assert code == 1 and "cupy:3: there is no CUDA device 3" in out and "numpy" in out


def frontend(**changes):
    """A stand-in of `import cudnn`, changed."""
    module = cudnn.build()
    for name, value in changes.items():
        setattr(module, name, value)
    return module


WITHOUT = {
    "none": (None, "not installed"),
    "no library": (
        {"create_handle": _raise(RuntimeError("libcudnn.so.9:\n cannot open"))},
        r"not usable \(RuntimeError: libcudnn.so.9: cannot open\)",
    ),
    "too old": ({"__version__": "1.17.0"}, "not usable, nvidia-cudnn-frontend 1.17.0 being too old"),
}


@pytest.mark.parametrize("cause", WITHOUT)
def test_cudnn_missing_is_a_note_and_no_error(fake, monkeypatch, run, cause):
    changes, why = WITHOUT[cause]
    monkeypatch.setattr(backends, "_made", {})
    with standin.modules(_cupy_that(), module.pathfinder(), None if changes is None else frontend(**changes)):
        row = backends.backends()[0]
        code, out, _ = run("backends", "cupy")
    standin.state.module = fake.xp
    assert row.usable and row.reason is None and code == 0
    ((note, cure),) = row.notes
    assert re.fullmatch(rf"cuDNN is {why}: convolutions run by own kernels and cuBLAS", note)
    assert cure == 'pip install "xconv[cudnn13]"'
    assert f"cupy: {note}\n  to mend it: {cure}\n" in out


def test_cudnn_that_is_there_needs_no_note():
    assert standin.install_with_cudnn().notes() == []


def test_several_gpus_are_told(monkeypatch):
    backend = standin.install_with_cudnn()
    monkeypatch.setattr(backend, "devices", 4)
    assert backend.notes() == [("GPU 0 of 4: 'cupy:0' to 'cupy:3'", None)]


def test_backends_lists_the_reason(fake, monkeypatch):
    monkeypatch.setattr(backends, "_made", {})
    with standin.modules(_cupy_that(cuda__runtime__driverGetVersion=lambda: 0), None):
        row = next(row for row in backends.backends() if row.name == "cupy")
    assert not row.usable and row.reason == "there is no NVIDIA driver" and "nvidia-smi" in row.fix
    standin.state.module = fake.xp
    monkeypatch.setattr(backends, "_made", {"cupy": fake})
    assert backends.backends()[0].usable and backends.backends()[0].device == "stand-in"
