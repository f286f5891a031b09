"""Programs written for Keras run with only their imports changed, on every backend, and learn.

Each is the text that a Keras user would have; `run` changes "from keras" to "from xconv" and executes it. The data set,
which such programs take from keras.datasets, is a few hundred images of the sample inside xconv.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import xconv

CONVNET = """
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from keras.models import Sequential
from keras.utils import to_categorical
from keras.datasets import mnist

(train_images, train_labels), (test_images, test_labels) = mnist.load_data()

train_images = train_images.reshape((len(train_images), 28, 28, 1))
train_images = train_images.astype("float32") / 255
test_images = test_images.reshape((len(test_images), 28, 28, 1))
test_images = test_images.astype("float32") / 255
train_labels = to_categorical(train_labels)
test_labels = to_categorical(test_labels)

model = Sequential()
model.add(Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)))
model.add(MaxPooling2D((2, 2)))
model.add(Conv2D(64, (3, 3), activation="relu"))
model.add(MaxPooling2D((2, 2)))
model.add(Conv2D(64, (3, 3), activation="relu"))
model.add(Flatten())
model.add(Dense(64, activation="relu"))
model.add(Dense(10, activation="softmax"))
model.summary()

model.compile(optimizer="rmsprop",
              loss="categorical_crossentropy",
              metrics=["accuracy"])
history = model.fit(train_images, train_labels, epochs=3, batch_size=16,
                    validation_data=(test_images, test_labels))
test_loss, test_acc = model.evaluate(test_images, test_labels)
predictions = model.predict(test_images)

acc = history.history["accuracy"]
val_acc = history.history["val_accuracy"]
loss = history.history["loss"]
val_loss = history.history["val_loss"]
epochs = range(1, len(acc) + 1)
model.save("mnist_cnn.safetensors")
"""

VGG = """
import numpy as np
from keras import layers
from keras.callbacks import CSVLogger, EarlyStopping, LearningRateScheduler, ModelCheckpoint
from keras.datasets import mnist
from keras.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from keras.models import Sequential
from keras.optimizers import Adam
from keras.regularizers import l2

weight_decay = 1e-4
batch_size = 32
num_classes = 10

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train = np.expand_dims(x_train, -1).astype("float32") / 255.0
x_test = np.expand_dims(x_test, -1).astype("float32") / 255.0


def conv_block(model, filters, rate, **kwargs):
    model.add(Conv2D(filters, (3, 3), padding="same",
                     kernel_initializer="he_normal",
                     kernel_regularizer=l2(weight_decay), **kwargs))
    model.add(BatchNormalization(momentum=0.9))
    model.add(Activation("relu"))
    model.add(Conv2D(filters, (3, 3), padding="same", use_bias=False,
                     kernel_regularizer=l2(weight_decay)))
    model.add(BatchNormalization(momentum=0.9, epsilon=1e-5))
    model.add(Activation("relu"))
    model.add(MaxPooling2D(pool_size=(2, 2), strides=(2, 2)))
    model.add(Dropout(rate))


model = Sequential(name="small_vgg")
conv_block(model, 8, 0.1, strides=(2, 2), input_shape=x_train.shape[1:])
conv_block(model, 16, 0.2)
model.add(Flatten())
model.add(Dense(64, kernel_regularizer=l2(weight_decay)))
model.add(BatchNormalization(momentum=0.9))
model.add(Activation("relu"))
model.add(layers.Dropout(0.3))
model.add(Dense(num_classes))
model.add(Activation("softmax"))

opt = Adam(learning_rate=0.003, beta_1=0.9, beta_2=0.999, epsilon=1e-7)
model.compile(loss="sparse_categorical_crossentropy", optimizer=opt, metrics=["accuracy"])


def schedule(epoch, lr):
    return lr if epoch < 6 else lr * 0.5


callbacks = [
    EarlyStopping(monitor="val_loss", patience=6, restore_best_weights=True),
    ModelCheckpoint("best.safetensors", monitor="val_accuracy", save_best_only=True, verbose=1),
    LearningRateScheduler(schedule),
    CSVLogger("training.csv"),
]
history = model.fit(x_train, y_train,
                    batch_size=batch_size,
                    epochs=8,
                    verbose=2,
                    validation_split=0.2,
                    shuffle=True,
                    callbacks=callbacks)
