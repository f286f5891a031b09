"""What watches a training run: the callback with Keras's hooks, and the history that fit returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Logs(Mapping[str, float]):
    """Loss and metrics of the epoch so far, by name. They are read from the device when somebody looks."""

    def __init__(self, read: Callable[[], dict[str, float]]) -> None:
        self._read = read
        self._values: dict[str, float] | None = None

    def _now(self) -> dict[str, float]:
        if self._values is None:
            self._values = self._read()
        return self._values

    def __getitem__(self, name: str) -> float:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __bool__(self) -> bool:
        return True  # there is always a loss; to ask, as in Keras's `logs or {}`, must not wait for the device

    def __repr__(self) -> str:
        return repr(self._now())


class Callback:
    """Override what you want to hear of; hooks and arguments are Keras's.

    Epochs and batches count from 0. `logs` maps loss, metrics and, at an epoch's end, val_loss and so on to floats; a
    callback may add entries at an epoch's end, and the history keeps them. `self.model` is the model that trains,
    `self.params` holds epochs, steps (batches in an epoch), samples (examples in an epoch), batch_size and metrics.
    ``self.model.stop_training = True`` ends training after the present batch.
    """

    model: Any = None
    params: dict[str, Any]

    def set_model(self, model: Any) -> None:
        """Called before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before training."""
        self.params = params

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Before the first step, after compilation."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Before each epoch."""

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Before each training step; the learning rate may still be changed for it."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """After each training step. Looking into `logs` waits for the device: on a GPU, do it now and then only."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """After each epoch, its validation included."""

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """After the last step, or when training stops early, by an error or Ctrl-C too."""


class LambdaCallback(Callback):
    """Functions in place of hooks: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs))``."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        from xconv.errors import ConfigError

        known = [name for name in vars(Callback) if name.startswith("on_")]
        unknown = [name for name in hooks if name not in known]
        if unknown:
            raise ConfigError(f"LambdaCallback: expected hooks among {', '.join(known)}. Received: {unknown[0]!r}")
        for name, hook in hooks.items():
            setattr(self, name, hook)


class History(Callback):
    """`history` maps each quantity to its values, one an epoch, which `epoch` counts from 0; `rows()` goes by epoch.

    `seconds` of training steps and `rates` in images a second, one an epoch, count neither compilation nor evaluation.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.rates: list[float] = []
        self.compile_seconds = 0.0
        self.train_seconds = 0.0
        self.images = 0
        self.steps = 0

    def set_model(self, model: Any) -> None:
        """Keeps none: the model has its history, and takes its memory along when nobody else has it."""

    @property
    def images_per_second(self) -> float:
        """Training images over the seconds spent in training steps."""
        return self.images / self.train_seconds if self.train_seconds else math.nan

    def trained(self, images: int, seconds: float) -> None:
        """Count an epoch's training steps."""
        self.images += images
        self.train_seconds += seconds
        self.seconds.append(seconds)
        self.rates.append(images / seconds)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for name, value in (logs or {}).items():
            # A quantity that first comes later has NaN for the epochs without it.
            self.history.setdefault(name, [math.nan] * len(self.epoch)).append(value)
        self.epoch.append(epoch)
        for values in self.history.values():
            values.extend([math.nan] * (len(self.epoch) - len(values)))

    def rows(self) -> Iterator[dict[str, float]]:
        """One dict an epoch, which counts from 1, with "seconds" and "images_per_second"."""
        every = {**self.history}
        if self.seconds:
            every |= {"seconds": self.seconds, "images_per_second": self.rates}
        for i, epoch in enumerate(self.epoch):
            yield {"epoch": epoch + 1, **{name: values[i] for name, values in every.items()}}

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs{': ' if last else ''}{last}>"
