"""Learning rates that change with the step: functions of the steps done so far, 0 for the first.

An optimizer takes one as its `lr`: ``Adam(schedules.WarmUp(500, schedules.CosineDecay(1e-3, 9500)))``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xconv import checks
from xconv.errors import ConfigError, described
from xconv.shapes import positive


class Schedule:
    """A learning rate by step. One of your own overrides `__call__`."""

    def __call__(self, step: int) -> float:
        """The rate of the step before which `step` steps were done."""
        raise NotImplementedError(f"{type(self).__name__}: no __call__")

    def config(self) -> dict[str, Any] | None:
        """Plain JSON that `get` makes the same schedule from; None for one of your own, which no file can make."""
        kind = type(self).__name__
        if CLASSES.get(kind) is not type(self):
            return None
        config: dict[str, Any] = {"kind": kind}
        for name, value in vars(self).items():
            config[name] = list(value) if isinstance(value, tuple) else value
            if isinstance(value, Schedule):
                config[name] = value.config()
                if config[name] is None:
                    return None
        return config

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """lr drop^floor(step / every): after each `every` steps the rate falls to its `drop`."""

    lr: float
    drop: float = 0.5
    every: int = 1000

    def __post_init__(self) -> None:
        self._set(
            lr=checks.number(self.lr, "StepDecay: lr", least=0.0),
            drop=checks.number(self.drop, "StepDecay: drop", least=0.0, most=1.0),
            every=positive(self.every, "StepDecay: every"),
        )

    def __call__(self, step: int) -> float:
        return self.lr * self.drop ** (step // self.every)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """final + (lr - final) (1 + cos(pi step / steps)) / 2, and `final` from `steps` on.

    Loshchilov and Hutter 2017 (SGDR, equation 5), without restarts.
    """

    lr: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        self._set(
            lr=checks.number(self.lr, "CosineDecay: lr", least=0.0),
            steps=positive(self.steps, "CosineDecay: steps"),
            final=checks.number(self.final, "CosineDecay: final", least=0.0),
        )

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0)
        return self.final + (self.lr - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """lr rate^(step / steps): every `steps` steps the rate has smoothly fallen to its `rate`."""

    lr: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        self._set(
            lr=checks.number(self.lr, "ExponentialDecay: lr", least=0.0),
            rate=checks.number(self.rate, "ExponentialDecay: rate", least=0.0, most=1.0),
            steps=positive(self.steps, "ExponentialDecay: steps"),
        )

    def __call__(self, step: int) -> float:
        return self.lr * self.rate ** (step / self.steps)


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """values[0] for the first boundaries[0] steps, then values[1] until boundaries[1] steps are done, and so on.

    Keras's PiecewiseConstantDecay keeps each value one step longer.
    """

    boundaries: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("boundaries", "values"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ConfigError(
                    f"PiecewiseConstant: {name} must be a list. Received: {described(getattr(self, name))}"
                )
        self._set(
            boundaries=tuple(positive(b, "PiecewiseConstant: each of boundaries") for b in self.boundaries),
            values=tuple(checks.number(v, "PiecewiseConstant: each of values", least=0.0) for v in self.values),
        )
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ConfigError(f"PiecewiseConstant: boundaries must rise. Received: {described(self.boundaries)}")
        if len(self.values) != len(self.boundaries) + 1:
            raise ConfigError(
                f"PiecewiseConstant: expected one value more than boundaries. Received: {len(self.values)} values, "
                f"{len(self.boundaries)} boundaries"
            )

    def __call__(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]


@dataclass(frozen=True)
class WarmUp(Schedule):
    """start + (then(0) - start) step / steps for the first `steps` steps, then `then`, its steps counted from there.

    `then` is a schedule or a number, which stays. Goyal et al. 2017 (section 2.2): large rates harm the first steps.
    """

    steps: int
    then: Schedule | float
    start: float = 0.0

    def __post_init__(self) -> None:
        then = self.then
        self._set(
            steps=positive(self.steps, "WarmUp: steps"),
            then=get(then)
            if isinstance(then, Schedule | Mapping)
            else checks.number(then, "WarmUp: then, if no schedule,", least=0.0),
            start=checks.number(self.start, "WarmUp: start", least=0.0),
        )

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.start + (self._then(0) - self.start) * (step / self.steps)
        return self._then(step - self.steps)

    def _then(self, step: int) -> float:
        return self.then(step) if isinstance(self.then, Schedule) else self.then


CLASSES: dict[str, Callable[..., Schedule]] = {
    kind.__name__: kind for kind in (StepDecay, CosineDecay, ExponentialDecay, PiecewiseConstant, WarmUp)
}


def get(spec: Mapping[str, Any] | Schedule) -> Schedule:
    """A schedule from its config, or itself."""
    return spec if isinstance(spec, Schedule) else checks.from_config(spec, CLASSES, "schedule")
