"""Models that share layers: extractors, transfer learning, a model inside another; one set of weights for all."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks import close, draw
from tests.conftest import load
from xconv import Model, Sequential
from xconv.errors import ConfigError, ShapeError
from xconv.layers import BatchNormalization, Concatenate, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from xconv.optimizers import SGD, Adam, AdamW

X, T = draw(24, 4).astype(np.float32), np.arange(24) % 3


def bits(model) -> dict[str, bytes]:
    return {name: w.tobytes() for name, w in model.params.to_numpy().items()}


def two(backend, **settings) -> tuple[Model, Model]:
    """Two classifiers on one layer; the heads have the same name."""
    x = Input((4,))
    common = Dense(5, activation="tanh", name="common")(x)
    models = [Model(x, Dense(3, name="head")(common), backend=backend, seed=i, **settings) for i in (1, 2)]
    for model in models:
        model.compile(SGD(0.5), "softmax_cross_entropy")
    return models[0], models[1]


def test_each_sees_what_the_other_trained(backend):
    a, b = two(backend)
    assert bits(a)["common.w"] == bits(b)["common.w"] and bits(a)["head.w"] != bits(b)["head.w"]
    for trained, other in ((a, b), (b, a), (a, b)):
        before = bits(other)
        trained.fit(X, T, 8, verbose=0)
        assert bits(other)["common.w"] == bits(trained)["common.w"] != before["common.w"]
        assert bits(other)["head.w"] == before["head.w"] != bits(trained)["head.w"]
        w = trained.params.to_numpy()
        expected = np.tanh(X @ w["common.w"] + w["common.b"]) @ other.params.to_numpy()["head.w"]
        np.testing.assert_allclose(other.predict(X), expected + other.params.to_numpy()["head.b"], rtol=1e-4, atol=1e-5)


def test_alternate_training_is_as_one_model_with_two_heads(backend):
    """Head by head with SGD, against a model of both whose other loss has weight 0."""
    a, b = two(backend, dtype="float64")
    start = a.params.to_numpy() | {f"b.{name}": w for name, w in b.params.to_numpy().items()}
    x = Input((4,))
    common = Dense(5, activation="tanh", name="common")(x)
    heads = [Dense(3, name="a")(common), Dense(3, name="b")(common)]
    both = Model(x, heads, backend=backend, dtype="float64")
    for name, w in zip(("common", "a", "b"), ("common", "head", "b.head"), strict=True):
        for p in "wb":
            both.params[f"{name}.{p}"] = start[f"{w}.{p}"]
    for step, model in enumerate((a, b, b, a)):
        here = slice(step * 5, step * 5 + 5)
        model.train_on_batch(X[here], T[here])
        both.compile(SGD(0.5), "softmax_cross_entropy", None, {"a": float(model is a), "b": float(model is b)})
        both.train_on_batch(X[here], [T[here]] * 2)
    for model, head in ((a, "a"), (b, "b")):
        for name, w in model.params.to_numpy().items():
            np.testing.assert_allclose(w, both.params.to_numpy()[name.replace("head", head)], rtol=1e-9, atol=1e-12)


def test_values_come_from_the_layers_own_model(backend):
    """Not from another that has a layer of the same name, whichever is met first."""
    a = Sequential([Dense(4, name="one", input_shape=(4,)), Dense(4, name="two")], backend=backend, seed=1)
    b = Sequential([Dense(4, name="two", input_shape=(4,)), Dense(4, name="three")], backend=backend, seed=2)
    from_a, from_b = a.params.to_numpy(), b.params.to_numpy()
    for first, second in ((b, a), (a, b)):
        x = Input((4,))
        layers = [b.get_layer("two"), a.get_layer("one")] if first is b else [a.get_layer("one"), b.get_layer("two")]
        mixed = Model(x, layers[1](layers[0](x)), backend=backend)
        got = mixed.params.to_numpy()
        for p in "wb":
            assert got[f"one.{p}"].tobytes() == from_a[f"one.{p}"].tobytes()
            assert got[f"two.{p}"].tobytes() == from_b[f"two.{p}"].tobytes() != from_a[f"two.{p}"].tobytes() or p == "b"
        assert bits(a) == {name: w.tobytes() for name, w in from_a.items()}
        assert bits(b) == {name: w.tobytes() for name, w in from_b.items()}
        assert second.params is second.params


def test_a_model_that_moves_takes_the_others_along(backend):
    a, b = two("numpy")
    features = Model(a.inputs, a.get_layer("common").output, backend="numpy")
    for model in (a, features, b):
        model.predict(X)
    expected = [model.predict(X) for model in (a, b, features)]
    b.to(backend)
    for model, before in zip((a, b, features), expected, strict=True):
        np.testing.assert_allclose(model.predict(X), before, rtol=1e-5, atol=1e-6)
        assert model.backend is backend
    a.fit(X, T, verbose=0)
    a.to("numpy")
    np.testing.assert_allclose(features.predict(X), np.tanh(X @ a.params["common.w"] + a.params["common.b"]), rtol=1e-5)
    assert features.backend is load("numpy") and isinstance(a.get_layer("common").params["w"], np.ndarray)


def test_layers_without_weights_in_models_of_two_backends(backend):
    """An activation, say, runs for each model where that model is, and drags none along."""
    shape = Flatten()
    a = Sequential([Dense(3, name="a"), shape], input_shape=(2, 2, 2), backend=backend)
    b = Sequential([Dense(3, name="b"), shape], input_shape=(2, 2, 2), backend="numpy")
    x = draw(5, 2, 2, 2)
    for _ in range(2):
        for model in (a, b):
            w, bias = model.get_weights()
            np.testing.assert_allclose(model.predict(x), (x @ w + bias).reshape(5, 12), rtol=1e-4, atol=1e-6)
    assert a.backend is backend and b.backend is load("numpy")


def test_an_extractor_of_a_sequential(backend):
    net = Sequential(
        [Conv2D(3, 3, activation="relu", name="conv"), MaxPooling2D(2), Flatten(), Dense(3)],
        input_shape=(6, 6, 1),
        backend=backend,
    )
    x = draw(5, 6, 6, 1)
    features = Model(net.inputs, [net.get_layer("conv").output, net.get_layer("flatten1").output], backend=backend)
    maps, flat = features.predict(x)
    assert maps.shape == (5, 4, 4, 3) and flat.shape == (5, 12)
    pooled = maps.reshape(5, 2, 2, 2, 2, 3).max(axis=(2, 4)).reshape(5, 12)
    np.testing.assert_allclose(flat, pooled, rtol=1e-6)
    w = net.params.to_numpy()
    np.testing.assert_allclose(net.predict(x), flat @ w["dense1.w"] + w["dense1.b"], rtol=1e-4, atol=1e-6)
    assert features.count_params() == net.count_params() - 39


def base_model(backend) -> Sequential:
    layers = [
        Conv2D(4, 3, kernel_regularizer="l2", input_shape=(6, 6, 1)),
        BatchNormalization(),
        Dropout(0.3),
        Flatten(),
        Dense(6, activation="relu", kernel_regularizer="l1"),
    ]
    return Sequential(layers, name="base", backend=backend, seed=1)


@pytest.mark.parametrize("optimizer", [Adam(0.01), AdamW(0.01, weight_decay=0.1)], ids=["adam", "adamw"])
def test_transfer_learning(backend, optimizer):
    """A frozen base stays as it is to the byte, batch-norm's statistics included; a new head on it learns."""
    base = base_model(backend)
    x, t = draw(24, 6, 6, 1), np.arange(24) % 3
    base.compile("sgd", "mse")
    base.fit(x, draw(24, 6, seed=1), verbose=0)
    base.trainable = False
    assert not base.trainable
    before, answers = bits(base), base.predict(x)
    image = Input((6, 6, 1))
    model = Model(image, Dense(3, activation="softmax", name="top")(base(image)), backend=backend)
    model.compile(optimizer.fresh(), "sparse_categorical_crossentropy")
    top = model.get_weights()[-2:]
    model.fit(x, t, 8, 3, verbose=0)
    assert bits(base) == before and {name: bits(model)[name] for name in before} == before
    np.testing.assert_array_equal(base.predict(x), answers)
    assert all(not np.array_equal(a, b) for a, b in zip(top, model.get_weights()[-2:], strict=True))
    base.trainable = True  # and fine-tuned
    model.compile(SGD(0.001))
    model.fit(x, t, 8, verbose=0)
    after = bits(base)
    assert all(after[name] != before[name] for name in before) and {n: bits(model)[n] for n in after} == after


