"""Models that meet: one store of parameters, optimizers whose state follows, changes that are whole or not at all."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import xconv
from tests.conftest import load
from xconv import Input, Model, Sequential
from xconv.errors import ConfigError, ShapeError
from xconv.initializers import ones
from xconv.layers import Conv2D, Dense, Flatten, Layer, ParamSpec, Softmax
from xconv.losses import CategoricalCrossentropy

RNG = np.random.default_rng(0)
X, T = RNG.random((12, 4), np.float32), RNG.integers(0, 3, 12)


def two(backend="numpy"):
    """A classifier and its encoder, which share a layer."""
    x = Input((4,))
    h = Dense(5, activation="relu", name="h")(x)
    a = Model(x, Dense(3, activation="softmax", name="o")(h), backend=backend)
    a.compile("adam", "sparse_categorical_crossentropy")
    return a, Model(x, h, backend=backend)


def test_a_layer_that_came_back_is_followed():
    a, b = two()
    a.predict(X)
    b.predict(X)
    b.to("numba").to("numpy")
    before = a.evaluate(X, T)
    a.fit(X, T, epochs=20, verbose=0)
    assert a.evaluate(X, T) < before - 0.01
    a.params["h.w"] = np.zeros((4, 5))
    assert len(np.unique(b.predict(X), axis=0)) == 1 and a.get_layer("h").params["w"] is a.params["h.w"]


def test_models_that_overlap_in_part_have_one_store(backend):
    x = Input((4,))
    h = Dense(5, name="h")(x)
    a, c = Model(x, Dense(3, name="o")(h), backend=backend), Model(x, Dense(2, name="c")(h), backend=backend)
    pa, pc = a.params, c.params
    a.predict(X)
    assert a.params is a.params and c._store is a._store
    c.predict(X)
    kept = c._store
    a.predict(X)
    assert c._store is a._store is kept  # and so it stays
    c.params["h.w"] = np.zeros((4, 5))
    assert not backend.to_numpy(a.params["h.w"]).any()
    assert set(pa) == {"h.w", "h.b", "o.w", "o.b"} == set(a.params) and set(pc) == set(c.params)


def test_a_backend_that_is_named_holds_and_none_follows():
    a, b = two()
    a.predict(X)
    named = Model(b.inputs, b.outputs, backend="numba")
    assert named.predict(X).shape == (12, 5) and named.backend.name == a.backend.name == "numba"
    a.to("numpy")
    follows = Model(b.inputs, b.outputs)
    assert follows.predict(X).shape == (12, 5) and follows.backend.name == a.backend.name == "numpy"
    more = Model(b.inputs, Dense(2, name="new")(b.outputs[0]))
    assert more.predict(X).shape == (12, 2) and more.backend.name == a.backend.name == "numpy"


def test_an_optimizer_keeps_its_state_when_a_second_model_comes(backend):
    ended = []
    for meet in (False, True):
        x = Input((4,))
        h = Dense(5, name="h")(x)
        a = Model(x, Dense(3, activation="softmax", name="o")(h), backend=backend)
        a.compile("adam", "sparse_categorical_crossentropy")
        a.fit(X, T, 4, 2, verbose=0)
        if meet:
            Model(x, Dense(2, name="c")(h), backend=backend).predict(X)
        a.fit(X, T, 4, 4, initial_epoch=2, verbose=0)
        ended.append(a.get_weights())
        assert a.optimizer.steps == 12
    for alone, together in zip(*ended, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-7)


def test_an_optimizer_follows_added_and_replaced_layers():
    model = Sequential([Dense(4, name="a"), Dense(3, name="b")], input_shape=(4,), backend="numpy")
    model.compile("adam", "mse")
    model.fit(X, X[:, :3], verbose=0)
    kept = np.array(model.optimizer.state_arrays()["m"])
    model.pop()
    model.add(Dense(2, name="b"))
    model.fit(X, X[:, :2], verbose=0)  # b's old state does not fit, and is dropped
    state = model.optimizer.state_arrays()["m"]
    assert state.shape == model._parameters.flat.shape and kept[:16].any()


def test_a_move_before_the_first_use():
    a, b = two()
    a.predict(X)
    b.to("numba")
    assert b.backend.name == a.backend.name == "numba"
    b.predict(X)
    fresh = Model(b.inputs, b.outputs, backend=load("cupy"))  # shares the layers
    fresh.predict(X)
    x = Input((4,))
    new = Model(x, Dense(2)(x), backend=load("cupy")).to("numpy")
    assert new.predict(X).shape == (12, 2) and new.backend.name == "numpy"


class Slope(Layer):
    """y = a x: an activation with a parameter."""

    def param_specs(self, in_shape):
        return {"a": ParamSpec((1,), ones)}

    def forward(self, x, ctx):
        return x * self.params["a"], x

    def backward(self, dy, saved, need):
        return dy * self.params["a"], {"a": (dy * saved).sum().reshape(1)}


def test_an_activation_with_a_parameter_is_frozen_and_saved_with_its_layer(tmp_path):
    model = Sequential([Dense(4, activation=Slope(), name="h"), Dense(3)], input_shape=(4,), backend="numpy")
    model.compile("adam", "mse")
    model.freeze("h")
    before = model.get_weights()
    model.fit(X, X[:, :3], verbose=0)
    same = [a.tobytes() == b.tobytes() for a, b in zip(before, model.get_weights(), strict=True)]
    assert dict(zip(model.params, same, strict=True)) == {
        "h.w": True, "h.b": True, "h.slope.a": True, "dense2.w": False, "dense2.b": False
    }  # fmt: skip
    model.save(tmp_path / "slope.safetensors")
    again = xconv.load(tmp_path / "slope.safetensors", custom_layers={"Slope": Slope}, backend="numpy")
    assert np.array_equal(again.predict(X), model.predict(X)) and not again.get_layer("h").trainable


class Tenfold(CategoricalCrossentropy):
    """A loss of one's own on top of one of ours."""

    def __init__(self, factor=10.0):
        super().__init__()
        self.factor = factor

    def each(self, xp, y, t):
        values, dy = super().each(xp, y, t)
        return values * self.factor, dy * self.factor


