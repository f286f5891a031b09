"""Networks whose training steps are recorded, and what the tests of that ask of them."""

from __future__ import annotations

import numpy as np

from xconv import Model, Sequential, optimizers, regularizers, schedules
from xconv.book import SimpleConvNet
from xconv.layers import (
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    MaxPool2D,
    ReLU,
)

RNG = np.random.default_rng(5)
X, T = RNG.random((45, 12, 12, 1), np.float32), RNG.integers(0, 10, 45)
LATER = RNG.random((45, 12, 12, 1), np.float32)


def book(backend, **settings):
    model = SimpleConvNet(
        (1, 12, 12), {"filter_num": 4, "filter_size": 3}, 16, 10, "he", backend=backend, seed=3, **settings
    )
    model.compile(optimizers.Adam(0.003))
    return model


def everything(backend, **settings):
    """Batch normalisation, dropout, a schedule, a penalty, clipping, metrics."""
    layers = [
        Conv2D(4, 3, padding="same", kernel_regularizer=regularizers.L2(0.01)), BatchNormalization(), ReLU(),
        MaxPool2D(2), Dropout(0.3), Flatten(), Dense(10, activation="softmax", kernel_regularizer=regularizers.L1(0.1)),
    ]  # fmt: skip
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, seed=4, **settings)
    rate = schedules.WarmUp(3, schedules.StepDecay(0.05, every=4))
    rule = optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=0.5)
    model.compile(rule, "sparse_categorical_crossentropy", ["accuracy", "top_k"])
    return model


def branches(backend, **settings):
    """Two outputs, each with a loss of its own weight."""
    x = Input((12, 12, 1), name="x")
    y = Flatten()(MaxPool2D(3)(Conv2D(3, 3, activation="relu")(x)))
    outs = [Dense(10, activation="softmax", name="digit")(y), Dense(1, name="size")(Concatenate()([y, Dense(4)(y)]))]
    model = Model([x], outs, backend=backend, seed=6, **settings)
    losses = {"digit": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("rmsprop", losses, {"size": ["mae"]}, {"size": 0.5})
    return model


NETWORKS = {"book": book, "everything": everything, "branches": branches}


def images(model):
    return X.transpose(0, 3, 1, 2) if model.data_format == "channels_first" else X


def labels(model):
    return {"digit": T, "size": T / 10.0} if len(model.outputs) > 1 else T


def train(model, epochs=4, batch=10, first=0, **more):
    return model.fit(images(model), labels(model), batch, epochs, 0, initial_epoch=first, **more).history


def without(model):
    """The same, its steps one by one."""
    model.compile(model.optimizer, record=False)
    return model


def state(model):
    """Everything that training changes, as bytes."""
    to_numpy = model.backend.to_numpy
    kept = {**model._parameters.to_numpy(), **model.optimizer.state_arrays(), "steps": model._steps}
    return {name: np.array(to_numpy(a)).tobytes() for name, a in kept.items()} | {"count": model.optimizer.steps}


def replays(model):
    return sum(shape.replays for shape in model._recorded._recordings.values())


def on_device(model, i=0, n=10):
    x, t = images(model)[i : i + n], T[i : i + n]
    return model.backend.asarray(x), model.backend.asarray(t)
