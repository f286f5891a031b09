"""Models in files: what comes back is what was saved, on any backend; what is not a whole file of ours is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import xconv
from tests.checks import draw
from tests.conftest import BACKENDS, load
from xconv import Model, Sequential, SimpleConvNet
from xconv.errors import ConfigError, FileError, ShapeError
from xconv.layers import (
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    Lambda,
    Layer,
    LeakyReLU,
    MaxPooling2D,
    ParamSpec,
    Softmax,
)
from xconv.losses import CategoricalCrossentropy, MeanSquaredError
from xconv.optimizers import SGD, Adam
from xconv.regularizers import L1L2


class Scale(Layer):
    """y = factor s x, with s a parameter: a layer of a user's own."""

    def __init__(self, factor=1.0, **base):
        super().__init__(**base)
        self.factor = factor

    def param_specs(self, in_shape):
        return {"s": ParamSpec((1,), xconv.initializers.ones)}

    def forward(self, x, ctx):
        return x * self.params["s"] * self.factor, x

    def backward(self, dy, saved, need):
        return dy * self.params["s"] * self.factor, {"s": (dy * saved).sum(keepdims=True).reshape(1) * self.factor}

    def config(self):
        return {"factor": self.factor}


def sequential(backend) -> Sequential:
    layers = [
        Conv2D(
            4, (3, 2), strides=2, padding="same", kernel_regularizer=L1L2(1e-3, 1e-2), kernel_initializer="he_normal"
        ),
        BatchNormalization(momentum=0.8, epsilon=1e-4),
        LeakyReLU(0.1, name="leak"),
        MaxPooling2D(2, padding="same"),
        Flatten(),
        Dropout(0.3),
        Dense(3, activation="softmax", use_bias=False, name="out"),
    ]
    model = Sequential(layers, input_shape=(8, 6, 2), name="row", backend=backend, seed=3)
    model.compile(Adam(0.01, clipnorm=1.0), CategoricalCrossentropy(label_smoothing=0.1), ["accuracy"])
    return model


def functional(backend) -> Model:
    image = Input((2, 8, 6), name="image", data_format="channels_first")
    side = Input((4,), name="side", data_format="channels_first")
    conv = Conv2D(2, 3, padding="same", activation="relu", name="conv")
    both = Add()([conv(image), conv(conv(image))])
    found = Concatenate()([Flatten()(Softmax(axis=1)(both)), side])
    one = Dense(3, activation="softmax", name="one")(found)
    two = Dense(1, activation="sigmoid", name="two")(Concatenate()([one, found]))
    model = Model([image, side], [two, one], name="graph", backend=backend, dtype="float64")
    losses = {"one": "categorical_crossentropy", "two": "binary_crossentropy"}
    model.compile(SGD(0.1, momentum=0.9, nesterov=True), losses, {"two": ["acc"]}, {"one": 0.3, "two": 1.0})
    model.freeze("two")
    return model


def convnet(backend) -> SimpleConvNet:
    return SimpleConvNet((1, 8, 8), {"filter_num": 3, "filter_size": 3}, 7, 4, "he", backend=backend, seed=2)


MAKE = {"sequential": sequential, "functional": functional, "convnet": convnet}
DATA = {
    "sequential": (draw(9, 8, 6, 2), np.eye(3)[np.arange(9) % 3]),
    "functional": ([draw(9, 2, 8, 6), draw(9, 4)], [np.arange(9) % 2, np.eye(3)[np.arange(9) % 3]]),
    "convnet": (draw(9, 1, 8, 8), np.arange(9) % 4),
}


def bits(model) -> dict[str, bytes]:
    return {name: w.tobytes() for name, w in model.params.to_numpy().items()}


def header(path: Path) -> dict:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["xconv"])["metadata"]


