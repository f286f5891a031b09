"""What is minimised, and what is left alone: weights of classes, penalties, smoothing, frozen layers, wrong labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import reference
from tests.checks import draw
from xconv import Model, Sequential
from xconv.errors import ConfigError, DataError, DTypeError, NonFiniteError, ShapeError
from xconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input
from xconv.losses import BinaryCrossentropy, CategoricalCrossentropy
from xconv.optimizers import SGD, Adam, AdamW, Momentum, RMSprop
from xconv.regularizers import L1, L1L2, L2

X, T = draw(30, 4), np.arange(30) % 3


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def bits(model) -> dict[str, bytes]:
    return {name: w.tobytes() for name, w in model.params.to_numpy().items()}


def classifier(backend, loss="sparse_categorical_crossentropy", lr=0.1) -> Sequential:
    layers = [Dense(3, activation="softmax", name="d")]
    model = Sequential(layers, input_shape=(4,), backend=backend, dtype="float64")
    model.compile(SGD(lr), loss, ["accuracy"])
    return model


# ---------------------------------------------------------------------- weights of classes


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weight_against_the_weighted_loss(backend, one_hot):
    """sum over n of w_n l_n / N, as Keras has it: not divided by the sum of weights."""
    model = classifier(backend, "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy")
    w, b = model.get_weights()
    table = np.array([2.0, 0.5, 1.0])
    y = np.eye(3)[T] if one_hot else T
    history = model.fit(X, y, 30, class_weight={0: 2.0, 1: 0.5}, verbose=0)  # class 2 has weight 1
    p, weights = softmax(X @ w + b), table[T]
    dz = (p - np.eye(3)[T]) * weights[:, None] / 30
    np.testing.assert_allclose(model.get_weights()[0], w - 0.1 * X.T @ dz, rtol=1e-10)
    np.testing.assert_allclose(model.get_weights()[1], b - 0.1 * dz.sum(axis=0), rtol=1e-10, atol=1e-14)
    loss = (weights * -np.log(p[np.arange(30), T])).sum() / 30
    assert history.history["loss"] == pytest.approx([loss], rel=1e-10)
    assert history.history["accuracy"] == [np.mean(p.argmax(axis=1) == T)]  # metrics are not weighted


def test_class_weight_of_two_classes(backend):
    layers = [Dense(1, activation="sigmoid", name="d")]
    model = Sequential(layers, input_shape=(4,), backend=backend, dtype="float64")
    model.compile(SGD(0.1), "binary_crossentropy")
    (w, b), t = model.get_weights(), (X[:, 0] > 0.5).astype(float)
    loss = model.train_on_batch(X, t, class_weight={1: 3.0})
    p = 1 / (1 + np.exp(-(X @ w + b)[:, 0]))
    weights = np.where(t == 1, 3.0, 1.0)
    assert loss == pytest.approx((weights * -np.where(t == 1, np.log(p), np.log(1 - p))).mean(), rel=1e-10)
    dz = (weights * (p - t) / 30)[:, None]
    np.testing.assert_allclose(model.get_weights()[0], w - 0.1 * X.T @ dz, rtol=1e-10)


def test_class_weight_is_split_with_its_examples(backend):
    a, b = classifier(backend), classifier(backend)
    table = {0: 5.0, 2: 0.1}
    a.fit(X, T, 7, 2, class_weight=table, validation_split=0.25, verbose=0)
    b.fit(X[:22], T[:22], 7, 2, class_weight=table, verbose=0)
    assert bits(a) == bits(b)
    assert a.history.history["val_loss"][-1] == a.evaluate(X[22:], T[22:])[0]  # validation is not weighted


@pytest.mark.parametrize("table", [{3: 1.0}, {-1: 1.0}, {0: -1.0}, {0: math.nan}, {0: math.inf}, {"0": 1.0}, {0: "1"}])
def test_class_weights_that_cannot_be(table):
    with pytest.raises(ConfigError, match=r"fit: class_weight: expected classes from 0 to 2 with weights >= 0"):
        classifier("numpy").fit(X, T, class_weight=table, verbose=0)
    with pytest.raises(ConfigError, match=r"class_weight is a dict"):
        classifier("numpy").fit(X, T, class_weight=[1.0, 2.0, 3.0], verbose=0)


# ---------------------------------------------------------------------- penalties and smoothing


def test_penalties_are_in_loss_and_gradient(backend):
    layers = [
        Conv2D(2, 2, kernel_regularizer=L2(0.3), bias_regularizer=L1(0.2), bias_initializer="ones", name="conv"),
        BatchNormalization(name="bn"),
        Flatten(),
        Dense(3, activation="softmax", kernel_regularizer=L1L2(0.02, 0.1), name="dense"),
    ]
    model = Sequential(layers, input_shape=(3, 3, 1), backend=backend, dtype="float64")
    model.compile(SGD(0.1), "sparse_categorical_crossentropy", ["accuracy"])
    x, t = draw(6, 3, 3, 1), np.arange(6) % 3
    w = model.params.to_numpy()
    penalty = (
        0.3 * (w["conv.w"] ** 2).sum()
        + 0.2 * np.abs(w["conv.b"]).sum()
        + 0.02 * np.abs(w["dense.w"]).sum()
        + 0.1 * (w["dense.w"] ** 2).sum()
    )
    own = -np.log(model.predict(x)[np.arange(6), t]).mean()
    assert model.evaluate(x, t, batch_size=4)[0] == pytest.approx(own + penalty, rel=1e-10)
    assert model.loss(x, t) == pytest.approx(own + penalty, rel=1e-10)
    # In training batch-norm uses the batch; the gradient is that of this loss.
    grads = model.gradient(x, t)
    scratch = {name: model.params.to_numpy()[name] for name in ("bn.mean", "bn.var")}
    for name in ("conv.w", "conv.b", "bn.gamma", "bn.beta", "dense.w", "dense.b"):

        def loss(value, name=name):
            held = model.params.to_numpy()
            model.params[name] = value
            twin_loss = trained_loss(model, x, t)
            model.params[name] = held[name]
            return twin_loss

        numerical = reference.numerical_gradient(loss, w[name])
        np.testing.assert_allclose(backend.to_numpy(grads[name]), numerical, atol=1e-7, err_msg=name)
    assert all(np.array_equal(model.params.to_numpy()[name], before) for name, before in scratch.items())


def trained_loss(model, x, t) -> float:
    """The loss of a training step whose optimizer does nothing; moving statistics are put back."""
    held = {name: w for name, w in model.params.to_numpy().items() if name in ("bn.mean", "bn.var")}
    model.compile(SGD(0.0))
    value = model.train_on_batch(x, t)[0]
    for name, w in held.items():
        model.params[name] = w
    return value


def test_frozen_penalties_stay_in_the_loss(backend):
    model = Sequential([Dense(3, kernel_regularizer=L2(1.0), name="d")], input_shape=(4,), backend=backend)
    model.compile(SGD(0.1), "mse")
    before = model.loss(X, draw(30, 3))
    model.freeze()
    assert model.loss(X, draw(30, 3)) == before


def test_penalties_of_a_shared_layer_count_once(backend):
    x = Input((4,))
    layer = Dense(4, kernel_regularizer=L2(0.5), name="d")
    model = Model(x, layer(layer(x)), backend=backend, dtype="float64")
    model.compile(SGD(0.1), "mse")
    y = model.predict(X)
    assert model.loss(X, y) == pytest.approx(0.5 * (model.get_weights()[0] ** 2).sum(), rel=1e-10)


@pytest.mark.parametrize("classes", [1, 3])
def test_label_smoothing(backend, classes):
    binary = classes == 1
    loss = BinaryCrossentropy(label_smoothing=0.2) if binary else CategoricalCrossentropy(label_smoothing=0.2)
    layers = [Dense(classes, activation="sigmoid" if binary else "softmax")]
    model = Sequential(layers, input_shape=(4,), backend=backend, dtype="float64")
    model.compile(SGD(0.1), loss)
    t = (T == 1).astype(float)[:, None] if binary else np.eye(3)[T]
    p = model.predict(X)
    rows = np.hstack([1 - t, t]) if binary else t
    probabilities = np.hstack([1 - p, p]) if binary else p
    smooth = rows * 0.8 + 0.2 / rows.shape[1]
    assert model.loss(X, t) == pytest.approx(-(smooth * np.log(probabilities)).sum(axis=1).mean(), rel=1e-10)


# ---------------------------------------------------------------------- frozen


def networks(backend) -> Sequential:
    layers = [
        Conv2D(3, 3, kernel_regularizer=L2(0.1), input_shape=(5, 5, 2), name="conv"),
        BatchNormalization(name="bn"),
        Dropout(0.3),
        Flatten(),
        Dense(6, activation="relu", kernel_regularizer=L1(0.1), name="dense"),
        Dense(3, activation="softmax", name="top"),
    ]
    model = Sequential(layers, backend=backend, seed=2)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


IMAGES = draw(30, 5, 5, 2).astype(np.float32)
RULES = [
    Adam(0.01),
    AdamW(0.01, weight_decay=0.5),
    Momentum(0.01),
    RMSprop(0.01, clipnorm=0.5),
    SGD(0.1, clipvalue=0.1),
]


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: type(rule).__name__)
def test_frozen_layers_stay_to_the_byte(backend, optimizer):
    model = networks(backend)
    model.compile(optimizer.fresh())
    model.fit(IMAGES, T, 8, verbose=0)  # the optimizer has momentum by now
    model.freeze("conv", "bn", "dense")
    before = bits(model)
    model.fit(IMAGES, T, 8, 2, verbose=0)
    after = bits(model)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"top.w", "top.b"}
    model.unfreeze("bn")
    model.fit(IMAGES, T, 8, 3, verbose=0, initial_epoch=2)
    changed = {name for name, w in bits(model).items() if w != after[name]}
    assert changed == {"top.w", "top.b", "bn.gamma", "bn.beta", "bn.mean", "bn.var"}
    model.unfreeze()
    model.freeze("top")
    before = bits(model)
    model.fit(IMAGES, T, 8, 4, verbose=0, initial_epoch=3)
    assert {name for name, w in bits(model).items() if w == before[name]} == {"top.w", "top.b"}


def test_what_is_frozen_before_all_gets_no_gradient(backend):
    model = networks(backend)
    model.freeze("conv")
    grads = model.gradient(IMAGES, T)
    assert not backend.to_numpy(grads["conv.w"]).any() and backend.to_numpy(grads["dense.w"]).any()


def test_all_frozen(backend):
    model = networks(backend)
    model.trainable = False
    before = bits(model)
    model.fit(IMAGES, T, 8, verbose=0)
    assert bits(model) == before


def test_names_to_freeze():
    with pytest.raises(ConfigError, match=r"expected a layer among .*Received: 'convolution'"):
        networks("numpy").freeze("convolution")


# ---------------------------------------------------------------------- measured


def test_evaluate_is_the_mean_over_all_examples(backend):
    """Whatever the batches; the same numbers as those of predict."""
    model = classifier(backend)
    p = model.predict(X)
    loss, accuracy = -np.log(p[np.arange(30), T]).mean(), np.mean(p.argmax(axis=1) == T)
    for size in (1, 7, 30, 1000):
        assert model.evaluate(X, T, batch_size=size) == pytest.approx([loss, accuracy], rel=1e-10)
        np.testing.assert_allclose(model.predict(X, batch_size=size), p, rtol=1e-10)
    assert model.evaluate(X, T, return_dict=True) == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-10)
    assert model.accuracy(X, T) == accuracy
    assert model.predict(X[:0]).shape == (0, 3)


def test_names_of_what_is_measured(backend):
    x = Input((4,))
    a, b = Dense(3, activation="softmax", name="a")(x), Dense(1, name="b")(x)
    model = Model(x, [a, b], backend=backend)
    t = [T, draw(30, 1)]
    for loss, metric, names in (
        (["sparse_categorical_crossentropy", "mse"], {"a": "acc"}, ["loss", "a_loss", "b_loss", "a_acc"]),
        (["sparse_categorical_crossentropy", "mse"], [["acc"], ["mae", "mse"]], None),
        ({"b": "mse"}, {"b": ["mae"]}, ["loss", "mae"]),
    ):
        model.compile(SGD(0.1), loss, metric)
        labels = t if isinstance(loss, list) else t[1]
        history = model.fit(x=X, y=labels, verbose=0, validation_split=0.2).history
        names = names or ["loss", "a_loss", "b_loss", "a_acc", "b_mae", "b_mse"]
        expected = [*names, *(f"val_{name}" for name in names)]
        assert list(history) == expected
        assert len(model.evaluate(X, labels)) == len(names)


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("loss", "labels", "kind", "message"),
    [
        ("categorical_crossentropy", T, ShapeError, r"for integer labels use 'sparse_categorical_crossentropy'"),
        ("sparse_categorical_crossentropy", np.eye(3)[T], ShapeError, r"for one-hot labels use 'categorical_cross"),
        ("categorical_crossentropy", np.eye(4)[T], ShapeError, r"shape \(30, 3\).*Received: array of shape \(30, 4\)"),
        ("sparse_categorical_crossentropy", T + 1, DataError, r"expected labels from 0 to 2. Received: 3 at index 2"),
        ("sparse_categorical_crossentropy", T - 1, DataError, r"expected labels from 0 to 2. Received: -1 at index 0"),
        ("sparse_categorical_crossentropy", T + 0.5, DTypeError, r"integer labels"),
        (
            "sparse_categorical_crossentropy",
            T[:-1],
            ShapeError,
            r"expected labels for 30 examples.*Received: labels for 29",
        ),
        ("sparse_categorical_crossentropy", ["a"] * 30, DTypeError, r"expected real numbers"),
        ("categorical_crossentropy", np.ones((30, 3)), DataError, r"rows that sum to 1.*Received: a sum of 3"),
        ("binary_crossentropy", np.eye(3)[T] * 2, DataError, r"targets from 0 to 1. Received: 2 at index \(0, 0\)"),
        ("mse", np.full((30, 3), np.nan), DataError, r"expected finite numbers. Received: 90 NaN"),
        ("mse", draw(30, 2), ShapeError, r"Received: array of shape \(30, 2\)"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch"])
def test_labels_that_do_not_fit_the_loss(loss, labels, kind, message, call):
    model = classifier("numpy", loss)
    before = bits(model)
    with pytest.raises(kind, match=rf"^{call}: y: .*{message}"):
        getattr(model, call)(X, labels)
    assert bits(model) == before


def test_examples_that_cannot_be():
    model = classifier("numpy")
    bad = X.copy()
    bad[3, 1] = np.inf
    for call in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(DataError, match=rf"^{call}: x: expected at least one example"):
            getattr(model, call)(X[:0], T[:0])
        with pytest.raises(DataError, match=rf"^{call}: x: expected finite numbers.*\(3, 1\): inf"):
            getattr(model, call)(bad, T)
    with pytest.raises(DataError, match=r"^fit: validation x: expected at least one example"):
        model.fit(X, T, validation_data=(X[:0], T[:0]), verbose=0)


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((5, 1, 6, 7), r"channels_first: give x.transpose\(0, 2, 3, 1\)"),
        ((5, 6, 7), r"the channel axis is missing: give x\[..., None\]"),
        ((6, 7, 1), r"one example: give x\[None\]"),
        ((5, 42), r"flattened: give x.reshape\(-1, 6, 7, 1\)"),
        ((5, 7, 6, 1), r"6, 1\)$"),
    ],
)
def test_images_of_another_shape_and_the_cure(shape, cure):
    model = Sequential([Flatten()], input_shape=(6, 7, 1), backend="numpy")
    with pytest.raises(ShapeError, match=rf"predict: x: expected shape \(N, 6, 7, 1\). Received: shape .*{cure}"):
        model.predict(np.zeros(shape))


def test_before_compile():
    model = Sequential([Dense(3)], input_shape=(4,), backend="numpy")
    for call in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(ConfigError, match=rf"^{call}: .*model.compile"):
            getattr(model, call)(X, T)
    assert model.predict(X).shape == (30, 3)


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4)])
def test_a_batch_of_one_with_batch_norm(backend, shape):
    model = Sequential([BatchNormalization(name="bn"), Flatten(), Dense(3)], input_shape=shape, backend=backend)
    model.compile(SGD(0.1), "mse")
    x = X.reshape(30, *shape)
    with pytest.raises(DataError, match=r"bn \(BatchNormalization\): one value for each channel has no variance"):
        model.fit(x[:11], draw(11, 3), 10, verbose=0)
    model.fit(x[:12], draw(12, 3), 10, verbose=0)
    assert np.isfinite(model.predict(x[:1])).all()


def test_a_loss_that_is_not_finite_names_epoch_and_steps(backend):
    model = Sequential([Dense(3, name="d")], input_shape=(4,), backend=backend)
    model.compile(SGD(1e25), "mse")
    with pytest.raises(
        NonFiniteError,
        match=r"the loss became (inf|nan) in epoch 1, step [23] of batches of 10, and the model is as it was before "
        r"that step; try a smaller learning rate, or smaller numbers.*\. Received: SGD\(lr=1e\+25\)",
    ):
        model.fit(X, draw(30, 3), 10, 5, verbose=0)
