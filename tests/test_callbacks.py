"""Callbacks by their effects on a model that is none: epochs run, weights, rates. Semantics are Keras 3's."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

from tests.pretended import Pretended, run
from xconv.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    Logs,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from xconv.errors import ConfigError

NAN = float("nan")


# ---------------------------------------------------------------------- EarlyStopping


@pytest.mark.parametrize(
    ("settings", "values", "epochs", "best"),
    [
        ({}, [1, 0.9, 0.95, 0.5], 3, 1),  # patience 0 and 1 are one thing, as in Keras
        ({"patience": 1}, [1, 0.9, 0.95, 0.5], 3, 1),
        ({"patience": 2}, [1, 0.9, 0.95, 0.96, 0.5], 4, 1),
        ({"patience": 2}, [1, 0.9, 0.95, 0.89, 0.9, 0.9, 0.9], 6, 3),  # an improvement starts the count again
        ({"patience": 3}, [4, 3, 2, 1], 4, 3),
        ({}, [1, 1, 1], 2, 0),  # the same is no improvement
        ({"patience": 2, "min_delta": 0.1}, [1, 0.95, 0.85, 0.84, 0.83, 0.1], 5, 2),
        ({"patience": 2, "min_delta": -0.1}, [1, 0.95, 0.85, 0.84, 0.83, 0.1], 5, 2),
        ({"monitor": "val_accuracy", "patience": 2}, [0.5, 0.6, 0.55, 0.58, 0.9], 4, 1),
        ({"monitor": "val_acc", "min_delta": 0.2}, [0.5, 0.6, 0.9], 2, 0),
        ({"monitor": "val_accuracy", "mode": "min"}, [0.5, 0.6, 0.3], 2, 0),
        ({"monitor": "val_f1", "mode": "max"}, [0.5, 0.6, 0.55], 3, 1),
        ({"monitor": "val_mae"}, [0.5, 0.4, 0.45, 0.3], 3, 1),
        ({"patience": 2}, [0.9, 0.95, 0.96, 0.97], 3, 0),
        ({"patience": 2, "baseline": 0.5}, [0.9, 0.95, 0.96, 0.97], 2, 0),  # beats nothing, so the count began at 1
        ({"patience": 2, "baseline": 0.5}, [0.9, 0.8, 0.7, 0.6, 0.65], 5, 3),  # better and better, if below baseline
        ({"patience": 2, "baseline": 0.5}, [0.4, 0.41, 0.42], 3, 0),
        ({"patience": 2, "start_from_epoch": 2}, [0.1, 0.2, 0.9, 0.8, 0.85, 0.86, 0.1], 6, 3),
        ({}, [NAN, 0.5, 0.6], 3, 1),
        ({}, [NAN, NAN, 0.5], 2, 0),
    ],
)
def test_early_stopping(settings, values, epochs, best):
    for restore in (False, True):
        stopping, model = EarlyStopping(restore_best_weights=restore, **settings), Pretended()
        ran, _ = run(stopping, values, settings.get("monitor", "val_loss"), model=model)
        assert (ran, stopping.best_epoch) == (epochs, best)
        assert stopping.stopped_epoch == (epochs - 1 if epochs < len(values) or model.stop_training else 0)
        assert model.weight[0] == (best if restore else epochs - 1)


def test_best_weights_come_back_when_training_ends_by_itself_and_anew_in_the_next_run():
    stopping, model = EarlyStopping(patience=9, restore_best_weights=True), Pretended()
    assert run(stopping, [0.9, 0.1, 0.5], model=model)[0] == 3
    assert model.weight[0] == 1 and not model.stop_training
    run(stopping, [0.9, 0.8, 0.85], model=model)  # the first run's 0.1 is forgotten
    assert (model.weight[0], stopping.best) == (1, 0.8)


def test_early_stopping_says_so(capsys):
    run(EarlyStopping(verbose=1), [1, 0.5, 0.7])
    assert capsys.readouterr().err == "epoch 3: stopping early; the best was epoch 2\n"
    run(EarlyStopping(verbose=1, patience=9), [1, 0.5, 0.7])
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(
    ("settings", "values", "rates"),
    [
        ({"patience": 2}, [1] * 6, [1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 0}, [1] * 3, [1, 1, 0.5, 0.25]),
        ({"patience": 2}, [1, 1, 0.9, 0.9, 0.9, 0.8], [1, 1, 1, 1, 1, 0.5, 0.5]),
        ({"patience": 1, "cooldown": 2}, [1] * 7, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ({"patience": 1, "min_lr": 0.3}, [1] * 5, [1, 1, 0.5, 0.3, 0.3, 0.3]),
        ({"patience": 1}, [1, 0.99995, 0.99985], [1, 1, 0.5, 0.5]),  # 1e-4 of the best so far
        ({"patience": 1, "min_delta": 0}, [1, 0.99995, 0.99985], [1, 1, 1, 1]),
        ({"patience": 1, "monitor": "val_accuracy"}, [0.5, 0.6, 0.6, 0.7], [1, 1, 1, 0.5, 0.5]),
        ({"patience": 1, "monitor": "val_accuracy", "mode": "min"}, [0.5, 0.6], [1, 1, 0.5]),
    ],
)
def test_reduce_on_plateau(settings, values, rates):
    model = Pretended()
    plateau = ReduceLROnPlateau(factor=0.5, **settings)
    _, logs = run(plateau, values, settings.get("monitor", "val_loss"), model=model)
    assert [entry["learning_rate"] for entry in logs] == rates[:-1]  # of the epoch, before it is reduced
    assert model.optimizer.lr == rates[-1]


def test_reduce_on_plateau_forgets_between_runs_but_not_the_rate(capsys):
    model, plateau = Pretended(), ReduceLROnPlateau(patience=1, verbose=1)
    run(plateau, [0.5, 0.5], model=model)
    assert capsys.readouterr().err == "epoch 2: learning rate reduced to 0.1\n"
    run(plateau, [0.9, 0.8], model=model)
    assert model.optimizer.lr == pytest.approx(0.1)


def test_reduce_on_plateau_never_raises_a_rate():
    model = Pretended(lr=0.2)
    run(ReduceLROnPlateau(patience=1, min_lr=0.3), [1, 1, 1], model=model)
    assert model.optimizer.lr == 0.2


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (lambda epoch, lr: lr / 2, [0.5, 0.25, 0.125]),
        (lambda epoch: 1 / (epoch + 1), [1, 1 / 2, 1 / 3]),
        (lambda epoch, lr=0.5: lr if epoch else 0.5, [0.5, 0.5, 0.5]),
        (lambda epoch: np.float32(0.25), [0.25] * 3),
        ({1: 0.25}.get, [1, 0.25, 0.25]),  # builtins: one that takes two, one that does not say
        ([0.5, 0.25, 0.125].__getitem__, [0.5, 0.25, 0.125]),
    ],
)
def test_scheduler(schedule, rates):
    at_batches = []
    model = Pretended()
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: at_batches.append(model.optimizer.lr))
    _, logs = run([LearningRateScheduler(schedule), watch], [1, 1, 1], model=model)
    assert [entry["learning_rate"] for entry in logs] == at_batches == rates


def test_an_error_in_a_schedule_is_its_own():
    def broken(epoch, lr):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        run(LearningRateScheduler(broken), [1])


# ---------------------------------------------------------------------- TerminateOnNaN, history, lambdas, mistakes


@pytest.mark.parametrize(("loss", "stops"), [(NAN, True), (float("inf"), True), (1e30, False), (0.0, False)])
def test_terminate_on_nan(loss, stops, capsys):
    callback = TerminateOnNaN()
    callback.set_model(Pretended())
    callback.on_train_batch_end(3, Logs(lambda: {"loss": loss}))
    assert callback.model.stop_training is stops
    assert capsys.readouterr().err == (f"batch 4: the loss became {loss}; training stops\n" if stops else "")


def test_history_keeps_what_callbacks_add():
    history = History()
    run([LearningRateScheduler(lambda epoch: 0.5**epoch), history], [3, 2, 1])
    assert history.history == {"loss": [0.5] * 3, "val_loss": [3, 2, 1], "learning_rate": [1, 0.5, 0.25]}
    assert history.epoch == [0, 1, 2] and [row["epoch"] for row in history.rows()] == [1, 2, 3]


def test_logs_are_read_when_looked_at_and_once():
    reads = []
    logs = Logs(lambda: reads.append(1) or {"loss": 0.5})
    assert logs and (logs or {}) is logs and reads == []
    assert logs["loss"] == 0.5 and dict(logs) == {"loss": 0.5} and "val_loss" not in logs and len(reads) == 1


def test_lambdas():
    seen = []
    run(LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["val_loss"]))), [3, 2])
    assert seen == [(0, 3), (1, 2)]
    with pytest.raises(ConfigError, match=r"expected hooks among on_train_begin, .*Received: 'on_epoch'"):
        LambdaCallback(on_epoch=print)


@pytest.mark.parametrize("kind", [EarlyStopping, ReduceLROnPlateau, ModelCheckpoint])
def test_a_quantity_that_is_not_there(kind, tmp_path):
    path = [tmp_path / "a"] if kind is ModelCheckpoint else []
    best = {"save_best_only": True} if path else {}
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: .*'loss', 'val_loss'.* Received: 'accuracy'$"):
        run(kind(*path, monitor="accuracy", **best), [1])
    with pytest.raises(ConfigError, match=r"need validation data in fit\. Received: 'val_loss'"):
        run(kind(*path, **best), [1], name="accuracy")
    with pytest.raises(ConfigError, match=r"mode must be 'auto', 'min' or 'max'\. Received: 'most'"):
        kind(*path, mode="most")
    with pytest.raises(ConfigError, match="monitor must be a name"):
        kind(*path, monitor=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(patience=-1), "EarlyStopping: patience must be an integer >= 0"),
        (lambda: EarlyStopping(min_delta="1"), "min_delta must be a finite number"),
        (lambda: EarlyStopping(baseline=NAN), "baseline must be a finite number"),
        (lambda: ReduceLROnPlateau(factor=1.0), r"factor must be a finite number >= 0 and below 1\. Received: 1\.0"),
        (lambda: ReduceLROnPlateau(min_lr=-1), "min_lr must be a finite number >= 0"),
        (lambda: ReduceLROnPlateau(cooldown=1.5), "cooldown must be an integer >= 0"),
        (lambda: LearningRateScheduler(0.1), r"expected a function \(epoch, lr\) -> lr"),
        (lambda: run(LearningRateScheduler(lambda e: NAN), [1]), r"the schedule's rate for epoch 0 must be .* nan"),
        (lambda: run(LearningRateScheduler(lambda e: None), [1]), r"the schedule's rate for epoch 0 must be .* None"),
        (lambda: ModelCheckpoint("a/b.keras"), r"expected filepath 'a/b\.safetensors'\. Received: 'a/b\.keras'"),
        (lambda: ModelCheckpoint("b{epoch}.H5"), r"expected filepath 'b{epoch}\.safetensors'"),
        (lambda: ModelCheckpoint("b.weights.h5", save_weights_only=True), r"expected filepath 'b\.safetensors'"),
        (lambda: ModelCheckpoint(7), "expected filepath to be a path such as"),
        (lambda: ModelCheckpoint("{epoch"), "expected filepath to be a path such as"),
        (lambda: ModelCheckpoint("{}"), "expected filepath to be a path such as"),
        (lambda: ModelCheckpoint("{val_loss:02d}"), "expected filepath to be a path such as"),
        (
            lambda: ModelCheckpoint("a", save_freq="batch"),
            "save_freq, where .* must be an integer >= 1",
        ),
        (lambda: run(ModelCheckpoint("{val_acc}"), [1]), "among loss, val_loss, epoch. Received: 'val_acc'"),
        (lambda: CSVLogger("a", separator=""), "separator must be one character"),
    ],
)
def test_mistakes(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make()
    assert os.listdir() == []


def test_what_a_callback_need_not_do():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(Callback(), [1, 2])[0] == 2
