"""Training, evaluation, moving between backends, what stops or warns; optimizers against one number at a time."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv import Conv2D, Dense, Flatten, ReLU, Sequential, SimpleConvNet, data, optimizers, zoo
from xconv.callbacks import Callback
from xconv.errors import ConfigError, DataError, DeadNetworkWarning, FileError, NonFiniteError, ShapeError
from xconv.layers import Lambda
from xconv.losses import SoftmaxCrossEntropy
from xconv.parameters import Parameters

SMALL = {"conv_param": {"filter_num": 6}, "hidden_size": 20}
RULES = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.8},
    "adagrad": {"eps": 1e-7},
    "rmsprop": {"rho": 0.9, "eps": 1e-7},
    "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-7},
}


@pytest.fixture(scope="module")
def images():
    x, t, x_test, t_test = data.load("mnist-sample").arrays()
    return x[:200], t[:200], x_test[:50], t_test[:50]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("flat", [True, False])
def test_optimizers_follow_their_formulas(backend, dtype, rule, flat):
    start = draw(7, dtype=dtype)
    params = Parameters(backend, {"a": (3,), "b": (2, 2)}, dtype)
    params["a"], params["b"] = start[:3], start[3:].reshape(2, 2)
    grads = params.like()
    optimizer = optimizers.get(rule, lr=0.05, **RULES[rule])
    numbers = [reference.Rule(rule, 0.05, **RULES[rule]) for _ in start]
    expected = [float(v) for v in start]
    for step in range(6):
        g = draw(7, dtype=dtype, seed=step + 1)
        if step == 4:
            optimizer.lr = 0.01
            for number in numbers:
                number.lr = 0.01
        grads["a"], grads["b"] = g[:3], g[3:].reshape(2, 2)
        optimizer.update(*((params, grads) if flat else (dict(params), dict(grads))))
        expected = [number(p, float(v)) for number, p, v in zip(numbers, expected, g, strict=True)]
    got = np.concatenate([w.ravel() for w in params.to_numpy().values()])
    np.testing.assert_allclose(got, expected, rtol=2e-5 if dtype == "float32" else 1e-12)


def test_optimizer_says_what_it_is():
    assert repr(optimizers.Adam(0.002)) == "Adam(lr=0.002, beta1=0.9, beta2=0.999, eps=1e-07)"


def test_fit_learns_and_keeps_its_history(backend, images):
    x, t, x_test, t_test = images
    net = SimpleConvNet(**SMALL, weight_init_std="he", backend=backend)
    net.compile(optimizers.Adam(0.005))
    history = net.fit(x, np.eye(10)[t], 30, 3, validation_data=(x_test, t_test), verbose=0)
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.epoch == [0, 1, 2] and len(history.rates) == len(history.seconds) == 3
    assert history.history["loss"][2] < history.history["loss"][0] and history.history["accuracy"][2] > 0.7
    assert history.steps == 3 * 7 and history.images == 600
    assert len(list(history.rows())) == 3
    loss, accuracy = net.evaluate(x_test, t_test)
    assert (loss, accuracy) == (history.history["val_loss"][-1], history.history["val_accuracy"][-1])
    assert accuracy == np.mean(net.predict(x_test).argmax(axis=1) == t_test) == net.accuracy(x_test, t_test, 7)


def test_a_network_moves_with_its_optimizer(backend, images):
    x, t, *_ = images
    ended = []
    for places in (["numpy"] * 3, ["numpy", backend, "numpy"]):
        net = SimpleConvNet(**SMALL, backend="numpy", dtype="float64")
        rule = optimizers.Adam()
        for i, place in enumerate(places):
            net.to(place)
            rule.update(net.params, net.gradient(x[i * 20 : i * 20 + 20], t[i * 20 : i * 20 + 20]))
        ended.append(net.params.to_numpy())
    for name, w in ended[0].items():
        np.testing.assert_allclose(ended[1][name], w, rtol=1e-9, atol=1e-12)


def test_a_dead_network_is_named(backend, images):
    x, t, *_ = images
    net = SimpleConvNet(**SMALL, backend=backend)
    net.params["b1"] = np.full(6, -100.0)
    with pytest.warns(DeadNetworkWarning, match=r"ln\(10\) = 2\.303.*all zero.*smaller learning rate"):
        net.compile(optimizers.SGD(0.01))
        net.fit(x, t, verbose=0)


def test_a_living_one_is_not(backend, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = SimpleConvNet(**SMALL, backend=backend)
        net.compile(optimizers.SGD(0.01))
        net.fit(*images[:2], verbose=0)


def test_a_loss_that_is_not_finite_stops_training(backend, images):
    x, t, *_ = images
    ended = []

    class Watch(Callback):
        def on_train_end(self, logs=None):
            ended.append(True)

    net = SimpleConvNet(**SMALL, weight_init_std=1.0, backend=backend)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step .*smaller learning rate.*SGD\(lr=1e\+30\)"):
        net.compile(optimizers.SGD(1e30))
        net.fit(x, t, 20, 2, callbacks=[Watch()], verbose=0)
    assert ended == [True]


def test_gradients_of_a_deeper_network(backend):
    net = Sequential(
        [Conv2D(2, 3, padding=1), ReLU(), Conv2D(2, 2, strides=2), Flatten(), Dense(5), ReLU(), Dense(3)],
        input_shape=(2, 5, 5),
        data_format="channels_first",
        backend=backend,
        dtype="float64",
    )
    net.compile("sgd", SoftmaxCrossEntropy())
    x, t = draw(3, 2, 5, 5), np.array([0, 2, 1])
    grads = net.gradient(x, t)
    assert list(grads) == [f"{n}.{p}" for n in ("conv2d1", "conv2d2", "dense1", "dense2") for p in "wb"]
    for name, start in net.params.to_numpy().items():

        def loss(value, name=name):
            net.params[name] = value
            return net.loss(x, t)

        numerical = reference.numerical_gradient(loss, start)
        net.params[name] = start
        np.testing.assert_allclose(backend.to_numpy(grads[name]), numerical, atol=1e-8)


def test_save_and_load(backend, images, tmp_path):
    net = SimpleConvNet(**SMALL, backend=backend, seed=1)
    net.save(tmp_path / "net.safetensors")
    other = SimpleConvNet(**SMALL, backend="numpy", seed=2)
    other.load_weights(tmp_path / "net.safetensors")
    for name, w in net.params.to_numpy().items():
        assert w.tobytes() == other.params[name].tobytes()
    with pytest.raises(
        FileError, match=r"not this model's: conv1.w: expected \(30, 1, 5, 5\). Received: \(6, 1, 5, 5\)"
    ):
        SimpleConvNet(backend="numpy").load_weights(tmp_path / "net.safetensors")


def test_he_initialisation_has_the_variance_it_promises():
    w = zoo.entry("simple-convnet").build(zoo.recipe("simple-convnet"), backend="numpy").params["W2"]
    assert w.std() == pytest.approx(math.sqrt(2 / 4320), rel=0.01) and abs(w.mean()) < 1e-4


def test_zoo_names_what_it_has():
    with pytest.raises(ConfigError, match=r"one of simple-convnet, keras-mnist, .* Received: 'nope'"):
        zoo.entry("nope")
    with pytest.raises(ConfigError, match=r"default, book. Received: 'nope'"):
        zoo.recipe("simple-convnet", "nope")


def test_large_batches_are_predicted_in_parts(backend):
    """Where caches are the limit; what comes is the same, examples are not lost, and bars count whole batches."""
    seen = []

    def look(x):
        seen.append(len(x))
        return x

    model = Sequential([Lambda(look, output_shape=(3,)), Dense(2)], input_shape=(3,), backend=backend)
    most = model.backend.together
    x = draw(2 * (most or 300) + 5, 3, dtype="float32")
    expected = x.astype("f8") @ model.params.to_numpy()["dense1.w"]
    parts = [most, most, 5] if most else [len(x)]
    for given in (x, x.astype("f8"), [x]):
        seen.clear()
        close(backend, backend.asarray(model.predict(given, len(x))), expected, "sum")
        assert seen == parts
    assert most is None or most >= 250, "whoever says nothing has whole batches"


def test_one_batch_is_predicted_as_many_are(backend):
    """One batch, of the model's dtype, takes a short way, on which everything else holds as well."""
    model = Sequential(
        [Conv2D(3, 3, activation="relu"), Flatten(), Dense(4)],
        input_shape=(6, 5, 2), backend=backend, seed=3,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(251, 6, 5, 2)).astype("f4")
    whole, short = model.predict(x), model.predict(x[:250])
    assert model.predict(x[:250], 250).tobytes() == short.tobytes() == whole[:250].tobytes()
    for given in (x[:3], x[:6:2], x.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)[:3]):
        assert np.array_equal(model.predict(given), model.predict(given, verbose=0, batch_size=7))
    assert np.array_equal(model.predict(x[:3].astype("f8")), model.predict(x[:3])) and model.predict(x[:0]).shape == (
        0,
        4,
    )
    y = model.predict(x[:40])  # the caller's own
    kept = y.copy()
    y += 1
    model.predict(x[40:80])
    assert y.flags.owndata and np.array_equal(y, kept + 1) and np.array_equal(model.predict(x[:40]), kept)
    bad = x[:2].copy()
    bad[1, 2, 3, 1] = np.nan
    with pytest.raises(DataError, match=r"predict: x: expected finite numbers.*first at index \(1, 2, 3, 1\)"):
        model.predict(bad)
    with pytest.raises(ShapeError, match="this looks like one example"):
        model.predict(x[0])
    with pytest.raises(ShapeError, match=r"predict: x: expected shape .* Received: shape \(\)"):
        model.predict(np.array(1, "f4"))
    large = np.full((1, 6, 5, 2), 1e30, "f4")  # whose squares are no float32
    assert np.isfinite(model.predict(large)).all()
