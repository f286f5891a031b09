"""The loop of `fit`: epochs of shuffled batches, callbacks, validation, and the checks that stop a run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv import streams
from xconv.callbacks import Callback, History, Logs
from xconv.callbacks.progress import READ_EVERY, shown
from xconv.errors import ConfigError, DataError, NonFiniteError, described
from xconv.layers import BatchNormalization
from xconv.models.feed import Feed, feed
from xconv.models.step import Batch
from xconv.optimizers import Optimizer
from xconv.shapes import positive

if TYPE_CHECKING:
    from xconv.models.model import Model


class Fit:
    """One call of `fit`."""

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        *,
        batch_size: Any,
        epochs: Any,
        initial_epoch: Any,
        shuffle: bool,
        callbacks: Sequence[Callback],
        verbose: Any,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.epochs, self.batch_size = positive(epochs, "fit: epochs"), positive(batch_size, "fit: batch_size")
        self.initial_epoch = positive(initial_epoch, "fit: initial_epoch", least=0)
        if not isinstance(shuffle, bool):
            raise ConfigError(f"fit: shuffle must be True or False. Received: {described(shuffle)}")
        self.shuffle = shuffle
        callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"fit: callbacks: expected xconv callbacks. Received: {described(callback)}")
        bar = shown(verbose)
        self.history = History()
        self.watchers = [*callbacks, self.history, *([bar] if bar else [])]

    def __call__(
        self,
        xs: list[np.ndarray],
        ts: list[np.ndarray],
        weights: np.ndarray | None,
        validation_split: float,
        validation_data: Any,
    ) -> History:
        """Train, and give the history."""
        model = self.model
        xs, ts, weights, held_out = _split(xs, ts, weights, validation_split, validation_data)
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                raise ConfigError(f"fit: expected validation_data=(x, y). Received: {described(validation_data)}")
            vx = model._images(validation_data[0], "fit: validation x")
            held_out = vx, model._targets(validation_data[1], len(vx[0]), "fit: validation y")
        self._check_batches(len(xs[0]))
        model.history, model.stop_training = self.history, False
        self.history.compile_seconds = model.warm_up()
        n = len(xs[0])
        about: dict[str, Any] = {
            "epochs": self.epochs,
            "steps": -(-n // self.batch_size),
            "samples": n,
            "batch_size": self.batch_size,
        }
        names = model.log_names()
        about["metrics"] = names if held_out is None else [*names, *(f"val_{name}" for name in names)]
        for watcher in self.watchers:
            watcher.set_params(about)
            watcher.set_model(model)
        with _watched(self.watchers), model._guard.latched(model):
            for watcher in self.watchers:
                watcher.on_train_begin()
            batches: Feed | None = None
            for epoch in range(self.initial_epoch, self.epochs):
                for watcher in self.watchers:
                    watcher.on_epoch_begin(epoch)
                if batches is None or batches.backend is not model.backend:  # a callback may move the model
                    batches = feed(model, xs, ts, weights, self.batch_size)
                logs = self._epoch(epoch, batches, n)
                if held_out is not None:
                    measured = model._measured(*held_out)
                    logs |= {f"val_{name}": value for name, value in measured.items()}
                for watcher in self.watchers:
                    watcher.on_epoch_end(epoch, logs)
                if model.stop_training:
                    break
        return self.history

    def _check_batches(self, n: int) -> None:
        """DataError before the first step where some batch would be a single number for batch normalisation."""
        last = n % self.batch_size or self.batch_size
        if min(last, n, self.batch_size) > 1:
            return
        graph = self.model.graph
        for node in graph.nodes:
            layer = node.layer
            single = math.prod(graph.shapes[node.id]) == graph.shapes[node.id][0]  # one number for each channel
            if isinstance(layer, BatchNormalization) and layer.trainable and single:
                raise DataError(
                    f"fit: {layer.label}: one value for each channel has no variance to train on; give another "
                    f"batch_size. Received: {n} examples in batches of {self.batch_size}, the last of {last}"
                )

    def _epoch(self, epoch: int, batches: Feed, n: int) -> dict[str, float]:
        """The epoch of that number, counted from 0, on n examples; what it measured."""
        model = self.model
        backend, names = model.backend, model.log_names()
        # Streams count epochs from 1.
        batches.start(streams.permutation(model.seed, epoch + 1, n) if self.shuffle else np.arange(n))
        with backend.running():
            model.totals.fill(0.0)  # on the device: sums over the epoch so far
        self.seen = 0

        def read() -> dict[str, float]:
            sums = model.backend.to_numpy(model.totals)
            return dict(zip(names, (sums / self.seen).tolist(), strict=True))

        recording, start = model.recording_seconds, time.perf_counter()
        last_read = start
        given: Batch | None = None
        logs: Mapping[str, float] = {}
        for batch, first in enumerate(range(0, n, self.batch_size)):
            for watcher in self.watchers:
                watcher.on_train_batch_begin(batch)
            count = min(self.batch_size, n - first)
            given = batches.batch(first, count, model.room(given, count))
            model.train_step(*given)
            self.seen += count
            self.history.steps += 1
            logs = Logs(read)
            for watcher in self.watchers:
                watcher.on_train_batch_end(batch, logs)
            ended = self.seen == n or model.stop_training
            if ended or time.perf_counter() - last_read > READ_EVERY:
                if not math.isfinite(logs["loss"]) and not model.stop_training:
                    step = batch + 2 - model._guard.settle(model)  # counted from 1
                    raise NonFiniteError(
                        f"the loss became {logs['loss']} in epoch {epoch + 1}, step {step} of batches of "
                        f"{self.batch_size}, and the model is as it was before that step; try a smaller learning rate. "
                        f"Received: {self.optimizer!r}"
                    )
                last_read = time.perf_counter()
            if ended:
                break
        recording = model.recording_seconds - recording
        self.history.compile_seconds += recording
        self.history.trained(self.seen, time.perf_counter() - start - recording)
        last_loss = logs["loss"]
        with backend.running():
            model.warn_if_dead(model._public_of(model._grads), last_loss)
        return dict(logs)


def _split(
    xs: list[np.ndarray], ts: list[np.ndarray], weights: np.ndarray | None, split: Any, validation_data: Any
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None, tuple[list[np.ndarray], list[np.ndarray]] | None]:
    """The last `split` of the examples put aside, as Keras does: before any shuffling."""
    if isinstance(split, bool) or not isinstance(split, int | float) or not 0 <= split < 1:
        raise ConfigError(f"fit: validation_split must be from 0 to below 1. Received: {described(split)}")
    if not split or validation_data is not None:
        return xs, ts, weights, None
    n = len(xs[0])
    kept = int(n * (1.0 - split))
    if not 0 < kept < n:
        raise ConfigError(f"fit: validation_split leaves {kept} of {n} examples to train on. Received: {split}")
    aside = [x[kept:] for x in xs], [t[kept:] for t in ts]
    return [x[:kept] for x in xs], [t[:kept] for t in ts], None if weights is None else weights[:kept], aside


@contextmanager
def _watched(callbacks: Sequence[Callback]) -> Iterator[None]:
    """on_train_end for each callback, whatever happens to the others or to the training."""
    with ExitStack() as stack:
        for callback in reversed(callbacks):
            stack.callback(callback.on_train_end)
        yield