# ---------------------------------------------------------------------- there and back


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("other", BACKENDS)
def test_what_was_saved_comes_back_on_any_backend(backend, kind, other, tmp_path):
    other = load(other)
    model, (x, t) = MAKE[kind](backend), DATA[kind]
    model.fit(x, t, 4, 2, verbose=0)
    model.save(tmp_path / "m.safetensors")
    again = xconv.load(tmp_path / "m.safetensors", backend=other)
    assert again.backend is other and type(again) is (Model if kind == "functional" else Sequential)
    assert bits(again) == bits(model) and list(again.params) == list(model.params)
    assert (again.name, again.seed, again.dtype, again.data_format) == (
        model.name,
        model.seed,
        model.dtype,
        model.data_format,
    )
    for mine, theirs in zip(model.layers, again.layers, strict=True):
        assert (mine.name, type(mine), mine.config(), mine.trainable) == (
            theirs.name,
            type(theirs),
            theirs.config(),
            theirs.trainable,
        )
    limit = 1e-12 if model.dtype == "float64" else 2e-5
    ours, theirs = model.predict(x), again.predict(x)
    for a, b in zip(ours, theirs, strict=True) if kind == "functional" else [(ours, theirs)]:
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit)
    assert repr(again.optimizer) == repr(model.optimizer)
    assert again.evaluate(x, t, return_dict=True) == pytest.approx(model.evaluate(x, t, return_dict=True), rel=limit)
    # It draws what a new model of that seed would, and its file is the same.
    again.save(tmp_path / "again.safetensors")
    if kind != "convnet":  # which comes back as a Sequential
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    again.fit(x, t, 4, verbose=0)
    assert bits(again) != bits(model)


def test_the_file_does_not_know_where_it_was_written(backend, tmp_path):
    weights = sequential("numpy").get_weights()
    for name in ("numpy", backend):
        model = sequential(name)
        model.set_weights(weights)
        model.save(tmp_path / (name if name == "numpy" else "other"))
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "other").read_bytes()
    text = json.dumps(header(tmp_path / "other"))
    assert not any(word in text for word in ("backend", *BACKENDS))


def test_a_loaded_model_trains_as_the_saved_one(backend, tmp_path):
    """To the bit, where the optimizer has no memory yet."""
    model, (x, t) = sequential(backend), DATA["sequential"]
    model.save(tmp_path / "m")
    again = xconv.load(tmp_path / "m", backend=backend)
    for each in (model, again):
        each.fit(x, t, 4, 2, verbose=0)
    assert bits(again) == bits(model)


def test_aliases_come_back(backend, tmp_path):
    model = convnet(backend)
    model.save(tmp_path / "m")
    again = xconv.load(tmp_path / "m", backend=backend)
    assert list(again.params) == ["W1", "b1", "W2", "b2", "W3", "b3"] == list(again.gradient(*DATA["convnet"]))
    again.params["W1"][...] = 0
    assert not again.backend.to_numpy(again.get_layer("conv1").params["w"]).any()


def test_weights_alone(backend, tmp_path):
    model = sequential(backend)
    model.save_weights(tmp_path / "m")
    other = sequential("numpy")
    other.set_weights([w + 1 for w in other.get_weights()])
    params = other.params
    other.load_weights(tmp_path / "m")
    assert bits(other) == bits(model) and other.params is params
    other.load_weights(str(tmp_path / "m"))


def test_an_unbuilt_optimizer_or_loss_of_ones_own(tmp_path):
    """The network comes back; how it was trained is said anew."""

    class Fourth(MeanSquaredError):
        pass

    class Own(SGD):
        def step(self, backend, p, g, hyper, **state):
            p -= g

    for optimizer, loss in (("sgd", Fourth()), (Own(), "mse")):
        model = Sequential([Dense(2)], input_shape=(3,), backend="numpy")
        model.compile(optimizer, loss)
        model.save(tmp_path / "m")
        again = xconv.load(tmp_path / "m", backend="numpy")
        assert bits(again) == bits(model) and again.optimizer is None
        with pytest.raises(ConfigError, match=r"fit: .*model.compile"):
            again.fit(draw(2, 3), draw(2, 2))


# ---------------------------------------------------------------------- layers of one's own


def own(backend, layer) -> Sequential:
    model = Sequential([Dense(3, name="d"), layer, Dense(2)], input_shape=(4,), backend=backend)
    model.compile("sgd", "mse")
    model.fit(draw(6, 4), draw(6, 2), verbose=0)
    return model


@pytest.mark.parametrize(
    "given", [{"Scale": Scale}, {"mine": Scale}, {"mine": Scale(2.5)}], ids=["kind", "name", "layer"]
)
def test_a_layer_of_ones_own(backend, given, tmp_path):
    model = own(backend, Scale(2.5, name="mine"))
    model.save(tmp_path / "m")
    with pytest.raises(FileError) as caught:
        xconv.load(tmp_path / "m", backend=backend)
    assert str(caught.value) == (
        f"{tmp_path / 'm'}: layer 'mine' is of kind 'Scale', which a file cannot make: give "
        'xconv.load(path, custom_layers={"Scale": Scale}). Received: no custom_layers'
    )
    with pytest.raises(FileError, match=r"Scale}\)\. Received: \['Dense'\]$"):
        xconv.load(tmp_path / "m", backend=backend, custom_layers={"Dense": Dense})
    again = xconv.load(tmp_path / "m", backend=backend, custom_layers=given)
    assert bits(again) == bits(model) and again.get_layer("mine").factor == 2.5
    np.testing.assert_array_equal(again.predict(draw(5, 4)), model.predict(draw(5, 4)))