def test_a_loss_of_ones_own_is_what_is_computed(backend):
    model = Sequential([Dense(3, activation="softmax")], input_shape=(4,), backend=backend)
    model.compile("sgd", "categorical_crossentropy")
    one = model.evaluate(X, np.eye(3)[T])
    model.compile("sgd", Tenfold())
    assert model.evaluate(X, np.eye(3)[T]) == pytest.approx(10 * one, rel=1e-5)


def test_what_cannot_be_added_leaves_nothing_behind():
    model = Sequential(backend="numpy")
    with pytest.raises(ShapeError):
        model.add(Conv2D(8, 5, input_shape=(3, 3, 1)))
    model.add(Conv2D(8, 3, input_shape=(28, 28, 1)))
    assert model.input_shape == (28, 28, 1)
    with pytest.raises(ConfigError):
        model.add(Sequential([Dense(2)], backend="numpy"))
    model.add(Flatten())
    late = Sequential([Conv2D(2, 3), Flatten()], backend="numpy")
    with pytest.raises(ShapeError):
        late.predict(np.zeros((2, 2, 2, 1)))
    assert late.predict(np.zeros((2, 9, 9, 1))).shape == (2, 98)


def test_one_batch_is_one_batch():
    x = Input((4,))
    model = Model(x, Dense(2)(x), backend="numpy")
    model.compile("sgd", "mse")
    sizes = []
    inner = model._outputs
    model._outputs = lambda xs, *rest: sizes.append(len(xs[0])) or inner(xs, *rest)
    for given in (X, [X], {"input1": X}):
        model.predict_on_batch(given)
        model.test_on_batch(given, X[:, :2])
    assert sizes == [12] * 6


def test_class_weights_of_numpy_and_of_no_class():
    a, _ = two()
    a.fit(X, T, class_weight={np.int64(0): np.float32(2), 1: np.int64(1)}, verbose=0)
    with pytest.raises(ConfigError, match=r"class_weight: expected classes from 0 to 2.* Received: 0\.0: 1\.0"):
        a.fit(X, T, class_weight={0.0: 1.0}, verbose=0)


def test_compile_and_set_weights_are_whole_or_nothing():
    a, _ = two()
    before, rule = a.get_weights(), a.optimizer
    with pytest.raises(ConfigError):
        a.compile("sgd", "nonsense")
    assert a.optimizer is rule and a.evaluate(X, T) > 0
    with pytest.raises(ShapeError):
        a.set_weights([np.zeros((4, 5)), np.zeros(7), np.zeros((5, 3)), np.zeros(3)])
    assert all(x.tobytes() == y.tobytes() for x, y in zip(before, a.get_weights(), strict=True))


def test_a_ready_layer_is_frozen_as_the_file_says(tmp_path):
    model = Sequential([Slope(name="s"), Dense(2)], input_shape=(4,), backend="numpy")
    model.freeze("s")
    model.save(tmp_path / "s.safetensors")
    for given in (Slope, Slope()):
        again = xconv.load(tmp_path / "s.safetensors", custom_layers={"s": given}, backend="numpy")
        assert not again.get_layer("s").trainable


def test_models_that_are_gone_leave_no_layers():
    x = Input((4,))
    y = Dense(2)(x)
    base = Model(x, y, backend="numpy")
    base.predict(X)
    for _ in range(5):
        Model(x, Softmax()(y), backend="numpy").predict(X)
    gc.collect()
    assert len(base._store.layers) <= 3
