"""How kernels are compiled: lazily for each dtype in use, without the GIL, and kept on disk between runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit

# Sums may be reordered and a*b + c rounded once, which vector code needs. Not full fastmath: it assumes that there are
# no NaNs, and a NaN must win in pooling.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}

_warned = False


def _warn(reason: str) -> None:
    global _warned
    if not _warned:
        warnings.warn(
            f"compiled kernels are not kept on disk, so every start compiles anew: {reason}. "
            "Set NUMBA_CACHE_DIR to a folder that can be written.",
            RuntimeWarning,
            stacklevel=3,
        )
        _warned = True


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use. A cache that is unwritable or corrupt costs time and one warning, never an error."""
    try:
        dispatcher = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError as error:  # Numba found no folder to write to
        _warn(str(error))
        return njit(**_OPTIONS)(function)
    cache = getattr(dispatcher, "_cache", None)
    if hasattr(cache, "load_overload") and hasattr(cache, "save_overload"):
        _forgive(cache)
    return dispatcher


def _forgive(cache: Any) -> None:
    """Numba lets errors of a broken cache file out; recompiling and overwriting it is the cure."""
    load, save = cache.load_overload, cache.save_overload

    def load_overload(*args: Any) -> Any:
        try:
            return load(*args)
        except Exception as error:
            _warn(f"the cache cannot be read ({type(error).__name__}: {error})")
            with suppress(OSError):
                cache.flush()
            return None

    def save_overload(*args: Any) -> None:
        try:
            save(*args)
        except Exception as error:
            _warn(f"the cache cannot be written ({type(error).__name__}: {error})")

    cache.load_overload, cache.save_overload = load_overload, save_overload
