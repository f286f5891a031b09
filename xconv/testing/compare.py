"""How results are compared, and the gradient that is found by differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Largest difference over the largest entry of the reference.
TOLERANCES = {"float32": 2e-5, "float64": 1e-11}
STEP = 1e-5  # of the numerical gradient


def close(got: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Shape, NaNs, and the largest difference over the largest entry of what is expected."""
    check(got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}")
    check(np.array_equal(np.isnan(got), np.isnan(expected)), f"{what}: NaN in other places")
    there = ~np.isnan(expected)
    scale = max(np.abs(expected[there]).max(initial=0.0), 1e-30)
    far = np.abs(got[there].astype(np.float64) - expected[there]).max(initial=0.0) / scale
    check(far <= tolerance, f"{what}: off by {far:.3g} of the largest entry, allowed {tolerance:g}")


def check(condition: bool, message: str) -> None:
    """AssertionError with the message unless the condition holds, python -O or not."""
    if not condition:
        raise AssertionError(message)


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = STEP) -> np.ndarray:
    """(f(x + h) - f(x - h)) / 2h for each entry of x."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        above = f(x)
        x[i] = kept - h
        gradient[i] = (above - f(x)) / (2 * h)
        x[i] = kept
    return gradient
