"""The brake of `xconv train`: Ctrl-C and SIGTERM end training between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from xconv.callbacks import Callback


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
        self.epoch = self.step = 0  # the present ones, from 1

    @property
    def place(self) -> str:
        """Where training is, or was stopped: "in epoch 3 after step 17"."""
        return f"in epoch {self.epoch} after step {self.step}"

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
        if self._training and self._asked is not None:
            self._training = False
            raise Stopped(self._asked)

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._stop_if_asked()  # not when the last epoch ended: callbacks that come after this one keep that epoch
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.step = batch + 1
        self._stop_if_asked()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._stop_if_asked()
        self._training = False
