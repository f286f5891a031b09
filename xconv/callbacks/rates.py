"""Learning rates that change from epoch to epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from xconv.callbacks.base import Callback
from xconv.callbacks.monitored import Monitored, number, say
from xconv.errors import ConfigError, described
from xconv.shapes import positive


class LearningRateScheduler(Callback):
    """Before each epoch, counted from 0, sets the rate to ``schedule(epoch, lr)`` or ``schedule(epoch)``.

    The history gains "learning_rate", the rate of each epoch.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise ConfigError(
                f"LearningRateScheduler: expected a function (epoch, lr) -> lr. Received: {described(schedule)}"
            )
        self.schedule, self.verbose = schedule, verbose
        self._takes_rate = _takes_two(schedule)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        optimizer = self.model.optimizer
        lr = self.schedule(epoch, optimizer.lr) if self._takes_rate else self.schedule(epoch)
        optimizer.lr = number(lr, f"LearningRateScheduler: the schedule's rate for epoch {epoch}", least=0.0)
        if self.verbose:
            say(f"epoch {epoch + 1}: learning rate {optimizer.lr:g}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.lr


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether it can be called with two positional arguments."""
    try:
        inspect.signature(function).bind(0, 0.0)
    except (TypeError, ValueError):  # ValueError: builtins without a signature, such as a list's __getitem__
        return False
    return True


class ReduceLROnPlateau(Monitored):
    """Multiplies the learning rate by `factor` when `monitor` has not improved for `patience` epochs, as Keras 3 does.

    An epoch improves when it is better than the best so far by more than `min_delta`. After a reduction `cooldown`
    epochs pass before epochs are counted again; the rate never falls below `min_lr`. The history gains
    "learning_rate", the rate of each epoch.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = number(factor, "ReduceLROnPlateau: factor", least=0.0, below=1.0)
        self.patience = positive(patience, "ReduceLROnPlateau: patience", least=0)
        self.verbose = verbose
        self.cooldown = positive(cooldown, "ReduceLROnPlateau: cooldown", least=0)
        self.min_lr = number(min_lr, "ReduceLROnPlateau: min_lr", least=0.0)
        self.on_train_begin()

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.best = self.worst
        self.wait = self.cooling = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        optimizer = self.model.optimizer
        lr = optimizer.lr
        if logs is not None:
            logs["learning_rate"] = lr
        if self.left_out(logs):
            return
        current = self.monitored(logs)
        if self.cooling:
            self.cooling -= 1
        if self.better(current, self.best):
            self.best = current
            self.wait = 0
        elif not self.cooling:
            self.wait += 1
            if self.wait >= self.patience and lr > self.min_lr:
                optimizer.lr = max(lr * self.factor, self.min_lr)
                self.cooling, self.wait = self.cooldown, 0
                if self.verbose:
                    say(f"epoch {epoch + 1}: learning rate reduced to {optimizer.lr:g}")
