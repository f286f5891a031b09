"""Finding a backend: by name, from $XCONV_BACKEND, or the best that is usable. Nothing falls back unseen."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from xconv.backend.base import Array, Backend, Need
from xconv.backend.gpu_memory import limit_bytes
from xconv.backend.precision import asked_precision
from xconv.backend.threads import asked_threads
from xconv.backend.workspace import workspace_bytes
from xconv.errors import BackendError, XconvError, described

__all__ = [
    "NAMES", "Array", "Backend", "BackendInfo", "Need", "backend_of", "backends", "check_settings", "get_backend",
    "is_name",
]  # fmt: skip

_CLASSES = {
    "cupy": ("xconv.backend.cupy_backend", "CupyBackend"),
    "numba": ("xconv.backend.numba_backend", "NumbaBackend"),
    "numpy": ("xconv.backend.numpy_backend", "NumpyBackend"),
}
NAMES = tuple(_CLASSES)  # best first: the order in which "auto" tries them
_ON_A_DEVICE = re.compile(r"(cupy):(0|[1-9]\d{0,3})", re.ASCII)  # "cupy:1" is the second GPU; "cupy" the first

_made: dict[str, Backend] = {}
_lock = threading.RLock()
_chosen: Backend | None = None  # by "auto", once in a process


@dataclass(frozen=True)
class BackendInfo:
    """One row of `xconv backends`. `fix` is the line that makes an unusable backend usable; `workspace` is in bytes.

    `notes` tell what a usable backend does without, each with the line that mends it, or None.
    """

    name: str
    usable: bool
    device: str | None
    version: str | None
    workspace: int | None
    reason: str | None
    fix: str | None
    notes: tuple[tuple[str, str | None], ...] = ()


def is_name(name: Any) -> bool:
    """Whether `name` names a backend: "numpy", "numba", "cupy", or "cupy:1" for one GPU of several."""
    return isinstance(name, str) and (name in _CLASSES or _ON_A_DEVICE.fullmatch(name) is not None)


def check_settings() -> None:
    """ConfigError where a setting that some backend reads, $XCONV_..., cannot be: whichever backend is to run."""
    asked_precision(), asked_threads(), workspace_bytes(), limit_bytes(1 << 62)


def _make(name: str) -> Backend:
    """The one instance of a backend, made and proved on first use; on CuPy the one of each device."""
    found = _ON_A_DEVICE.fullmatch(name)
    kind, device = (found[1], int(found[2])) if found else (name, 0)
    name = f"{kind}:{device}" if device else kind
    with _lock:
        if name not in _made:
            check_settings()
            module, cls = _CLASSES[kind]
            try:
                backend: Backend = getattr(import_module(module), cls)(*((device,) if device else ()))
                prove(backend)
            except BackendError as error:
                if name == kind or error.reason is None:
                    raise
                told = f"backend {name!r} cannot run here: {error.reason}; {error.fix}"  # this GPU, not the first
                raise BackendError(told, reason=error.reason, fix=error.fix, version=error.version) from error
            except (XconvError, Warning):  # a warning, where warnings are errors, tells its own story
                raise
            except Exception as error:
                raise _cannot_run(name, error) from error
            _made[name] = backend
        return _made[name]


def _cannot_run(name: str, error: Exception) -> BackendError:
    """What a backend's library says when it is missing or broken, with the line that mends it."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing:
        reason, fix = f"{missing} is not installed", f"pip install {missing.partition('.')[0]}"
    else:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        reason, fix = f"{name} does not work: {said[:300]}", f"pip install --upgrade --force-reinstall {name}"
    return BackendError(f"backend {name!r} cannot run here: {reason}; {fix}", reason=reason, fix=fix)


def prove(backend: Backend) -> None:
    """Run one of the backend's kernels and one matrix product; BackendError where either gives a wrong result."""
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    with backend.running():
        col = backend.im2col(backend.asarray(x), (2, 2), (1, 1), (0, 0, 0, 0))
        product = backend.matmul(col, backend.asarray(np.ones((4, 1), np.float32)))
        got = backend.to_numpy(product).ravel().tolist()
    if got != [8.0, 12.0, 20.0, 24.0]:
        reason = f"it computes wrongly: the sums of four windows should be [8, 12, 20, 24]. Received: {got}"
        fix = f"pip install --force-reinstall {backend.name}"
        raise BackendError(f"backend {backend.name!r} cannot run here: {reason}; {fix}", reason=reason, fix=fix)


