"""First values of parameters, drawn on the host in float64: every backend and dtype starts from the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from xconv.errors import ConfigError, described

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zero."""
    return np.zeros(shape)


def normal(std: float) -> Initializer:
    """Gaussian of mean 0 and the given standard deviation."""
    if isinstance(std, bool) or not isinstance(std, int | float | np.number) or not 0 <= std < math.inf:
        raise ConfigError(f"the standard deviation of initial weights must be >= 0. Received: {described(std)}")
    std = float(std)  # in float64, whatever NumPy scalar came
    return lambda rng, shape: rng.standard_normal(shape) * std


def he(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian of standard deviation sqrt(2 / fan in), which keeps the variance through ReLUs (He et al. 2015)."""
    return rng.standard_normal(shape) * math.sqrt(2.0 / fan_in(shape))


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs to one output: I of dense weights [I,O], C*KH*KW of convolution weights [F,C,KH,KW]."""
    return shape[0] if len(shape) == 2 else math.prod(shape[1:])


def get(spec: str | float | Initializer) -> Initializer:
    """An initializer from a standard deviation, "he", "zeros", or itself."""
    if callable(spec):
        return spec
    named = {"he": he, "zeros": zeros}
    if isinstance(spec, str):
        if spec not in named:
            raise ConfigError(
                f"unknown initializer: expected {', '.join(map(repr, named))} or a standard deviation. "
                f"Received: {described(spec)}"
            )
        return named[spec]
    return normal(spec)
