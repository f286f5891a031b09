"""Callbacks of `xconv train`: a bar on a terminal, else a line an epoch; and the brake for Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from tqdm import tqdm

from xconv.callbacks import Callback
from xconv.cli.console import notice


class Bar(Callback):
    """One progress bar on stderr an epoch, with images/s, loss and accuracy: 80 columns hold it.

    images/s counts training steps alone, as in the final table.
    """

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs = epochs
        self.bar: Any = None

    def on_epoch_begin(self, epoch: int, images: int) -> None:
        width = len(str(self.epochs))
        self.bar = tqdm(
            total=images,
            desc=f"epoch {epoch:>{width}}/{self.epochs}",
            bar_format="{desc} |{bar}|",
            file=sys.stderr,
            dynamic_ncols=True,
        )
        self.start = time.perf_counter()

    def on_step_end(self, step: int, images: int, logs: dict[str, float]) -> None:
        if logs:
            self._say(logs, (self.bar.n + images) / (time.perf_counter() - self.start))
        self.bar.update(images)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._say(logs, logs["images_per_second"])
        self.bar.close()

    def _say(self, logs: dict[str, float], rate: float) -> None:
        test = f"  test {logs['val_accuracy']:.4f}" if "val_accuracy" in logs else ""
        text = f"{tqdm.format_sizeof(rate)} images/s  loss {logs['loss']:.4f}  acc {logs['accuracy']:.4f}{test}"
        self.bar.bar_format = "{desc} |{bar}| " + text

    def on_train_end(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Lines(Callback):
    """One line on stderr an epoch, for logs."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        notice(
            f"epoch {epoch}/{self.epochs}: loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}; "
            f"test loss {logs['val_loss']:.4f}, accuracy {logs['val_accuracy']:.4f}; "
            f"{logs['images_per_second']:,.0f} images/s"
        )


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an Exception, so that nothing takes it for an error; `code` is the exit code."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


class Brake(Callback):
    """Makes Ctrl-C and SIGTERM raise Stopped: between two steps while training, else, or when asked twice, at once."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._training = False
        self._before: dict[int, Any] = {}
        self.epoch = self.step = 0

    def __enter__(self) -> Brake:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._training and self._asked is None:
            self._asked = signum
        else:
            raise Stopped(signum)

    def _stop_if_asked(self) -> None:
        if self._asked is not None:
            raise Stopped(self._asked)

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self._training = True

    def on_epoch_begin(self, epoch: int, images: int) -> None:
        self.epoch = epoch

    def on_step_end(self, step: int, images: int, logs: dict[str, float]) -> None:
        self.step = step
        self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._stop_if_asked()

    def on_train_end(self) -> None:
        self._training = False
