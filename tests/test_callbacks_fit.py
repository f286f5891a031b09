"""Callbacks in real fits, on every backend: when they are called, and what they make of the model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import xconv
from xconv.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from xconv.errors import ConfigError, NonFiniteError
from xconv.layers import Dense
from xconv.optimizers import SGD

HOOKS = [name for name in dir(Callback) if name.startswith("on_")]


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """25 examples of two classes."""
    x = np.random.default_rng(0).standard_normal((25, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


@pytest.fixture
def net(backend) -> xconv.Sequential:
    layers = [Dense(3, activation="relu"), Dense(2, activation="softmax")]
    model = xconv.Sequential(layers, input_shape=(4,), backend=backend, seed=1)
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def pretend(**quantities: list[float]) -> Callback:
    """Puts these into the logs, one value an epoch."""
    return LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update({name: values[epoch] for name, values in quantities.items()})
    )


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_hooks_in_their_order(net, data):
    seen: list[tuple] = []
    watch = LambdaCallback(**{h: lambda *args, h=h: seen.append((h, *args[:1])) for h in HOOKS})
    net.fit(*data, batch_size=10, epochs=2, verbose=0, validation_split=0.2, callbacks=watch)
    steps = [(f"on_train_batch_{when}", batch) for batch in (0, 1) for when in ("begin", "end")]
    epochs = [[("on_epoch_begin", epoch), *steps, ("on_epoch_end", epoch)] for epoch in (0, 1)]
    assert seen == [("on_train_begin",), *epochs[0], *epochs[1], ("on_train_end",)]
    assert watch.model is net
    assert watch.params == {
        "epochs": 2,
        "steps": 2,
        "samples": 20,
        "batch_size": 10,
        "metrics": ["loss", "accuracy", "val_loss", "val_accuracy"],
    }


def test_logs_are_means_of_the_epoch_so_far(net, data):
    losses, at_end = [], []
    watch = LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]),
        on_epoch_end=lambda epoch, logs: at_end.append(logs),
    )
    net.compile(SGD(0.0))  # a model that stays as it is
    x, t = data
    net.fit(x, t, batch_size=10, verbose=0, shuffle=False, callbacks=[watch], validation_data=(x[:5], t[:5]))
    expected = [net.loss(x[:n], t[:n]) for n in (10, 20, 25)]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert list(at_end[0]) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert at_end[0]["loss"] == losses[-1] and at_end[0]["val_loss"] == pytest.approx(net.loss(x[:5], t[:5]), rel=1e-5)


def test_the_history_keeps_times_apart_from_what_was_measured(net, data):
    history = net.fit(*data, batch_size=10, epochs=3, verbose=0)
    assert list(history.history) == ["loss", "accuracy"]
    assert sum(history.seconds) == pytest.approx(history.train_seconds) and min(history.seconds) > 0
    assert history.rates == [len(data[0]) / seconds for seconds in history.seconds] and len(history.rates) == 3
    rows = list(history.rows())
    assert [list(row) for row in rows] == [["epoch", "loss", "accuracy", "seconds", "images_per_second"]] * 3
    assert [row["seconds"] for row in rows] == history.seconds
    assert [row["images_per_second"] for row in rows] == history.rates


def test_early_stopping_gives_the_best_weights_back(net, data):
    weights = []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(net.get_weights()))
    stopping = EarlyStopping("quality", mode="max", patience=2, restore_best_weights=True)
    callbacks = [pretend(quality=[0.1, 0.5, 0.4, 0.3, 0.9]), keep, stopping]
    history = net.fit(*data, epochs=5, verbose=0, callbacks=callbacks)
    assert history.epoch == [0, 1, 2, 3] and history.history["quality"] == [0.1, 0.5, 0.4, 0.3]
    assert same(net.get_weights(), weights[1]) and not same(weights[1], weights[3])


def test_the_best_file_holds_the_best_model(net, data, tmp_path):
    x, t = data
    said = []
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: said.append(net.predict(x)))
    path = tmp_path / "best.safetensors"
    pretended = pretend(val_loss=[0.5, 0.3, 0.4])
    net.fit(x, t, epochs=3, verbose=0, callbacks=[pretended, keep, ModelCheckpoint(path, save_best_only=True)])
    assert np.array_equal(xconv.load(path, backend=net.backend).predict(x), said[1])
    assert not np.array_equal(said[1], said[2])


def test_rates_reach_the_steps(net, data, tmp_path):
    weights = [net.get_weights()]
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(net.get_weights()))
    log = CSVLogger(tmp_path / "log.csv")
    rates = [0.0, 0.1, 0.0]
    history = net.fit(*data, epochs=3, verbose=0, callbacks=[LearningRateScheduler(rates.__getitem__), keep, log])
    assert history.history["learning_rate"] == rates
    assert [same(a, b) for a, b in itertools.pairwise(weights)] == [True, False, True]
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "epoch,accuracy,learning_rate,loss"
    assert [row.split(",")[2] for row in rows] == ["0.0", "0.1", "0.0"]


def test_a_plateau_reduces_the_rate(net, data):
    callbacks = [pretend(val_loss=[1.0] * 4), ReduceLROnPlateau(factor=0.5, patience=1)]
    history = net.fit(*data, epochs=4, verbose=0, callbacks=callbacks)
    assert history.history["learning_rate"] == [0.1, 0.1, 0.05, 0.025]
    assert net.optimizer.lr == 0.0125


@pytest.mark.filterwarnings("ignore::xconv.errors.DeadNetworkWarning")  # ReLU may turn NaN into 0, which looks dead
def test_a_loss_that_is_not_finite(net, data, capsys):
    net.compile(SGD(1e30))
    with np.errstate(all="ignore"):
        with pytest.raises(NonFiniteError):
            net.fit(*data, epochs=3, batch_size=5, verbose=0)
        history = net.fit(*data, epochs=3, batch_size=5, verbose=0, callbacks=[TerminateOnNaN()])
    assert history.epoch == [0] and not np.isfinite(history.history["loss"][0]) and history.steps < 5
    assert "training stops" in capsys.readouterr().err


def test_stopped_within_an_epoch(net, data):
    ended = []

    class Enough(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

        def on_train_end(self, logs=None):
            ended.append(True)

    history = net.fit(*data, epochs=3, batch_size=5, verbose=0, callbacks=[Enough()])
    assert (history.steps, history.images, history.epoch, ended) == (2, 10, [0], [True])


def test_a_monitor_without_validation_data(net, data):
    ended = []
    watch = LambdaCallback(on_train_end=lambda: ended.append(True))
    with pytest.raises(ConfigError, match=r"EarlyStopping: .*'loss', 'accuracy'.*need validation data in fit"):
        net.fit(*data, epochs=3, verbose=0, callbacks=[EarlyStopping(), watch])
    assert ended == [True]
