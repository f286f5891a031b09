"""Augmentation in fit: the same training on every backend, whatever feeds it, and after a resume."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import xconv
from tests.conftest import load
from tests.recorded import replays
from tests.tolerances import TOLERANCES
from xconv import streams
from xconv.data import Augmentation, Pixels
from xconv.errors import ConfigError, RawPixelsWarning
from xconv.layers import Conv2D, Dense, Flatten, GlobalAveragePooling2D, MaxPooling2D, Rescaling

MANY = Augmentation(flip=True, crop=2, rotate=20, shift=0.1, zoom=0.2, cutout=3, fill=(100, 120, 90))


def data(n=40):
    rng = np.random.default_rng(6)
    t = np.arange(n) % 3
    return (rng.integers(0, 120, (n, 10, 9, 3)) + 60 * t[:, None, None, None] % 130).astype("uint8"), t


def net(backend, dtype="float32", seed=2):
    model = xconv.Sequential(
        [
            Rescaling(1 / 255),
            Conv2D(6, 3, activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(3, activation="softmax"),
        ],
        input_shape=(10, 9, 3),
        backend=backend,
        dtype=dtype,
        seed=seed,
    )
    model.compile(xconv.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    return model


def weights(model):
    return {name: np.array(array) for name, array in model.params.to_numpy().items()}


def apart(one, other):
    return max(np.abs(one[name] - other[name]).max() / np.abs(other[name]).max() for name in other)


def test_ten_steps_are_equal_on_every_backend(dtype):
    x, t = data()
    trained = []
    for name in ("numpy", "numba", "cupy"):
        model = net(load(name), dtype)
        losses = model.fit(x, t, batch_size=8, epochs=2, augmentation=MANY, verbose=0).history["loss"]
        trained.append((losses, weights(model)))
    plain = net("numpy", dtype)
    plain.fit(x, t, batch_size=8, epochs=2, verbose=0)
    assert apart(weights(plain), trained[0][1]) > 100 * TOLERANCES["trajectory", dtype]  # it does something
    for losses, found in trained[1:]:
        np.testing.assert_allclose(losses, trained[0][0], rtol=TOLERANCES["loss", dtype])
        assert apart(found, trained[0][1]) <= TOLERANCES["trajectory", dtype]


def test_fit_trains_on_the_pictures_that_the_draws_say(backend):
    """Step by step, by hand: the epoch's order, each picture changed by its place in it."""
    x, t = data(20)
    model, by_hand = net(backend, "float64"), net(backend, "float64")
    model.fit(x, t, batch_size=8, epochs=3, augmentation=MANY, verbose=0)
    host = xconv.get_backend("numpy")
    for epoch in (1, 2, 3):
        order = streams.permutation(2, epoch, 20)
        changed = MANY(host, x[order], seed=2, epoch=epoch, first=0, data_format="channels_last")
        for first in (0, 8, 16):
            part = slice(first, first + 8)
            by_hand.train_on_batch(changed[part], t[order][part])
    expected = weights(by_hand)
    for name, array in weights(model).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-11, atol=1e-13)


def test_a_resumed_run_draws_what_the_unbroken_one_would_have(backend, tmp_path):
    x, t = data()
    unbroken, stopped = net(backend), net(backend)
    unbroken.fit(x, t, batch_size=8, epochs=3, augmentation=MANY, verbose=0)
    stopped.fit(x, t, batch_size=8, epochs=1, augmentation=MANY, verbose=0)
    stopped.save(tmp_path / "net.safetensors")
    again = xconv.load(tmp_path / "net.safetensors", backend=backend)
    again.fit(x, t, batch_size=8, epochs=3, initial_epoch=1, augmentation=MANY, verbose=0)
    expected = weights(unbroken)
    for name, array in weights(again).items():
        assert array.tobytes() == expected[name].tobytes(), name