def test_a_lambda_needs_its_function(backend, tmp_path):
    def square():
        return Lambda(lambda xp, x: x * x, lambda xp, dy, x, y: 2 * x * dy, name="square")

    model = own(backend, square())
    model.save(tmp_path / "m")
    with pytest.raises(FileError, match=r"is of kind 'Lambda', which a file cannot make: .*{'square': the layer}"):
        xconv.load(tmp_path / "m", backend=backend)
    again = xconv.load(tmp_path / "m", backend=backend, custom_layers={"square": square()})
    np.testing.assert_array_equal(again.predict(draw(5, 4)), model.predict(draw(5, 4)))
    model.load_weights(tmp_path / "m")  # which makes no layers


def test_custom_layers_that_cannot_be(tmp_path):
    own("numpy", Scale(name="mine")).save(tmp_path / "m")
    for given, message in (
        ({"mine": Scale, "yours": Scale}, r"names or kinds of the file's layers.*Received: 'yours'"),
        ({"mine": len}, r"custom_layers: mine: expected a Layer or a class of them. Received: <built-in"),
        ({"mine": "Scale"}, r"custom_layers: mine: expected a Layer.*Received: 'Scale'"),
    ):
        with pytest.raises(ConfigError, match=message):
            xconv.load(tmp_path / "m", custom_layers=given, backend="numpy")


# ---------------------------------------------------------------------- other models, other files


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Sequential([Dense(3, name="b"), Dense(2, name="c")]),
            r"b.w: expected \(4, 3\). Received: no such parameter",
        ),
        (lambda: Sequential([Dense(5, name="a"), Dense(2, name="c")]), r"a.w: expected \(4, 5\). Received: \(4, 3\)"),
        (lambda: Sequential([Dense(3, name="a")]), r"c.w: expected no such parameter. Received: \(3, 2\)"),
        (lambda: Sequential([Dense(3, name="a"), Dense(2, name="c", use_bias=False)]), r"c.b: expected no such"),
        (
            lambda: Sequential([Dense(3, name="a"), BatchNormalization(name="n"), Dense(2, name="c")]),
            r"n.gamma: expected",
        ),
    ],
)
def test_weights_of_another_architecture(build, message, tmp_path):
    Sequential([Dense(3, name="a"), Dense(2, name="c")], input_shape=(4,), backend="numpy").save(tmp_path / "m")
    layers = build().layers
    model = Sequential(layers, input_shape=(4,), backend="numpy", seed=9)
    before = bits(model)
    with pytest.raises(FileError, match=rf"the file's parameters are not this model's: {message}"):
        model.load_weights(tmp_path / "m")
    assert bits(model) == before


@pytest.mark.parametrize("suffix", [".h5", ".HDF5", ".keras", ".pkl", ".pickle", ".weights.h5"])
def test_other_libraries_suffixes(suffix, tmp_path):
    model = Sequential([Dense(3)], input_shape=(4,), backend="numpy")
    path = tmp_path / f"model{suffix}"
    with pytest.raises(
        ConfigError, match=r"xconv writes safetensors files; save to '.*\.safetensors'. Received: the suff"
    ):
        model.save(path)
    with pytest.raises(FileError, match="no such file"):
        xconv.load_model(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" if "p" not in suffix else b"\x80\x04K\x01.")
    with pytest.raises(FileError, match=r"not Keras's|a pickle, which xconv does not read"):
        xconv.load_model(path)
    with pytest.raises(FileError):
        model.load_weights(path)


def test_a_model_that_is_not_built_has_no_file(tmp_path):
    for model in (Sequential(backend="numpy"), Sequential([Dense(2)], backend="numpy")):
        with pytest.raises(ConfigError, match=r"add some|input_shape"):
            model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        xconv.load(tmp_path / "none")
    with pytest.raises(ShapeError, match=r"parameter 'dense1.w'"):
        Sequential([Dense(2)], input_shape=(3,), backend="numpy").set_weights([draw(2, 3), draw(2)])
