"""How kernels are compiled: lazily for each dtype in use, without the GIL, and kept on disk between runs.

They are kept in the user's cache folder and not, as Numba would, beside the source: pip does not know files that appear
there, and an uninstall that leaves them leaves a package `xconv` without code.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import platformdirs
from numba import types

try:
    from numba.core.caching import CompileResultCacheImpl, FunctionCache
except ImportError as error:  # not a promised part of Numba
    CompileResultCacheImpl = FunctionCache = object
    _no_cache = f"this version of Numba keeps them otherwise ({error})"
else:
    _no_cache = ""

# Sums may be reordered and a*b + c rounded once, which vector code needs. Not full fastmath: it assumes that there are
# no NaNs, and a NaN must win in pooling.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}

_USER = os.getuid() if hasattr(os, "getuid") else None
_warned = False


def _warn(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels are not kept on disk, so every start compiles anew: {reason}. "
            f"Set {'NUMBA' if numba.config.CACHE_DIR else 'XCONV'}_CACHE_DIR to a folder of yours that can be written.",
            RuntimeWarning,
            stacklevel=3,
        )


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first use. A cache that is unwritable or corrupt costs time and one warning, never an error."""
    dispatcher = numba.njit(**_OPTIONS | options)(function)
    if not hasattr(dispatcher, "_cache"):  # with NUMBA_DISABLE_JIT it is the function itself
        return dispatcher
    _compile_for_types_alone(dispatcher)
    try:
        if _no_cache:
            raise RuntimeError(_no_cache)
        dispatcher._cache = _Cache(function)
    except Exception as error:
        _warn(f"there is no place for them ({type(error).__name__}: {error})")
    return dispatcher


def _compile_for_types_alone(dispatcher: Any) -> None:
    """Numba would compile what another kernel calls once for each number it is given literally: f(x, 0), f(x, 1), .."""
    ask = getattr(dispatcher, "get_call_template", None)  # not a promised part of Numba

    def get_call_template(args: Any, kws: Any) -> Any:
        return ask([types.unliteral(a) for a in args], {name: types.unliteral(a) for name, a in kws.items()})

    if ask is not None:
        dispatcher.get_call_template = get_call_template


def jit_exactly(function: Callable[..., Any]) -> Any:
    """As `jit`, each product and sum of floats rounded by itself and in its place."""
    return jit(function, fastmath=False)


@functools.cache
def folder() -> Path:
    """Where these sources' kernels are: in $NUMBA_CACHE_DIR, else $XCONV_CACHE_DIR, else the system's cache folder.

    Each checkout, version of Numba and user has one there.
    """
    root = numba.config.CACHE_DIR or os.environ.get("XCONV_CACHE_DIR") or platformdirs.user_cache_dir("xconv")
    if root.startswith("~"):
        raise FileNotFoundError("this user has no home folder")
    whose = f"{Path(__file__).resolve().parent}|{numba.__version__}|{_USER}"
    return Path(root).absolute() / f"kernels-{hashlib.sha256(whose.encode()).hexdigest()[:16]}"


@functools.cache
def _stamp() -> str:
    """Of all our sources, since a kernel may hold another file's, inlined; kernels with an old stamp are not used."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class _Locator:
    """What Numba asks about the place of a function's cache."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(folder())

    def ensure_cache_path(self) -> None:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder()).close()

    def get_source_stamp(self) -> str:
        return _stamp()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _CacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's, that recompiles where Numba would let the errors of a broken or forbidden file out."""

    _impl_class = _CacheImpl

    def load_overload(self, *args: Any) -> Any:
        try:
            _check_owner()
            return super().load_overload(*args)
        except Exception as error:
            _warn(f"the cache cannot be read ({type(error).__name__}: {error})")
            with suppress(OSError):
                _check_owner()
                self.flush()  # what is saved next replaces what is broken
            return None

    def save_overload(self, *args: Any) -> None:
        try:
            _check_owner()
            super().save_overload(*args)
        except Exception as error:
            _warn(f"the cache cannot be written ({type(error).__name__}: {error})")


def _check_owner() -> None:
    """PermissionError where another user made our folder, as can be in a shared cache: what is in it may run code."""
    if _USER is not None and folder().exists() and folder().stat().st_uid != _USER:
        raise PermissionError(f"{folder()} belongs to another user")