def halved(backend, x, **about):
    """In place, as one that writes to what it is given."""
    if x.dtype == np.uint8:
        x //= 2
    else:
        x *= 0.5
    return x


@pytest.mark.parametrize("way", ["arrays", "shuffled", "batches"])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "pixels"])
def test_one_that_works_in_place_leaves_the_callers_images_alone(backend, kind, way):
    """So that each epoch begins with the pictures as they are."""
    bytes_, t = data()
    x = bytes_.astype(kind) / 255 if kind.startswith("float") else bytes_
    kept, got = x.copy(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RawPixelsWarning)
        for change in (halved, lambda backend, x, **about: halved(backend, x.copy(), **about)):
            model = net(backend, "float64" if kind == "float64" else "float32")
            given = Pixels(x) if kind == "pixels" else x
            if way == "batches":
                parts = [(given[i : i + 10], t[i : i + 10]) for i in range(0, len(x), 10)]
                model.fit(iter(parts * 2), epochs=2, steps_per_epoch=4, verbose=0, augmentation=change)
            else:
                model.fit(given, t, 10, 2, 0, shuffle=way == "shuffled", augmentation=change)
            got.append([w.tobytes() for w in model.get_weights()])
            assert x.tobytes() == kept.tobytes()
    assert got[0] == got[1]


def test_bytes_and_pixels_are_augmented_alike(backend):
    """Pixels stay bytes until they have been augmented."""
    x, t = data(16)
    found = []
    for given, first in ((x, Rescaling(1 / 255)), (Pixels(x), Rescaling(1.0))):
        model = xconv.Sequential([first, Flatten(), Dense(3, activation="softmax")], input_shape=(10, 9, 3),
                                 backend=backend, dtype="float64", seed=3)  # fmt: skip
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(given, t, batch_size=8, epochs=2, augmentation=MANY, verbose=0)
        found.append(weights(model))
    assert apart(*found) < 1e-12


def test_channels_first_is_the_same_training(backend):
    x, t = data(16)
    found = []
    for data_format, order in (("channels_last", (0, 1, 2, 3)), ("channels_first", (0, 3, 1, 2))):
        given = np.ascontiguousarray(x.transpose(order))
        model = xconv.Sequential(
            [Rescaling(1 / 255), Conv2D(3, 3, activation="relu"), GlobalAveragePooling2D(), Dense(3)],
            input_shape=given.shape[1:], data_format=data_format, backend=backend, dtype="float64", seed=3,
        )  # fmt: skip
        model.compile("sgd", "mse")
        model.fit(given, np.eye(3)[t], batch_size=8, epochs=2, augmentation=MANY, verbose=0)
        found.append(weights(model))
    assert apart(*found) < 1e-12


def test_validation_sees_pictures_as_they_are(backend):
    x, t = data(16)
    model = net(backend)
    history = model.fit(
        x, t, batch_size=8, epochs=1, augmentation=Augmentation(cutout=9, fill=255), validation_data=(x, t), verbose=0
    ).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(x, t, verbose=0), rel=1e-6)


def test_settings_that_do_not_fit_stop_fit(backend):
    x, t = data(8)
    with pytest.raises(ConfigError, match="cutout must be at most 9 for pictures of 10x9"):
        net(backend).fit(x, t, batch_size=8, epochs=1, augmentation=Augmentation(cutout=10), verbose=0)


def test_recorded_steps_are_fed_augmented_pictures(cupy):
    x, t = data()
    recorded, eager = net(cupy), net(cupy)
    eager.compile(xconv.optimizers.SGD(0.01), "sparse_categorical_crossentropy", record=False)
    for model in (recorded, eager):
        model.fit(x, t, batch_size=8, epochs=3, augmentation=MANY, verbose=0)
    assert replays(recorded) > 5 and not replays(eager)
    one, other = weights(recorded), weights(eager)
    assert all(one[name].tobytes() == other[name].tobytes() for name in other)