def test_a_generator_trains_through_a_frozen_judge(backend):
    generator = Sequential(
        [Dense(6, activation="relu", name="g1"), Dense(4, name="g2")], input_shape=(2,), backend=backend
    )
    judge = Sequential(
        [Dense(6, activation="relu", name="j1"), Dense(1, activation="sigmoid", name="j2")],
        input_shape=(4,),
        backend=backend,
    )
    z = Input((2,))
    both = Model(z, judge(generator(z)), name="gan", backend=backend)
    judge.compile(Adam(0.01), "binary_crossentropy")
    both.compile(Adam(0.01), "binary_crossentropy")
    noise = draw(24, 2, seed=5)
    for _ in range(3):
        here, there = bits(generator), bits(judge)
        judge.trainable = True
        made = generator.predict(noise)
        judge.train_on_batch(np.concatenate([X, made]), np.repeat([1.0, 0.0], 24))
        assert bits(generator) == here and all(w != there[name] for name, w in bits(judge).items())
        there = bits(judge)
        judge.trainable = False
        loss = both.train_on_batch(noise, np.ones(24))
        assert bits(judge) == there and all(w != here[name] for name, w in bits(generator).items())
        assert loss == pytest.approx(-np.log(judge.predict(made)).mean(), rel=1e-4)
    np.testing.assert_array_equal(both.predict(noise), judge.predict(generator.predict(noise)))