scores = model.evaluate(x_test, y_test, verbose=0)
print("Test loss:", scores[0])
print("Test accuracy:", scores[1])
classes = np.argmax(model.predict(x_test, batch_size=64, verbose=0), axis=-1)
"""

BRANCHES = """
import numpy as np
from keras import Input, Model
from keras.callbacks import ReduceLROnPlateau, TerminateOnNaN
from keras.datasets import mnist
from keras.layers import (Add, AveragePooling2D, BatchNormalization, Concatenate, Conv2D, Dense, Dropout,
                          GlobalAveragePooling2D, LeakyReLU, MaxPooling2D)
from keras.losses import BinaryCrossentropy
from keras.models import load_model
from keras.optimizers import Adam
from keras.utils import to_categorical

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train = x_train.reshape(-1, 28, 28, 1).astype("float32") / 255
x_test = x_test.reshape(-1, 28, 28, 1).astype("float32") / 255


def side(x):
    return np.stack([x.mean(axis=(1, 2, 3)), x.std(axis=(1, 2, 3))], axis=1)


image = Input(shape=(28, 28, 1), name="image")
stats = Input(shape=(2,), name="stats")
x = MaxPooling2D(2)(image)
x = Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
shortcut = x
x = Conv2D(8, 3, padding="same")(x)
x = BatchNormalization(momentum=0.9)(x)
x = LeakyReLU(negative_slope=0.1)(x)
x = Conv2D(8, 3, padding="same")(x)
x = Add(name="residual")([x, shortcut])
pooled = MaxPooling2D()(x)
averaged = AveragePooling2D()(x)
x = Concatenate()([pooled, averaged])
x = Conv2D(16, 3, strides=2, activation="relu")(x)
x = GlobalAveragePooling2D()(x)
x = Concatenate(name="features")([x, stats])
x = Dropout(0.1)(x)
x = Dense(32, activation="tanh")(x)
digit = Dense(10, activation="softmax", name="digit")(x)
odd = Dense(1, activation="sigmoid", name="odd")(x)

model = Model(inputs=[image, stats], outputs=[digit, odd], name="branches")
model.summary()
model.compile(
    optimizer=Adam(learning_rate=0.01),
    loss={"digit": "categorical_crossentropy", "odd": BinaryCrossentropy()},
    loss_weights={"digit": 1.0, "odd": 0.5},
    metrics={"digit": ["accuracy"], "odd": ["accuracy"]},
)
plateau = ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2, min_lr=1e-4)
history = model.fit(
    {"image": x_train, "stats": side(x_train)},
    {"digit": to_categorical(y_train, 10), "odd": (y_train % 2).astype("float32")},
    batch_size=16,
    epochs=6,
    verbose=0,
    validation_data=([x_test, side(x_test)], [to_categorical(y_test, 10), y_test % 2]),
    callbacks=[plateau, TerminateOnNaN()],
)
results = model.evaluate([x_test, side(x_test)], [to_categorical(y_test, 10), y_test % 2], verbose=0)
digits, odds = model.predict([x_test, side(x_test)])

weights = model.get_layer("stem").get_weights()
extractor = Model(inputs=model.input, outputs=model.get_layer("features").output)
features = extractor.predict([x_test, side(x_test)])

model.save("branches.safetensors")
reloaded = load_model("branches.safetensors")
"""


@pytest.fixture
def run(backend, monkeypatch, tmp_path):
    """run(text, n) -> the program's variables, in an empty folder; its data set has n images to train on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XCONV_BACKEND", backend.name)
    sample = xconv.data.load("mnist-sample")

    def call(text: str, n: int, test: int = 100) -> dict[str, Any]:
        datasets = ModuleType("datasets")
        datasets.mnist = ModuleType("mnist")  # type: ignore[attr-defined]
        datasets.mnist.load_data = (
            lambda: (  # type: ignore[attr-defined]
                (sample.x_train[:n, 0].copy(), sample.t_train[:n].astype(np.uint8)),
                (sample.x_test[:test, 0].copy(), sample.t_test[:test].astype(np.uint8)),
            )
        )
        monkeypatch.setitem(sys.modules, "xconv.datasets", datasets)
        program: dict[str, Any] = {}
        exec(compile(text.replace("from keras", "from xconv"), "program.py", "exec"), program)
        assert program["model"].backend is backend
        return program

    return call


