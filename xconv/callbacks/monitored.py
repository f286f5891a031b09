"""What the callbacks that watch one quantity share: which way is better, and by how much."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from xconv.callbacks.base import Callback
from xconv.errors import ConfigError, described


def number(value: Any, what: str, least: float = -math.inf, below: float = math.inf) -> float:
    """`value` as a finite float in [least, below)."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value < below:
        limits = [f">= {least:g}"] if math.isfinite(least) else []
        limits += [f"below {below:g}"] if math.isfinite(below) else []
        raise ConfigError(f"{what} must be a finite number {' and '.join(limits)}. Received: {described(value)}")
    return float(value)


def say(text: str) -> None:
    """One line on stderr, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stderr)


class Monitored(Callback):
    """A callback that compares logs[monitor] with its best value so far.

    `mode` is "min", "max", or "auto": "max" for names with "acc" in them, else "min". A value is better than another
    when it is smaller (larger) by more than `min_delta`; NaN is better than nothing.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.what = type(self).__name__
        if not isinstance(monitor, str):
            raise ConfigError(f"{self.what}: monitor must be a name such as 'val_loss'. Received: {described(monitor)}")
        if mode not in ("auto", "min", "max"):
            raise ConfigError(f"{self.what}: mode must be 'auto', 'min' or 'max'. Received: {described(mode)}")
        self.monitor = monitor
        self.mode = mode if mode != "auto" else "max" if "acc" in monitor else "min"
        self.min_delta = number(min_delta, f"{self.what}: min_delta", least=0.0)
        self.best = self.worst

    @property
    def worst(self) -> float:
        """What every finite value is better than."""
        return math.inf if self.mode == "min" else -math.inf

    def better(self, value: float, than: float) -> bool:
        """Whether `value` improves on `than`."""
        return value + self.min_delta < than if self.mode == "min" else value - self.min_delta > than

    def left_out(self, logs: Mapping[str, float] | None) -> bool:
        """Whether the quantity is measured in this run, but was not after this epoch: see fit's `validation_freq`."""
        return self.monitor in getattr(self, "params", {}).get("metrics", ()) and self.monitor not in (logs or {})

    def monitored(self, logs: Mapping[str, float] | None) -> float:
        """The quantity's value, or ConfigError that lists what there is."""
        logs = logs or {}
        if self.monitor not in logs:
            needs = "; val_ quantities need validation data in fit" if self.monitor.startswith("val_") else ""
            raise ConfigError(
                f"{self.what}: expected monitor among {', '.join(map(repr, logs)) or 'nothing'}{needs}. "
                f"Received: {self.monitor!r}"
            )
        return logs[self.monitor]
