"""What watches a training run: the history, a progress bar, or anything of one's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm


class Callback:
    """Override what you want to hear of. `logs` holds floats by name."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Before the first step, after compilation."""

    def on_epoch_begin(self, epoch: int, images: int) -> None:
        """Before each epoch, counted from 1, of so many images."""

    def on_step_end(self, step: int, images: int, logs: dict[str, float]) -> None:
        """After a step; `logs` (loss and accuracy of the epoch so far) is filled on the steps that were read out."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After each epoch, counted from 1, its validation included."""

    def on_train_end(self) -> None:
        """After the last step, or when training stops early, by an error or Ctrl-C too."""


class History(Callback):
    """`history` maps each quantity to its value per epoch; `rows()` gives it epoch by epoch."""

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.compile_seconds = 0.0
        self.train_seconds = 0.0
        self.images = 0
        self.steps = 0

    @property
    def images_per_second(self) -> float:
        """Training images over the seconds spent in training steps: no compilation, no evaluation."""
        return self.images / self.train_seconds if self.train_seconds else math.nan

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for name, value in {"epoch": epoch, **logs}.items():
            self.history.setdefault(name, []).append(value)

    def rows(self) -> Iterator[dict[str, float]]:
        """One dict an epoch."""
        for values in zip(*self.history.values(), strict=True):
            yield dict(zip(self.history, values, strict=True))


class Progress(Callback):
    """A bar on stderr, or in the notebook, with loss, accuracy and images/s."""

    def __init__(self, **tqdm_settings: Any) -> None:
        self.settings = {
            "file": sys.stderr,
            "unit": "img",
            "unit_scale": True,
            "dynamic_ncols": True,
            **tqdm_settings,
        }
        self.bar: Any = None

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, images: int) -> None:
        self.bar = tqdm(total=images, desc=f"epoch {epoch}/{self.epochs}", **self.settings)

    def on_step_end(self, step: int, images: int, logs: dict[str, float]) -> None:
        if logs:
            self.bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()}, refresh=False)
        self.bar.update(images)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        shown = ("loss", "accuracy", "val_loss", "val_accuracy")
        self.bar.set_postfix({name: f"{logs[name]:.4f}" for name in shown if name in logs})
        self.bar.close()

    def on_train_end(self) -> None:
        if self.bar is not None:
            self.bar.close()