def test_the_convnet_of_every_first_chapter(run, backend, capsys, tmp_path):
    done = run(CONVNET, 240, 50)
    said = capsys.readouterr()
    assert "Total params: 93,322" in said.out
    assert "epoch 3/3: loss " in said.err  # not a terminal: lines
    assert list(done["epochs"]) == [1, 2, 3] and len(done["val_loss"]) == 3
    assert done["loss"][-1] < 0.5 * done["loss"][0] and done["val_acc"][-1] > 0.6
    assert (done["test_loss"], done["test_acc"]) == (done["val_loss"][-1], done["val_acc"][-1])
    predictions, labels = done["predictions"], done["test_labels"]
    assert predictions.shape == (50, 10) and predictions.dtype == np.float32
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(predictions.argmax(axis=1) == labels.argmax(axis=1)) == pytest.approx(done["test_acc"])
    again = xconv.load(tmp_path / "mnist_cnn.safetensors", backend=backend)
    np.testing.assert_array_equal(again.predict(done["test_images"]), predictions)


def test_a_small_vgg(run, backend, capsys, tmp_path):
    done = run(VGG, 500)
    history, model = done["history"].history, done["model"]
    assert [layer.name for layer in model.layers[:4]] == [
        "conv2d1",
        "batchnormalization1",
        "relu1",
        "conv2d2",
    ]
    assert max(history["val_accuracy"]) > 0.7 and history["loss"][-1] < history["loss"][0]
    assert done["scores"][1] == pytest.approx(np.mean(done["classes"] == done["y_test"]))
    rates = [0.003] * 6 + [0.0015, 0.00075]
    assert history["learning_rate"] == pytest.approx(rates[: len(history["loss"])])
    rows = (tmp_path / "training.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,accuracy,") and len(rows) == 1 + len(history["loss"])
    best = xconv.load_model(tmp_path / "best.safetensors", backend=backend)
    x, t = done["x_train"][400:], done["y_train"][400:]
    assert best.evaluate(x, t)[1] == pytest.approx(max(history["val_accuracy"]))
    assert "Test accuracy:" in capsys.readouterr().out


def test_branches_with_two_inputs_and_two_outputs(run, backend, capsys):
    done = run(BRANCHES, 300)
    assert "Reads" in capsys.readouterr().out
    history = done["history"].history
    names = ["loss", "digit_loss", "odd_loss", "digit_accuracy", "odd_accuracy"]
    measured = [*names, *(f"val_{name}" for name in names)]
    assert set(history) == {*measured, "learning_rate"}
    assert history["loss"][-1] < 0.75 * history["loss"][0]
    assert max(history["val_digit_accuracy"]) > 0.4 and max(history["val_odd_accuracy"]) > 0.7
    assert done["results"] == [history[f"val_{name}"][-1] for name in names]
    assert done["results"][0] == pytest.approx(done["results"][1] + 0.5 * done["results"][2], rel=1e-5)
    digits, odds = done["digits"], done["odds"]
    assert digits.shape == (100, 10) and odds.shape == (100, 1)
    assert np.mean(digits.argmax(axis=1) == done["y_test"]) == pytest.approx(done["results"][3])
    assert np.mean((odds[:, 0] > 0.5) == done["y_test"] % 2) == pytest.approx(done["results"][4])
    assert [w.shape for w in done["weights"]] == [(8, 1, 3, 3), (8,)]
    assert done["features"].shape == (100, 18)
    x = [done["x_test"], done["side"](done["x_test"])]
    np.testing.assert_allclose(done["features"][:, 16:], x[1], rtol=1e-6)
    for ours, theirs in zip((digits, odds), done["reloaded"].predict(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
