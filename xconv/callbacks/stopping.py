"""Ending training before its last epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from xconv.callbacks.base import Callback
from xconv.callbacks.monitored import Monitored, number, say
from xconv.shapes import positive


class EarlyStopping(Monitored):
    """Stops when `monitor` has not improved for `patience` epochs; semantics as in Keras 3.

    An epoch improves when it is better, by more than `min_delta`, than the best epoch so far and than `baseline`. With
    `restore_best_weights` the model ends with the weights of the best epoch, whether or not that beat the baseline and
    however training ended. The first `start_from_epoch` epochs are not looked at. Afterwards `best` and `best_epoch`
    (from 0) tell of the best epoch, and `stopped_epoch` of the last one where it stopped training, else it is 0.
    """

    best_weights: list[np.ndarray] | None

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, abs(number(min_delta, "EarlyStopping: min_delta")))
        self.patience = positive(patience, "EarlyStopping: patience", least=0)
        self.verbose = verbose
        self.baseline = None if baseline is None else number(baseline, "EarlyStopping: baseline")
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = positive(start_from_epoch, "EarlyStopping: start_from_epoch", least=0)
        self.on_train_begin()

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.best, self.best_epoch, self.best_weights = self.worst, 0, None
        self.wait = self.stopped_epoch = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.left_out(logs):
            return
        current = self.monitored(logs)
        if epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)  # NaN improves on nothing, yet there must be something to go back to
        self.wait += 1
        if self.better(current, self.best):
            self.best = current
            self._keep(epoch)
            if self.baseline is None or self.better(current, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            say(f"epoch {self.stopped_epoch + 1}: stopping early; the best was epoch {self.best_epoch + 1}")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            self.best_weights = None


class TerminateOnNaN(Callback):
    """Stops training, without an error, at a step whose loss is NaN or infinite; the model is as it was before.

    Without it `fit` raises NonFiniteError, and looks at the loss now and then; this looks after every step, for which a
    GPU must be waited for. Either way no step from that one on changes the model.
    """

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            say(f"batch {batch + 1}: the loss became {loss}; training stops")
            self.model.stop_training = True
