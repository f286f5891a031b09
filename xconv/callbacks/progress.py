"""What training shows: a bar an epoch in a terminal or notebook, a line an epoch in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

from xconv.callbacks.base import Callback
from xconv.errors import ConfigError, described

READ_EVERY = 0.1  # seconds between looks at the device
_BAR = 6  # columns that the bar itself keeps, its ends among them


def in_words(logs: Mapping[str, float], room: float = math.inf) -> str:
    """ "loss 0.1234  accuracy 0.9876", in at most `room` columns where more than the loss is said.

    Where room lacks, "accuracy" becomes "acc"; then what matters least is left out: rates and losses of single
    outputs, the learning rate, val_loss (unless there are several outputs), and the later metrics.
    """
    said = [f"{name} {_figures(name, value)}" for name, value in logs.items()]
    if len("  ".join(said)) <= room:
        return "  ".join(said)
    said = [f"{name.replace('accuracy', 'acc')} {_figures(name, value)}" for name, value in logs.items()]
    names = list(logs)
    kept: list[int] = []
    for i in sorted(range(len(names)), key=lambda i: _importance(names[i], names)):
        if not kept or len("  ".join(said[j] for j in [*kept, i])) <= room:
            kept.append(i)
    return "  ".join(said[i] for i in sorted(kept))


def _importance(name: str, names: list[str]) -> tuple[int, int]:
    """The most important first: the loss, each metric and its validation, val_loss, outputs' losses, the rest.

    Of several outputs val_loss says more than any one metric.
    """
    base = name.removeprefix("val_")
    place = names.index(base) if base in names else len(names)
    if base == "learning_rate":
        return 5, place
    if base == "loss":
        several = any(other.endswith("_loss") and other != "val_loss" for other in names)
        return (0 if name == base else 1 if several else 3), place
    return (4 if base.endswith("_loss") else 2), place


def _figures(name: str, value: float) -> str:
    """Four decimals, so that columns stay in place, or three digits of what is too small or large for that."""
    if name == "learning_rate":
        return f"{value:.4g}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value) else f"{value:.2e}"


class ProgressBar(Callback):
    """One bar on stderr an epoch, or in the notebook, with images/s of training steps, loss and metrics.

    Where nobody knows how many images there are it goes by batches. A line never exceeds the terminal: see `in_words`.
    """

    bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        epochs = self.params["epochs"]
        self.bar = tqdm(
            total=self.params["samples"] or self.params["steps"],
            desc=f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}",
            bar_format="{desc} |{bar}|",
            file=sys.stderr,
            dynamic_ncols=True,
        )
        self.start = self.last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        size = min(self.params["batch_size"], self.bar.total - self.bar.n) if self.params["samples"] else 1
        now = time.perf_counter()
        if logs and now - self.last > READ_EVERY:
            self._say(logs, (self.bar.n + size) / (now - self.start))
            self.last = now
        self.bar.update(size)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            history = self.model.history
            self._say(logs, history.rates[-1] if self.params["samples"] else self.bar.n / history.seconds[-1])
        self.bar.close()

    def _say(self, logs: Mapping[str, float], rate: float) -> None:
        speed = f"{tqdm.format_sizeof(rate)} {'images' if self.params['samples'] else 'batches'}/s  "
        # Wide as it likes in a notebook, whose widget has no columns, and where nobody knows the width.
        columns = None if hasattr(self.bar, "container") else self.bar.format_dict["ncols"]
        room = columns - len(f"{self.bar.desc}  ") - _BAR if columns else math.inf
        text = speed + in_words(logs, room - len(speed))
        if len(text) > room:
            text = in_words(logs, room)
        self.bar.bar_format = "{desc} |{bar}| " + text.replace("{", "{{").replace("}", "}}")

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self.bar is not None:
            self.bar.close()


class EpochLines(Callback):
    """One line on stderr an epoch, for logs."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        rate = f"{self.model.history.rates[-1]:,.0f} images/s"
        print(f"epoch {epoch + 1}/{self.params['epochs']}: {in_words(logs)}  {rate}", file=sys.stderr, flush=True)


def shown(verbose: Any) -> Callback | None:
    """What `fit(verbose=...)` means: 0 nothing, 1 a bar, 2 lines, "auto" a bar where it can be watched, else lines."""
    if verbose == "auto":
        notebook = "ipykernel" in sys.modules
        verbose = 1 if notebook or sys.stderr.isatty() else 2
    if isinstance(verbose, str) or verbose not in (0, 1, 2):
        raise ConfigError(f"fit: verbose must be 0, 1, 2 or 'auto'. Received: {described(verbose)}")
    return (None, ProgressBar(), EpochLines())[int(verbose)]
