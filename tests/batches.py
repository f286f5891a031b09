"""Data, networks and makers of batches for the tests of training from batches that the user makes."""

from __future__ import annotations

import threading

import numpy as np

from xconv import Sequential, layers, utils
from xconv.callbacks import Callback

N, BATCH = 23, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4, 3, 2)).astype("f4")
T = np.arange(N) % 7
W = RNG.random(N)
STEPS = -(-N // BATCH)


def network(backend="numpy", input_shape=(4, 3, 2)):
    model = Sequential(
        [layers.Conv2D(4, 2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(7)],
        backend=backend,
        seed=5,
        input_shape=input_shape,
    )
    model.add(layers.Softmax())
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def small(backend="numpy"):
    model = Sequential(
        [layers.Flatten(), layers.Dense(7, activation="softmax")], backend=backend, input_shape=(4, 3, 2)
    )
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def batches(*arrays, size=BATCH):
    """One round."""
    for first in range(0, N, size):
        given = tuple(a[first : first + size] for a in arrays)
        yield given if len(given) > 1 else given[0]


def for_ever(*arrays, size=BATCH, pulled=None):
    while True:
        for batch in batches(*arrays, size=size):
            if pulled is not None:
                pulled.append(threading.current_thread().name)
            yield batch


class Parts(utils.Sequence):
    """The arrays' batches by number; notes what it is asked for."""

    def __init__(self, *arrays, size=BATCH):
        self.made, self.asked, self.epochs = list(batches(*arrays, size=size)), [], 0

    def __len__(self):
        return len(self.made)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.made[i]

    def on_epoch_end(self):
        self.asked.append("end")
        self.epochs += 1


class Anew:
    """Something to go through again and again."""

    def __init__(self, *arrays):
        self.arrays, self.rounds = arrays, 0

    def __iter__(self):
        self.rounds += 1
        return batches(*self.arrays)


def ended(model, history):
    return history.history, [w.tobytes() for w in model.get_weights()]


class After(Callback):
    """Does something after a batch of the first epoch."""

    def __init__(self, batch, act):
        self.batch, self.act, self.seen = batch, act, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if batch == self.batch:
            self.act(self.model)
