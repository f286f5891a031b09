"""Rescaling and Normalization in models: raw pixels in, statistics from data, files that have all they need."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import xconv
from xconv.data import Pixels
from xconv.errors import BackendError, ConfigError, DataError, RawPixelsWarning, ShapeError
from xconv.layers import Conv2D, Dense, Flatten, Input, Normalization, Rescaling
from xconv.layers import scaling as module
from xconv.models.summary import facts


def images(n=12, h=5, w=4, c=3):
    rng = np.random.default_rng(3)
    return (rng.integers(0, 200, (n, h, w, c)) + [0, 20, 50][:c]).astype("uint8")


def statistics(x, axis):
    """Mean and variance along every axis but one, number by number."""
    found = []
    for values in np.moveaxis(x, axis, 0) if axis is not None else [x]:
        values = [float(v) for v in values.ravel()]
        mean = math.fsum(values) / len(values)
        found.append((mean, math.fsum((v - mean) ** 2 for v in values) / len(values)))
    return tuple(zip(*found, strict=True))


def net(first, backend="numpy", **settings):
    return xconv.Sequential(
        [first, Conv2D(4, 3, activation="relu"), Flatten(), Dense(3, activation="softmax")],
        input_shape=(5, 4, 3),
        backend=backend,
        **settings,
    )


# ---------------------------------------------------------------------- adapt


@pytest.mark.parametrize("piece", [1, 150, 1 << 22])
@pytest.mark.parametrize(
    ("axis", "turn"), [(-1, (0, 1, 2, 3)), (3, (0, 1, 2, 3)), (1, (0, 3, 1, 2)), (None, (0, 1, 2, 3))]
)
def test_adapt_finds_mean_and_variance(monkeypatch, tmp_path, piece, axis, turn):
    monkeypatch.setattr(module, "PIECE", piece)
    x = images().transpose(turn)
    mapped = np.memmap(tmp_path / "x", "uint8", "w+", shape=x.shape)
    mapped[...] = x
    expected = statistics(x, axis)
    for data in (x, x.astype("float32"), x.astype(">i4"), x.tolist(), mapped):
        layer = Normalization(axis)
        layer.adapt(data)
        if axis is None:
            assert isinstance(layer.mean, float) and isinstance(layer.variance, float)
        np.testing.assert_allclose(layer.mean, expected[0] if axis else expected[0][0], rtol=1e-13)
        np.testing.assert_allclose(layer.variance, expected[1] if axis else expected[1][0], rtol=1e-12)
    layer.adapt(Pixels(x))
    np.testing.assert_allclose(layer.mean, np.array(expected[0] if axis else expected[0][0]) / 255, rtol=1e-6)


def test_a_variance_does_not_cancel():
    """The mean of squares less the square of the mean would have no digit left."""
    x = 1e8 + np.random.default_rng(1).normal(size=(40, 2))
    layer = Normalization()
    layer.adapt(x)
    np.testing.assert_allclose(layer.variance, statistics(x, 1)[1], rtol=1e-9)


def test_adapted_inputs_have_mean_0_and_variance_1(backend):
    x = images()
    for data_format, axis, order in (("channels_last", -1, (0, 1, 2, 3)), ("channels_first", 1, (0, 3, 1, 2))):
        given = np.ascontiguousarray(x.transpose(order))
        layer = Normalization(axis)
        layer.adapt(given)
        inputs = Input(given.shape[1:], data_format=data_format)
        y = xconv.Model(inputs, layer(inputs), backend=backend).predict(given)
        mean, variance = statistics(y, axis)
        np.testing.assert_allclose(mean, np.zeros(3), atol=1e-6)
        np.testing.assert_allclose(variance, np.ones(3), rtol=1e-5)


def test_adapt_in_a_model(backend):
    x, layer = images(), Normalization(mean=0, variance=1)
    model = net(layer, backend)
    before = model.predict(x.astype("float32"))
    layer.adapt(x)
    mean, variance = statistics(x, -1)
    np.testing.assert_allclose(layer.get_weights(), [mean, variance], rtol=1e-6)
    plain = net(Normalization(mean=mean, variance=variance), backend)
    assert np.array_equal(model.predict(x), plain.predict(x)) and not np.array_equal(before, plain.predict(x))
    assert layer.config() == {"axis": -1, "mean": list(layer.mean), "variance": list(layer.variance)}


def test_a_channel_that_never_changes(backend):
    x = images().astype("float32")
    x[..., 1] = 7
    layer = Normalization()
    layer.adapt(x)
    inputs = Input((5, 4, 3))
    y = xconv.Model(inputs, layer(inputs), backend=backend).predict(x)
    assert layer.variance[1] == 0 and np.isfinite(y).all() and np.abs(y[..., 1]).max() < 1e-3


# ---------------------------------------------------------------------- in models


@pytest.mark.parametrize(
    ("first", "by_hand"),
    [
        (lambda: Rescaling(1 / 255), lambda x: x / 255),
        (lambda: Rescaling(1 / 127.5, -1), lambda x: x / 127.5 - 1),
        (lambda: Normalization(mean=[90, 100, 110], variance=[3000, 3100, 4000]),
         lambda x: (x - np.array([90, 100, 110])) / np.sqrt([3000, 3100, 4000])),
    ],
)  # fmt: skip
def test_training_is_as_on_data_scaled_by_hand(backend, tmp_path, first, by_hand):
    x, t = images(), np.arange(12) % 3
    model = net(first(), backend, dtype="float64", seed=4)
    plain = net(Rescaling(1.0), backend, dtype="float64", seed=4)
    for network, data in ((model, x), (plain, by_hand(x.astype("f8")))):
        network.compile("sgd", "sparse_categorical_crossentropy")
        network.fit(data, t, batch_size=5, epochs=2, verbose=0)  # and nobody warns of raw pixels
    np.testing.assert_allclose(model.predict(x), plain.predict(by_hand(x.astype("f8"))), rtol=1e-9)
    given = [w for layer in model.layers[1:] for w in layer.get_weights()]
    for one, other in zip(given, [w for layer in plain.layers[1:] for w in layer.get_weights()], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)
    model.save(tmp_path / "net.safetensors")
    again = xconv.load(tmp_path / "net.safetensors", backend=backend)
    assert np.array_equal(again.predict(x), model.predict(x)) and again.layers[0].config() == model.layers[0].config()


def test_statistics_are_not_trained(backend):
    x, t = images(), np.arange(12) % 3
    model = net(Normalization(mean=100, variance=3000), backend)
    model.predict(x)
    before = model.layers[0].get_weights()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, t, batch_size=4, epochs=2, verbose=0)
    assert [w.tolist() for w in model.layers[0].get_weights()] == [w.tolist() for w in before]
    assert [w.tolist() for w in before] == [[100.0] * 3, [3000.0] * 3]


def test_no_gradient_goes_to_the_pixels(monkeypatch, backend):
    asked = []
    for kind in (Rescaling, Normalization):
        backward = kind.backward
        monkeypatch.setattr(
            kind, "backward", lambda self, dy, saved, need, f=backward: asked.append(1) or f(self, dy, saved, need)
        )
    for first in (Rescaling(1 / 255), Normalization(mean=100, variance=3000)):
        model = net(first, backend)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.train_on_batch(images(), np.arange(12) % 3)
    assert not asked


def test_summary_and_memory():
    model = net(Normalization(mean=100, variance=3000))
    plain = facts(xconv.Sequential(model.layers[1:], input_shape=(5, 4, 3), backend="numpy"), 7)
    seen = facts(model, 7)
    assert seen["trainable_params"] == plain["trainable_params"] and seen["non_trainable_params"] == 6
    assert seen["peak_bytes"] > plain["peak_bytes"]  # what comes out of the layer is kept for the convolution


def test_raw_pixels_are_meant_where_a_layer_scales_them(backend):
    x, t = images(), np.arange(12) % 3
    for first in (Rescaling(1 / 255), Normalization(mean=100, variance=3000)):
        model = net(first, backend)
        model.compile("sgd", "sparse_categorical_crossentropy")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RawPixelsWarning)
            model.fit(x, t, batch_size=4, epochs=1, validation_data=(x, t), verbose=0)
            model.fit(((x[i : i + 4], t[i : i + 4]) for i in (0, 4, 8)), steps_per_epoch=3, verbose=0)
            model.evaluate(x, t, verbose=0)
            model.predict(x)
    inputs = Input((5, 4, 3))
    both = xconv.Model(inputs, [Flatten()(Rescaling(1 / 255)(inputs)), Flatten()(inputs)], backend=backend)
    with pytest.warns(RawPixelsWarning):  # one of the two who read them does not scale them
        both.predict(x)


# ---------------------------------------------------------------------- refusals

REFUSED = [
    (lambda: Rescaling("2"), ConfigError, "Rescaling: scale must be a finite number. Received: '2'"),
    (lambda: Rescaling(1, math.inf), ConfigError, "Rescaling: offset must be a finite number. Received: inf"),
    (
        lambda: Normalization(mean=1, name="n"),
        ConfigError,
        "n (Normalization): mean and variance go together. Received: mean 1, variance None",
    ),
    (
        lambda: Normalization(mean=1, variance=[1, -2]),
        ConfigError,
        "Normalization: variance must be a finite number >= 0. Received: -2",
    ),
    (
        lambda: Normalization("last"),
        ConfigError,
        "Normalization: axis must be an integer. Received: 'last'",
    ),
    (
        lambda: net(Normalization()).params,
        ConfigError,
        "normalization1 (Normalization): call its adapt(x_train) before it comes into a model, or give mean and "
        "variance. Received: neither",
    ),
    (
        lambda: net(Normalization(mean=[1, 2], variance=[1, 2])).params,
        ShapeError,
        "normalization1 (Normalization): mean must be one number, or one for each of the 3 channels. "
        "Received: 2 numbers",
    ),
    (
        lambda: net(Normalization(1, 0, 1)).params,
        ConfigError,
        "axis must be that of the channels, 3 or -1 here. Received: axis 1 for inputs of shape (None, 5, 4, 3)",
    ),
    (
        lambda: Normalization().adapt(np.zeros((0, 4))),
        DataError,
        "Normalization: adapt: expected at least one example. Received: shape (0, 4)",
    ),
    (
        lambda: Normalization(3).adapt(np.zeros((5, 4))),
        ShapeError,
        "Normalization: adapt: expected examples [N, ...] with an axis 3 that is not the first. Received: shape (5, 4)",
    ),
    (
        lambda: Normalization().adapt(np.array([[1.0, np.nan]])),
        DataError,
        "Normalization: adapt: expected finite numbers. Received: 1 NaN or infinite values, the first at index (0, 1)",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be(make, error, message):
    with pytest.raises(error) as told:
        make()
    assert message in str(told.value)


def test_arrays_of_a_device_are_refused_by_adapt(cupy):
    with pytest.raises(BackendError, match=r"adapt: expected a NumPy array.*on a GPU"):
        Normalization().adapt(cupy.asarray(images()))