def get_backend(name: str | Backend | None = None) -> Backend:
    """The backend called `name`: "numpy", "numba", "cupy", or "auto" for the best that is usable.

    "cupy:1" is the second GPU of several ("cupy" and "cupy:0" the first): each has a backend of its own, whose arrays
    another's operations refuse.

    None means $XCONV_BACKEND, or "auto" where that is not set. A backend that is named either runs or raises
    BackendError with the cause and the fix; "auto" says on stderr, once, what it chose and why. ConfigError where a
    setting that some backend reads, $XCONV_GPU_MEMORY, $XCONV_NUM_THREADS, $XCONV_PRECISION or $XCONV_WORKSPACE, cannot
    be.
    """
    if isinstance(name, Backend):
        return name
    origin = ""
    if name is None:
        name = os.environ.get("XCONV_BACKEND") or "auto"
        origin = " from $XCONV_BACKEND" if os.environ.get("XCONV_BACKEND") else ""
    if name == "auto":
        return _best()
    if not isinstance(name, str) or not is_name(name):
        several = " ('cupy:1' for the second of several GPUs)" if ":" in str(name) else ""
        raise BackendError(
            f"unknown backend{origin}: expected one of {', '.join(map(repr, sorted(NAMES)))} or 'auto'{several}. "
            f"Received: {described(name)}"
        )
    return _make(name)


def _best() -> Backend:
    global _chosen
    if _chosen is not None:
        return _chosen
    skipped = []
    for name in NAMES:
        try:
            backend = _make(name)
        except BackendError as error:  # not ConfigError: a wrong setting is to be put right, not passed over
            skipped.append(f"no {name}: {_reason(error)}".split("\n", 1)[0].rstrip("."))
            continue
        why = "; ".join(skipped) if skipped else "the fastest there is"
        print(f"xconv: backend 'auto' chose {name} on {backend.describe().get('device')} ({why})", file=sys.stderr)
        _chosen = backend
        return backend
    raise BackendError("no backend is usable: " + "; ".join(skipped))


def backends(names: Iterable[str] | None = None) -> list[BackendInfo]:
    """Each backend, or those named: whether it is usable, on what device; else the reason and what fixes it."""
    rows = []
    for name in NAMES if names is None else names:
        try:
            backend = _make(name)
            about, notes = backend.describe(), tuple(backend.notes())
            rows.append(
                BackendInfo(
                    name, True, about.get("device"), about.get("version"), about["workspace"], None, None, notes
                )
            )
        except Exception as error:
            known = error if isinstance(error, XconvError) else _cannot_run(name, error)
            fix = getattr(known, "fix", None) or "put right what the reason names"
            rows.append(BackendInfo(name, False, None, getattr(known, "version", None), None, _reason(known), fix))
    return rows


def _reason(error: XconvError) -> str:
    return getattr(error, "reason", None) or str(error)


def backend_of(array: Any, name: str | Backend | None = None) -> Backend:
    """The backend for an array that a user made: the named one, which must own it, or the best that does."""
    owners = []
    for candidate in [name] if name is not None else [os.environ.get("XCONV_BACKEND") or "auto", *NAMES]:
        if candidate == "auto":
            continue
        if candidate == "cupy" and isinstance(array, np.ndarray) and name is None:
            continue
        try:
            backend = get_backend(candidate)
        except BackendError:
            if name is not None:
                raise
            continue
        owner = backend.owner_of(array)
        if owner == backend.address:
            return backend
        if owner is not None and name is None:
            return get_backend(owner)  # on another device
        owners.append(backend.address)
    kind = f"{type(array).__module__}.{type(array).__qualname__}"
    raise BackendError(
        f"expected an array of backend {' or '.join(map(repr, owners))}; convert it with "
        f"xconv.get_backend({(owners or ['numpy'])[0]!r}).asarray(array). Received: {kind}"
    )
