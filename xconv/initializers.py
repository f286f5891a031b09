"""First values of parameters, drawn on the host in float64: every backend and dtype starts from the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xconv import checks
from xconv.errors import ConfigError, described

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zero."""
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All one."""
    return np.ones(shape)


@dataclass(frozen=True)
class Constant:
    """All `value`."""

    value: float

    def __post_init__(self) -> None:
        _set(self, value=checks.number(self.value, "Constant: value"))

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class RandomNormal:
    """Gaussian of the given mean and standard deviation."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        _set(
            self,
            mean=checks.number(self.mean, "RandomNormal: mean"),
            stddev=checks.number(self.stddev, "RandomNormal: stddev", least=0.0),
        )

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        drawn = rng.standard_normal(shape) * self.stddev
        return drawn + self.mean if self.mean else drawn


@dataclass(frozen=True)
class RandomUniform:
    """Even from `minval` to `maxval`."""

    minval: float = -0.05
    maxval: float = 0.05

    def __post_init__(self) -> None:
        _set(
            self,
            minval=checks.number(self.minval, "RandomUniform: minval"),
            maxval=checks.number(self.maxval, "RandomUniform: maxval"),
        )
        if self.minval > self.maxval:
            raise ConfigError(
                f"RandomUniform: minval must not be above maxval. Received: {self.minval:g}, {self.maxval:g}"
            )

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.minval + (self.maxval - self.minval) * rng.random(shape)


@dataclass(frozen=True)
class VarianceScaling:
    """Mean 0 and variance scale / fan, so that signals neither grow nor fade from layer to layer.

    `mode` says which fan: "fan_in", "fan_out" or "fan_avg", their mean (see `fans`). `distribution` is "normal", a
    Gaussian of standard deviation sqrt(scale / fan), or "uniform", even within +-sqrt(3 scale / fan). The Gaussian is
    whole, as PyTorch's is. Keras cuts its "truncated_normal" off at two standard deviations (and widens it to keep the
    variance): it never draws the rare large weight that this one does.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "normal"

    def __post_init__(self) -> None:
        _set(self, scale=checks.number(self.scale, "VarianceScaling: scale", least=0.0))
        for name, value, known in (
            ("mode", self.mode, ("fan_in", "fan_out", "fan_avg")),
            ("distribution", self.distribution, ("normal", "uniform")),
        ):
            if value not in known:
                raise ConfigError(
                    f"VarianceScaling: {name} must be one of {', '.join(map(repr, known))}. "
                    f"Received: {described(value)}"
                )

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        inputs, outputs = fans(shape)
        fan = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[self.mode]
        if self.distribution == "normal":
            return rng.standard_normal(shape) * math.sqrt(self.scale / fan)
        limit = math.sqrt(3.0 * self.scale / fan)
        return limit * (2.0 * rng.random(shape) - 1.0)


def _set(frozen: Any, **values: float) -> None:
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out): how many inputs one output sees, and how many outputs one input feeds.

    (I, O) of dense weights [I,O]; (C*KH*KW, F*KH*KW) of convolution weights [F,C,KH,KW], where C is the channels of one
    group. A vector counts its own length for both, as in Keras.
    """
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    return math.prod(shape[1:]), shape[0] * math.prod(shape[2:])


glorot_uniform = VarianceScaling(1.0, "fan_avg", "uniform")  # Glorot and Bengio 2010
glorot_normal = VarianceScaling(1.0, "fan_avg", "normal")
he_uniform = VarianceScaling(2.0, "fan_in", "uniform")  # He et al. 2015: keeps the variance through ReLUs
he_normal = he = VarianceScaling(2.0, "fan_in", "normal")
lecun_uniform = VarianceScaling(1.0, "fan_in", "uniform")  # LeCun et al. 1998, Efficient BackProp, section 4.6
lecun_normal = VarianceScaling(1.0, "fan_in", "normal")

NAMED: dict[str, Initializer] = {
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
    "he": he,
    "lecun_uniform": lecun_uniform,
    "lecun_normal": lecun_normal,
    "zeros": zeros,
    "ones": ones,
}
_CLASS_NAMES = {name.replace("_", ""): name for name in NAMED}  # "HeNormal" in lower case: "he_normal"
CLASSES: dict[str, type] = {kind.__name__: kind for kind in (Constant, RandomNormal, RandomUniform, VarianceScaling)}


# Keras's classes, as functions: the seed is the model's, and there is nothing else to set.


def GlorotUniform() -> Initializer:
    """`glorot_uniform`, by the name of Keras's class."""
    return glorot_uniform


def GlorotNormal() -> Initializer:
    """`glorot_normal`, by the name of Keras's class."""
    return glorot_normal


def HeUniform() -> Initializer:
    """`he_uniform`, by the name of Keras's class."""
    return he_uniform


def HeNormal() -> Initializer:
    """`he_normal`, by the name of Keras's class."""
    return he_normal


def LecunUniform() -> Initializer:
    """`lecun_uniform`, by the name of Keras's class."""
    return lecun_uniform


def LecunNormal() -> Initializer:
    """`lecun_normal`, by the name of Keras's class."""
    return lecun_normal


def Zeros() -> Initializer:
    """`zeros`, by the name of Keras's class."""
    return zeros


def Ones() -> Initializer:
    """`ones`, by the name of Keras's class."""
    return ones


_MAKERS = (GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal, Zeros, Ones)


def normal(std: float) -> RandomNormal:
    """Gaussian of mean 0 and the given standard deviation."""
    if isinstance(std, bool) or not isinstance(std, int | float | np.number) or not 0 <= std < math.inf:
        raise ConfigError(f"the standard deviation of initial weights must be >= 0. Received: {described(std)}")
    return RandomNormal(0.0, float(std))


def get(spec: str | float | Mapping[str, Any] | Initializer) -> Initializer:
    """An initializer from its name ("he_normal", "HeNormal"), a standard deviation, what `config_of` gives, or itself.

    A function of your own is called as f(rng, shape) and gives an array of that shape.
    """
    if isinstance(spec, type) or any(spec is maker for maker in _MAKERS):
        raise ConfigError(
            f"initializer: expected an instance, as {spec.__name__}(...), not the class. "  # type: ignore[union-attr]
            f"Received: {described(spec)}"
        )
    if callable(spec):
        return spec
    if isinstance(spec, Mapping):
        return checks.from_config(spec, CLASSES, "initializer")
    if isinstance(spec, str):
        name = _CLASS_NAMES.get(spec.lower(), spec.lower())
        if name not in NAMED:
            raise ConfigError(
                f"unknown initializer: expected {', '.join(map(repr, NAMED))} or a standard deviation. "
                f"Received: {described(spec)}"
            )
        return NAMED[name]
    return normal(spec)


def config_of(initializer: Initializer) -> str | dict[str, Any] | None:
    """What `get` makes the same initializer from, as plain JSON; None for a function of the user's own."""
    for name, known in NAMED.items():
        if initializer is known or (isinstance(known, VarianceScaling) and initializer == known):
            return name
    kind = type(initializer).__name__
    if CLASSES.get(kind) is not type(initializer):
        return None
    return {"kind": kind, **asdict(initializer)}  # type: ignore[call-overload]  # a dataclass, by the table
