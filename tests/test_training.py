"""What fit, train_on_batch and evaluate mean: which examples, in which order; to the bit where told."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tests.checks import draw
from xconv import Sequential, streams
from xconv.callbacks import LambdaCallback
from xconv.errors import ConfigError
from xconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, ReLU
from xconv.optimizers import SGD, Adam

X, T = draw(30, 4), np.arange(30) % 3


def linear(backend, loss="mse", outputs=2, **settings) -> Sequential:
    model = Sequential([Dense(outputs, name="d")], input_shape=(4,), backend=backend, dtype="float64", **settings)
    model.compile(SGD(0.1), loss)
    return model


def rich(backend, seed=1, dtype="float32") -> Sequential:
    """Everything that a step changes or draws."""
    layers = [
        Conv2D(3, 3, padding="same", kernel_regularizer="l2", input_shape=(5, 5, 2)),
        BatchNormalization(momentum=0.8),
        ReLU(),
        Dropout(0.4),
        Flatten(),
        Dense(8, activation="relu"),
        Dropout(0.2),
        Dense(3, activation="softmax"),
    ]
    model = Sequential(layers, backend=backend, seed=seed, dtype=dtype)
    model.compile(Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model


IMAGES = draw(30, 5, 5, 2, seed=4).astype(np.float32)


def bits(model) -> list[bytes]:
    return [w.tobytes() for w in model.get_weights()]


def measured(history) -> dict[str, list[float]]:
    """What is not a time."""
    return history.history


def descended(w, b, x, t, orders, batch, lr=0.1):
    """Linear least squares by hand: w, b after steps of SGD over batches in the given orders."""
    for order in orders:
        for first in range(0, len(x), batch):
            here = order[first : first + batch]
            dy = 2 * (x[here] @ w + b - t[here]) / t[here].size
            w, b = w - lr * x[here].T @ dy, b - lr * dy.sum(axis=0)
    return w, b


# ---------------------------------------------------------------------- which examples, in which order


def test_batches_in_order_without_shuffling(backend):
    model, t = linear(backend), draw(30, 2, seed=1)
    w, b = model.get_weights()
    model.fit(X, t, 7, 2, shuffle=False, verbose=0)
    for got, expected in zip(model.get_weights(), descended(w, b, X, t, [np.arange(30)] * 2, 7), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_each_epoch_has_an_order_of_its_own(backend):
    model, t = linear(backend, seed=5), draw(30, 2, seed=1)
    w, b = model.get_weights()
    model.fit(X, t, 7, 3, verbose=0)
    orders = [streams.permutation(5, epoch, 30) for epoch in (1, 2, 3)]
    assert not np.array_equal(orders[0], orders[1]) and sorted(orders[0]) == list(range(30))
    for got, expected in zip(model.get_weights(), descended(w, b, X, t, orders, 7), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_validation_split_is_the_last_part_before_shuffling(backend):
    a, b = rich(backend), rich(backend)
    first = a.fit(IMAGES, T, 5, 2, validation_split=0.21, verbose=0)  # int(30 * 0.79) = 23 to train on
    second = b.fit(IMAGES[:23], T[:23], 5, 2, validation_data=(IMAGES[23:], T[23:]), verbose=0)
    assert bits(a) == bits(b) and measured(first) == measured(second)
    assert first.history["val_loss"][-1] == a.evaluate(IMAGES[23:], T[23:])[0]
    assert first.steps == 10 and first.images == 46


def test_validation_data_goes_before_a_split(backend):
    a, b = linear(backend), linear(backend)
    t, there = draw(30, 2), (X[:4], draw(4, 2))
    first = a.fit(X, t, validation_split=0.5, validation_data=there, verbose=0)
    assert measured(first) == measured(b.fit(X, t, validation_data=there, verbose=0)) and bits(a) == bits(b)


@pytest.mark.parametrize("split", [-0.1, 1.0, 1.5, True, "0.2", math.nan, 0.96])
def test_splits_that_leave_nothing(split):
    with pytest.raises(ConfigError, match=r"fit: validation_split.*Received: "):
        linear("numpy").fit(X[:20], draw(20, 2), validation_split=split, verbose=0)


@pytest.mark.parametrize("given", [X, (X,), (X, T, T, T), "xy"])
def test_validation_data_is_a_pair(given):
    with pytest.raises(ConfigError, match=r"fit: expected validation_data=\(x, y\) or .*\. Received: "):
        linear("numpy").fit(X, draw(30, 2), validation_data=given, verbose=0)


# ---------------------------------------------------------------------- epochs


def test_parts_are_as_the_whole(backend):
    whole, parts = rich(backend), rich(backend)
    history = measured(whole.fit(IMAGES, T, 7, 3, validation_split=0.2, verbose=0))
    one = measured(parts.fit(IMAGES, T, 7, 1, validation_split=0.2, verbose=0))
    two = parts.fit(IMAGES, T, 7, 3, validation_split=0.2, verbose=0, initial_epoch=1)
    assert two.epoch == [1, 2] and bits(parts) == bits(whole)
    assert {name: one[name] + values for name, values in measured(two).items()} == history


def test_initial_epoch_counts(backend):
    seen: list[int] = []
    watch = LambdaCallback(on_epoch_begin=lambda epoch: seen.append(epoch))
    model = linear(backend)
    before = bits(model)
    assert model.fit(X, draw(30, 2), epochs=3, initial_epoch=3, verbose=0, callbacks=[watch]).epoch == []
    assert seen == [] and bits(model) == before
    model.fit(X, draw(30, 2), epochs=5, initial_epoch=3, verbose=0, callbacks=[watch])
    assert seen == [3, 4]


def test_stop_training_ends_after_the_batch(backend):
    model = linear(backend)

    def stop(batch, logs):
        model.stop_training = batch == 1

    history = model.fit(X, draw(30, 2), 7, 4, verbose=0, callbacks=LambdaCallback(on_train_batch_end=stop))
    assert history.epoch == [0] and history.steps == 2 and history.images == 14
    assert model.fit(X, draw(30, 2), 7, 4, verbose=0).epoch == [0, 1, 2, 3]  # it is asked anew


def test_what_is_shown(backend, capsys):
    said = {}
    for verbose in (0, 1, 2, "auto"):
        linear(backend).fit(X, draw(30, 2), 10, 2, verbose=verbose)
        out, said[verbose] = capsys.readouterr()
        assert out == ""
    assert said[0] == ""
    line = r"epoch 1/2: loss \d\.\d{4}  [\d,]+ images/s\nepoch 2/2: loss \d\.\d{4}  [\d,]+ images/s\n"
    assert re.fullmatch(line, said[2]) and re.fullmatch(line, said["auto"])  # not a terminal
    assert "epoch 2/2 |" in said[1] and "\r" in said[1]
    for bad in (3, -1, "loud", None):
        with pytest.raises(ConfigError, match="verbose must be"):
            linear(backend).fit(X, draw(30, 2), verbose=bad)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"initial_epoch": -1},
        {"shuffle": "batch"},
        {"callbacks": [1]},
    ],
)
def test_settings_of_fit(settings):
    with pytest.raises(ConfigError, match=rf"fit: {next(iter(settings))}.*Received: "):
        linear("numpy").fit(X, draw(30, 2), verbose=0, **settings)


# ---------------------------------------------------------------------- one step, and the same bits


def test_a_batch_is_a_step_of_fit(backend):
    a, b = rich(backend), rich(backend)
    for epoch in (0, 1):
        a.fit(IMAGES, T, 15, epoch + 1, shuffle=False, verbose=0, initial_epoch=epoch)
        values = [b.train_on_batch(IMAGES[i : i + 15], T[i : i + 15]) for i in (0, 15)]
        assert bits(a) == bits(b)
        assert [a.history.history[name][0] for name in ("loss", "accuracy")] == pytest.approx(np.mean(values, axis=0))


def test_a_batch_gives_what_it_was_before_the_step(backend):
    model = linear(backend)
    before = model.loss(X, draw(30, 2))
    assert model.train_on_batch(X, draw(30, 2)) == pytest.approx(before, rel=1e-14)
    assert model.loss(X, draw(30, 2)) < before


def test_the_same_seed_gives_the_same_bits(backend):
    first, second = rich(backend), rich(backend)
    histories = [measured(model.fit(IMAGES, T, 7, 2, validation_split=0.2, verbose=0)) for model in (first, second)]
    assert bits(first) == bits(second) and histories[0] == histories[1]
    other = rich(backend, seed=2)
    other.set_weights(rich(backend).get_weights())
    other.fit(IMAGES, T, 7, 2, validation_split=0.2, verbose=0)
    assert bits(other) != bits(first)  # other masks and another order


def test_a_run_goes_on_where_the_model_is_moved(backend):
    """NumPy, then another backend, then NumPy, against an unbroken run on NumPy."""
    unbroken, moved = rich("numpy", dtype="float64"), rich("numpy", dtype="float64")
    x = IMAGES.astype(np.float64)
    expected = measured(unbroken.fit(x, T, 7, 3, verbose=0))
    got: dict[str, list[float]] = {name: [] for name in expected}
    for epoch, place in enumerate(["numpy", backend, "numpy"]):
        history = measured(moved.to(place).fit(x, T, 7, epoch + 1, verbose=0, initial_epoch=epoch))
        for name, values in history.items():
            got[name] += values
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-9, err_msg=name)
    for a, b in zip(moved.get_weights(), unbroken.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_dropout_masks_by_step_and_on_every_backend(backend):
    """With weights of one and inputs of one, what a mask lets through is what its weights' gradient says."""
    masks = []
    for place in (backend, "numpy"):
        model = Sequential([Dropout(0.5), Dense(1, use_bias=False, name="d")], input_shape=(64,), backend=place, seed=9)
        model.compile(SGD(0.0), "mse")
        here = []
        for _ in range(3):
            here.append(
                model.backend.to_numpy(model.gradient(np.ones((1, 64)), np.full((1, 1), 1e3))["d.w"])[:, 0] != 0
            )
            model.train_on_batch(np.ones((1, 64)), np.zeros((1, 1)))
        masks.append(np.array(here))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert all(0.2 < mask.mean() < 0.8 for mask in masks[0])
    assert not np.array_equal(masks[0][0], masks[0][1]) and not np.array_equal(masks[0][1], masks[0][2])


def test_moving_statistics_of_a_fit(backend):
    model = Sequential([BatchNormalization(momentum=0.7, name="bn"), Dense(1)], input_shape=(4,), backend=backend)
    model.compile(SGD(0.1), "mse")
    mean, var = np.zeros(4), np.ones(4)
    model.fit(X, draw(30, 1), 10, 2, shuffle=False, verbose=0, validation_split=1 / 3)
    for _ in range(2):
        for batch in (X[:10], X[10:20]):
            mean, var = 0.7 * mean + 0.3 * batch.mean(axis=0), 0.7 * var + 0.3 * batch.var(axis=0)
    got = model.params.to_numpy()
    np.testing.assert_allclose(got["bn.mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["bn.var"], var, rtol=1e-5)
    y = (X - mean) / np.sqrt(var + 1e-3) * got["bn.gamma"] + got["bn.beta"]
    np.testing.assert_allclose(model.predict(X), y @ got["dense1.w"] + got["dense1.b"], rtol=1e-3, atol=1e-5)
