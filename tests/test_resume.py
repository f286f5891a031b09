"""Training that goes on from a file, and what a Keras user expects of models beside it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import xconv
from tests.conftest import load as load_backend
from xconv import Sequential, checkpoint, optimizers, schedules
from xconv.errors import ConfigError, DataError, FileError, ShapeError
from xconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Layer, ReLU

RNG = np.random.default_rng(0)
X, T = RNG.random((40, 8, 8, 1), np.float32), RNG.integers(0, 3, 40)
RULES = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]


def network(backend, optimizer="adam", dtype="float32"):
    layers = [Conv2D(3, 3), BatchNormalization(), ReLU(), Flatten(), Dropout(0.3), Dense(3, activation="softmax")]
    model = Sequential(layers, input_shape=(8, 8, 1), backend=backend, seed=4, dtype=dtype)
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return model


def train(model, first, last):
    return model.fit(X, T, 10, last, initial_epoch=first, verbose=0).history["loss"]


@pytest.mark.parametrize("rule", RULES)
def test_a_loaded_run_is_the_unbroken_one_to_the_bit(backend, rule, tmp_path):
    unbroken, broken = network(backend, rule), network(backend, rule)
    expected = train(unbroken, 0, 3)
    assert train(broken, 0, 1) == expected[:1]
    broken.save(tmp_path / "run.safetensors")
    again = xconv.load(tmp_path / "run.safetensors", backend=backend)
    assert again.optimizer.steps == 4 and repr(again.optimizer) == repr(broken.optimizer)
    assert train(again, 1, 3) == expected[1:]
    for mine, theirs in zip(again.get_weights(), unbroken.get_weights(), strict=True):
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("there", ["numpy", "numba", "cupy"])
@pytest.mark.parametrize("here", ["numpy", "numba"])
def test_a_run_goes_on_on_another_backend(here, there, tmp_path):
    expected = train(network("numpy", dtype="float64"), 0, 2)
    model = network(here, dtype="float64")
    train(model, 0, 1)
    model.save(tmp_path / "run.safetensors")
    again = xconv.load(tmp_path / "run.safetensors", backend=load_backend(there))
    np.testing.assert_allclose(train(again, 1, 2), expected[1:], rtol=1e-9)


def test_the_rate_goes_on_where_it_was(tmp_path):
    model = network("numpy", optimizers.Adam(schedules.StepDecay(0.01, every=3)))
    train(model, 0, 1)
    model.save(tmp_path / "run.safetensors")
    again = xconv.load(tmp_path / "run.safetensors", backend="numpy")
    assert train(again, 1, 2) == train(model, 1, 2) and again.optimizer.lr == model.optimizer.lr == 0.0025


def test_weights_alone_hold_no_training(tmp_path):
    model = network("numpy")
    train(model, 0, 1)
    model.save_weights(tmp_path / "weights.safetensors")
    model.save(tmp_path / "run.safetensors")
    assert set(checkpoint.load(tmp_path / "weights.safetensors")[0]) == set(model.params)
    bare = xconv.load(tmp_path / "weights.safetensors", backend="numpy")
    assert bare.optimizer is None
    for file in ("weights", "run"):
        other = network("numpy")
        other.load_weights(tmp_path / f"{file}.safetensors")
        assert np.array_equal(other.predict(X), model.predict(X))
    assert xconv.load_model(tmp_path / "run.safetensors", compile=False).optimizer is None


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    model = network("numpy")
    train(model, 0, 1)
    model.save(tmp_path / "run.safetensors")
    tensors, about = checkpoint.load(tmp_path / "run.safetensors")
    for name, value in [
        ("training/optimizer/m", np.zeros(3, np.float32)),
        ("training/optimizer/hyper", np.zeros(3)),
        ("training/optimizer/z", np.zeros(tensors["training/optimizer/m"].shape, np.float32)),
        ("training/optimizer/conv2d1.w:m", np.zeros((2, 2), np.float32)),
        ("training/steps", np.zeros(2, np.uint64)),
    ]:
        checkpoint.save(tmp_path / "bad.safetensors", {**tensors, name: value}, about)
        with pytest.raises(FileError, match="its training settings cannot be used"):
            xconv.load(tmp_path / "bad.safetensors", backend="numpy")


# ---------------------------------------------------------------------- what Keras users write


def test_the_shape_is_learnt_from_examples():
    model = Sequential([Conv2D(2, 3), Flatten(), Dense(3, activation="softmax")], backend="numpy")
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ConfigError, match="not built yet"):
        model.summary()
    model.fit(X, T, verbose=0)
    assert model.input_shape == (8, 8, 1) and len(model.get_weights()) == 4
    built = Sequential([Dense(3)], backend="numpy")
    built.build((None, 5))
    assert built.count_params() == 18


def test_models_among_layers(tmp_path):
    body = Sequential([Conv2D(2, 3, activation="relu"), Flatten()], input_shape=(8, 8, 1), backend="numpy")
    kept = body.get_weights()[0]
    whole = Sequential([body, Dense(4), Dense(3, activation="softmax")], backend="numpy")
    assert [layer.name for layer in whole.layers] == ["conv2d1", "flatten1", "dense1", "dense2"]
    assert np.array_equal(whole.get_weights()[0], kept)
    body.trainable = False
    whole.compile("sgd", "sparse_categorical_crossentropy")
    whole.fit(X, T, verbose=0)
    assert body.get_weights()[0].tobytes() == kept.tobytes()
    whole.save(tmp_path / "whole.safetensors")
    assert np.array_equal(xconv.load(tmp_path / "whole.safetensors", backend="numpy").predict(X), whole.predict(X))
    assert whole.get_layer(index=-1) is whole.get_layer("dense2")


def test_weights_of_examples(backend):
    weights = np.where(np.arange(40) < 20, 0.0, 2.0)
    some, twice = network(backend, "sgd"), network(backend, "sgd")
    for model, kwargs in ((some, {"sample_weight": weights}), (twice, {"class_weight": {0: 1, 1: 1, 2: 1}})):
        model.get_layer("batchnormalization1").trainable = False
        model.get_layer("dropout1").rate = 0.0
        model.fit(X, T, 40, shuffle=False, verbose=0, **kwargs)
    half = network(backend, "sgd")
    half.get_layer("batchnormalization1").trainable = False
    half.get_layer("dropout1").rate = 0.0
    half.fit(X[20:], T[20:], 20, shuffle=False, verbose=0)
    for one, other in zip(some.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.allclose(some.get_weights()[-2], twice.get_weights()[-2], atol=1e-6)
    with pytest.raises(ShapeError, match="a weight for each of 40 examples"):
        some.fit(X, T, sample_weight=weights[:3], verbose=0)
    with pytest.raises(DataError, match="finite"):
        some.fit(X, T, sample_weight=weights * np.nan, verbose=0)


def test_a_last_batch_of_one_is_told_before_the_first_step():
    model = Sequential([Dense(4), BatchNormalization(), Dense(3)], input_shape=(5,), backend="numpy")
    model.compile("sgd", "mse")
    before = model.get_weights()
    with pytest.raises(DataError, match=r"batchnormalization1 .* give another batch_size.* 9 examples in batches of 4"):
        model.fit(np.zeros((9, 5)), np.zeros((9, 3)), 4, verbose=0)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, model.get_weights(), strict=True))
    model.fit(np.zeros((9, 5)), np.zeros((9, 3)), 3, verbose=0)


def test_one_batch_at_a_time():
    model = network("numpy")
    assert model.metrics_names == ["loss", "accuracy"]
    assert np.array_equal(model.predict_on_batch(X[:7]), model.predict(X[:7]))
    assert model.test_on_batch(X[:7], T[:7]) == model.evaluate(X[:7], T[:7])


class Power(Layer):
    """y = x^k, and its config forgets k."""

    def __init__(self, k=2, **base):
        super().__init__(**base)
        self.k = k

    def forward(self, x, ctx):
        return x**self.k, x


def test_a_config_that_leaves_something_out_is_warned_of(tmp_path):
    model = Sequential([Power(3)], input_shape=(2,), backend="numpy")
    with pytest.warns(UserWarning, match=r"power1 \(Power\): its config\(\) leaves out k"):
        model.save(tmp_path / "power.safetensors")
    Power.config = lambda self: {"k": self.k}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.save(tmp_path / "power.safetensors")
    finally:
        del Power.config
