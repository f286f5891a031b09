"""A model that is none, for callbacks, and the run that `fit` would make of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from xconv import checkpoint
from xconv.callbacks import Logs


class Pretended:
    """What callbacks use of a model; its one weight is the number of the epoch it has trained, from 0."""

    def __init__(self, lr: float = 1.0) -> None:
        self.optimizer = SimpleNamespace(lr=lr)
        self.stop_training = False
        self.weight = np.full(1, -1.0)
        self.calls: list[str] = []

    def get_weights(self) -> list[np.ndarray]:
        return [self.weight.copy()]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        (self.weight,) = weights

    def save(self, path: str) -> None:
        self.calls.append("save")
        checkpoint.save(path, {"w": self.weight}, {})

    def save_weights(self, path: str) -> None:
        self.calls.append("save_weights")
        checkpoint.save(path, {"w": self.weight}, {})


def run(callbacks, values, name="val_loss", *, model=None, batches=1) -> tuple[int, list[dict[str, float]]]:
    """As `fit` would, values[epoch] being what logs[name] is. (epochs run, logs of each)."""
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    model = model or Pretended()
    model.stop_training = False
    seen = []
    for callback in callbacks:
        callback.set_params({"epochs": len(values), "steps": batches, "samples": 10, "batch_size": 5, "metrics": []})
        callback.set_model(model)
        callback.on_train_begin()
    for epoch, value in enumerate(values):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        for batch in range(batches):
            model.weight = np.full(1, float(epoch))
            for callback in callbacks:
                callback.on_train_batch_end(batch, Logs(lambda: {"loss": 0.5}))
        logs = {"loss": 0.5, name: value}
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        seen.append(logs)
        if model.stop_training:
            break
    for callback in callbacks:
        callback.on_train_end()
    return len(seen), seen
