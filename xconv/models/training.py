"""The loop of `fit`: epochs of shuffled batches, callbacks, validation, and the checks that stop a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.callbacks import Callback, History, Logs
from xconv.callbacks.progress import READ_EVERY, shown
from xconv.errors import ConfigError, DataError, NonFiniteError, described
from xconv.layers import BatchNormalization
from xconv.models.batches import Examples, Part, Stream, is_stream
from xconv.models.entry import Augmented
from xconv.models.feed import Feed, feed
from xconv.models.rescue import SMALLER, with_room
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
        epochs: Any,
        initial_epoch: Any,
        shuffle: bool,
        callbacks: Sequence[Callback],
        verbose: Any,
        validation_freq: Any,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.epochs = positive(epochs, "fit: epochs")
        self.initial_epoch = positive(initial_epoch, "fit: initial_epoch", least=0)
        if not isinstance(shuffle, bool):
            raise ConfigError(f"fit: shuffle must be True or False. Received: {described(shuffle)}")
        self._validates = _validated(validation_freq)
        self.shuffle = shuffle
        callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigError(f"fit: callbacks: expected xconv callbacks. Received: {described(callback)}")
        bar = shown(verbose)
        self.history = History()
        self.watchers = [*callbacks, self.history, *([bar] if bar else [])]

    def training_on(
        self, x: Any, y: Any, batch_size: Any, steps: Any, weights: Mapping[str, Any], augmentation: Any
    ) -> None:
        """What to train on: arguments of `fit`; `weights` are class_weight and sample_weight."""
        model = self.model
        self.batch_size: Any = None  # where somebody makes the batches
        if batch_size is not None or not is_stream(x):
            self.batch_size = positive(32 if batch_size is None else batch_size, "fit: batch_size")
        about: dict[str, Any] = {"batch_size": batch_size, "steps": steps, "names": ("batch_size", "steps_per_epoch")}
        self.data = model._labelled(x, y, "fit", **weights, **about, rounds=max(1, self.epochs - self.initial_epoch))
        self.augmented = None if augmentation is None else Augmented(model, augmentation)

    def validating_on(self, given: Any, split: Any, batch_size: Any, steps: Any) -> None:
        """What to measure on: arguments of `fit`."""
        self.held_out: Examples | Stream | None = None
        if batch_size is not None:
            positive(batch_size, "fit: validation_batch_size")
        self.validation_batch_size = batch_size
        self._split(split, given is None)
        if given is not None:
            labels: dict[str, Any] = {}
            if not is_stream(given):
                if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3:
                    raise ConfigError(
                        "fit: expected validation_data=(x, y) or (x, y, sample_weight), or what gives batches. "
                        f"Received: {described(given)}"
                    )
                given, labels["y"], *rest = given
                labels["sample_weight"] = rest[0] if rest else None
            rounds = sum(self._validates(epoch) for epoch in range(self.initial_epoch, self.epochs))
            self.held_out = self.model._labelled(
                given,
                labels.pop("y", None),
                "fit",
                "validation ",
                **labels,
                batch_size=batch_size,
                steps=steps,
                names=("validation_batch_size", "validation_steps"),
                rounds=rounds,
            )

    def _split(self, split: Any, used: bool) -> None:
        """Where it is `used`, the last `split` of the examples put aside, as Keras does: before any shuffling."""
        if isinstance(split, bool) or not isinstance(split, int | float) or not 0 <= split < 1:
            raise ConfigError(f"fit: validation_split must be from 0 to below 1. Received: {described(split)}")
        if not split:
            return
        if isinstance(self.data, Stream):
            raise ConfigError(
                "fit: validation_split is for arrays; of batches that somebody makes nobody knows the last: give "
                f"validation_data. Received: {split}"
            )
        if not used:
            return
        n = len(self.data)
        kept = int(n * (1.0 - split))
        if not 0 < kept < n:
            raise ConfigError(f"fit: validation_split leaves {kept} of {n} examples to train on. Received: {split}")
        self.data, aside = self.data.some(0, kept), self.data.some(kept, n)
        self.held_out = Examples(aside.xs, aside.ts, late=aside.late)  # weights are for training, as they always were

    def __call__(self) -> History:
        """Train, and give the history."""
        model, data, held_out = self.model, self.data, self.held_out
        steps = data.steps(self.batch_size)
        n = len(data) if isinstance(data, Examples) else 0
        self._single = self._one_number()
        if isinstance(data, Examples):
            last = n % self.batch_size or self.batch_size
            self._check_size(
                min(last, n, self.batch_size), f"{n} examples in batches of {self.batch_size}, the last of {last}"
            )
        model.history, model.stop_training = self.history, False
        self.history.compile_seconds = model.warm_up()
        about: dict[str, Any] = {
            "epochs": self.epochs,
            "steps": steps,
            "samples": n or None,
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
                    batches = feed(model, data, self.batch_size, self.shuffle, self.augmented)
                logs = self._epoch(epoch, batches, steps)
                if held_out is not None and self._validates(epoch):
                    measured = model._measured(held_out, self.validation_batch_size)
                    logs |= {f"val_{name}": value for name, value in measured.items()}
                    held_out.ended()
                data.ended()
                for watcher in self.watchers:
                    watcher.on_epoch_end(epoch, logs)
                if model.stop_training:
                    break
        return self.history

    def _one_number(self) -> str:
        """The layer that cannot train on a batch of one example, if there is one."""
        graph = self.model.graph
        for node in graph.nodes:
            layer = node.layer
            single = math.prod(graph.shapes[node.id]) == graph.shapes[node.id][0]  # one number for each channel
            if isinstance(layer, BatchNormalization) and layer.trainable and single:
                return layer.label
        return ""

    def _check_size(self, size: int, received: str) -> None:
        """DataError where batch normalisation would take the variance of a single number."""
        if size == 1 and self._single:
            raise DataError(
                f"fit: {self._single}: one value for each channel has no variance to train on; give another batch_size."
                f" Received: {received}"
            )

    def _epoch(self, epoch: int, batches: Feed, steps: int | None) -> dict[str, float]:
        """The epoch of that number, counted from 0; what it measured."""
        model = self.model
        backend, names = model.backend, model.log_names()
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
        with batches.epoch(epoch + 1) as parts:  # counted from 1, as by random streams
            for batch, (part, ended) in enumerate(_with_last(parts, steps)):
                if batches.data.late is not None:
                    batches.data.late.tell()
                self._check_size(part.size, f"a batch of one example, at step {batch + 1} of epoch {epoch + 1}")
                for watcher in self.watchers:
                    watcher.on_train_batch_begin(batch)
                make = partial(batches.batch, part, model.room(given, part.size))
                given = with_room(model, make, f"a batch of {part.size} examples", SMALLER)
                model.train_step(*given)
                self.seen += part.size
                self.history.steps += 1
                del part, make  # its memory is the next one's
                logs = Logs(read)
                for watcher in self.watchers:
                    watcher.on_train_batch_end(batch, logs)
                ended = ended or model.stop_training
                if ended or time.perf_counter() - last_read > READ_EVERY:
                    if not math.isfinite(logs["loss"]) and not model.stop_training:
                        self._not_finite(epoch, batch, logs["loss"])
                    last_read = time.perf_counter()
                if ended:
                    break
        recording = model.recording_seconds - recording
        self.history.compile_seconds += recording
        self.history.trained(self.seen, time.perf_counter() - start - recording)
        last_loss = logs["loss"]
        with suppress(MemoryError), backend.running():  # that would be no reason to stop
            model.warn_if_dead(model._public_of(model._grads), last_loss)
        return dict(logs)

    def _not_finite(self, epoch: int, batch: int, loss: float) -> None:
        step = batch + 2 - self.model._guard.settle(self.model)  # counted from 1
        of = "" if self.batch_size is None else f" of batches of {self.batch_size}"
        large = " (where a gradient overflows, the loss counts as nan)" if math.isnan(loss) else ""
        raise NonFiniteError(
            f"the loss became {loss} in epoch {epoch + 1}, step {step}{of}, and the model is as it was before that "
            f"step; try a smaller learning rate, or smaller numbers{large}. Received: {self.optimizer!r}"
        )


def _validated(freq: Any) -> Callable[[int], bool]:
    """Whether an epoch, counted from 0, is followed by validation."""
    if isinstance(freq, Collection) and all(isinstance(n, int | np.integer) for n in freq):
        return lambda epoch: epoch + 1 in freq
    every = positive(freq, "fit: validation_freq")
    return lambda epoch: (epoch + 1) % every == 0


def _with_last(parts: Iterator[Part], steps: int | None) -> Iterator[tuple[Part, bool]]:
    """Each part, and whether it is the last: of so many, or of all there are."""
    if steps is not None:
        for step, part in enumerate(parts, 1):
            yield part, step == steps
        return
    before = next(parts)
    for part in parts:
        yield before, False
        before = part
    yield before, True


@contextmanager
def _watched(callbacks: Sequence[Callback]) -> Iterator[None]:
    """on_train_end for each callback, whatever happens to the others or to the training."""
    with ExitStack() as stack:
        for callback in reversed(callbacks):
            stack.callback(callback.on_train_end)
        yield
