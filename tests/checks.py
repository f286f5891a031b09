"""Comparing arrays of any backend with a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.tolerances import TOLERANCES
from xconv.backend import Backend


def close(backend: Backend, got: Any, expected: np.ndarray, kind: str, what: str = "", *, scale: float = 0.0) -> None:
    """Shape, NaNs, and max|difference| over the largest entry of the reference.

    `scale`, where larger, is the size of what was added up: terms that cancel leave a small sum with their errors.
    """
    assert isinstance(got, backend.array_type), what
    dtype = got.dtype.name
    got = backend.to_numpy(got)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    assert np.array_equal(np.isnan(got), np.isnan(expected)), f"{what}: NaN in other places"
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite & ~np.isnan(got)], expected[~finite & ~np.isnan(expected)]), f"{what}: infinities"
    scale = max(scale, np.abs(expected[finite]).max(initial=0.0))
    far = np.abs(got[finite].astype(np.float64) - expected[finite]).max(initial=0.0)
    limit = TOLERANCES[kind, dtype if dtype in ("float32", "float64") else "float64"]
    assert far <= limit * scale, f"{what}: {far / scale if scale else far:.3g} of the largest entry, allowed {limit:g}"


def draw(*shape: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