def test_a_model_inside_another_twice(backend):
    """Twins (Bromley et al. 1993): one tower for both images, several outputs of a part."""
    x = Input((4,))
    hidden = Dense(3, activation="tanh", name="tower")(x)
    tower = Model(x, [hidden, Dense(2, name="side")(hidden)], backend=backend, dtype="float64")
    left, right = Input((4,), name="left"), Input((4,), name="right")
    parts = [*tower(left), *tower([right])]
    twins = Model([left, right], Concatenate()(parts), backend=backend, dtype="float64")
    assert twins.count_params() == tower.count_params() == 15 + 8
    a, b = draw(6, 4), draw(6, 4, seed=1)
    expected = np.concatenate([*tower.predict(a), *tower.predict(b)], axis=1)
    close(backend, backend.asarray(twins.predict([a, b])), expected, "elementwise")
    with pytest.raises(
        ShapeError, match=r"model: expected a tensor of shape \(None, 4\). Received: <Tensor \(None, 5\)"
    ):
        tower(Input((5,)))
    with pytest.raises(ShapeError, match=r"model: expected 1 tensors. Received: 2"):
        tower([left, right])
    with pytest.raises(ConfigError, match=r"tower \(Dense\): layers are called on symbolic tensors.*predict"):
        tower(a)


def test_layers_that_got_the_same_name_cannot_meet():
    parts = [Sequential([Dense(4)], input_shape=(4,), backend="numpy") for _ in range(2)]
    x = Input((4,))
    with pytest.raises(
        ConfigError, match=r"give name= to layers that meet in one model. Received: 'dense1' for 2 layers"
    ):
        Model(x, parts[1](parts[0](x)))


def test_models_that_share_have_one_dtype():
    a = Sequential([Dense(4)], input_shape=(4,), backend="numpy")
    a.predict(X)
    x = Input((4,))
    b = Model(x, Dense(2, name="top")(a(x)), backend="numpy", dtype="float64")
    with pytest.raises(ConfigError, match=r"dense1 \(Dense\): models that share a layer have one dtype: float32"):
        b.predict(X)
    np.testing.assert_array_equal(a.predict(X), X @ a.params["dense1.w"])


def test_weights_of_a_layer(backend):
    model = Sequential([Dense(2, name="d"), Flatten(), BatchNormalization()], input_shape=(3,), backend=backend)
    layer = model.get_layer("d")
    with pytest.raises(ConfigError, match=r"d \(Dense\): get_weights: .*ask model.params"):
        layer.get_weights()
    assert [w.shape for w in model.get_weights()] == [(3, 2), (2,), (2,), (2,), (2,), (2,)]
    w, b = layer.get_weights()
    w *= 2  # a copy
    np.testing.assert_array_equal(layer.get_weights()[0] * 2, w)
    layer.set_weights([w, b])
    np.testing.assert_array_equal(model.params.to_numpy()["d.w"], w)
    assert model.layers[1].get_weights() == []
    with pytest.raises(ConfigError, match=r"d \(Dense\): set_weights: expected 2 arrays. Received: 1"):
        layer.set_weights([w])
    with pytest.raises(ShapeError, match=r"d.w.*expected shape \(3, 2\)"):
        layer.set_weights([w.T, b])


def test_adding_and_taking_off_keeps_weights(backend):
    model = Sequential([Dense(4, activation="tanh"), Dense(3)], input_shape=(4,), backend=backend, seed=3)
    before = model.get_weights()
    answers = model.predict(X)
    head = model.pop()
    assert model.output_shape == (4,)
    np.testing.assert_allclose(model.predict(X) @ before[2] + before[3], answers, rtol=1e-4, atol=1e-6)
    model.add(Dense(5))
    assert [w.tobytes() for w in model.get_weights()[:2]] == [w.tobytes() for w in before[:2]]
    assert model.predict(X).shape == (24, 5)
    model.pop()
    model.add(head)
    np.testing.assert_array_equal(model.predict(X), answers)
