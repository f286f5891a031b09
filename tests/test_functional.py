"""Networks with branches: shapes, names, shared layers, several inputs and outputs, both data formats, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv import Model, Sequential
from xconv.errors import ConfigError, DataError, ShapeError
from xconv.initializers import ones
from xconv.layers import (
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
    Multiply,
    ParamSpec,
    ReLU,
    Softmax,
)
from xconv.optimizers import SGD


def check_gradients(model: Model, x, t, limit: float = 1e-8) -> None:
    """Every gradient of a float64 model against central differences of its loss."""
    grads = model.gradient(x, t)
    for name, start in model.params.to_numpy().items():
        if name in grads.fixed:
            continue

        def loss(value, name=name):
            model.params[name] = value
            return model.loss(x, t)

        numerical = reference.numerical_gradient(loss, start)
        model.params[name] = start
        assert np.abs(numerical).max() > 1e-6, name  # it says something
        np.testing.assert_allclose(model.backend.to_numpy(grads[name]), numerical, atol=limit, err_msg=name)


# ---------------------------------------------------------------------- shapes and names


def test_shapes_as_the_user_sees_them():
    x = Input((9, 8, 3))
    assert x.shape == (None, 9, 8, 3)
    y = Conv2D(4, (3, 2), strides=2, padding="same")(x)
    assert y.shape == (None, 5, 4, 4)
    z = MaxPooling2D((2, 1))(y)
    assert z.shape == (None, 2, 4, 4)
    assert Concatenate()([z, z]).shape == (None, 2, 4, 8)
    assert Concatenate(axis=1)([z, z]).shape == (None, 4, 4, 4)
    assert Flatten()(z).shape == (None, 32) and GlobalAveragePooling2D()(z).shape == (None, 4)
    assert repr(y) == "<Tensor (None, 5, 4, 4) of Conv2D>"
    first = Conv2D(4, (3, 2), strides=2)(Input((3, 9, 8), data_format="channels_first"))
    assert first.shape == (None, 4, 4, 4)
    model = Model(x, [z, Flatten(name="flat")(z)], backend="numpy")
    assert (model.input_shape, model.output_shape, model.classes) == ((9, 8, 3), (2, 4, 4), 4)
    assert [out.shape for out in model.predict(draw(2, 9, 8, 3))] == [(2, 2, 4, 4), (2, 32)]


def test_names_count_each_kind_and_leave_given_ones():
    x = Input((4,))
    shared = Dense(3)
    y = Add()([shared(x), shared(x), Dense(3, name="dense1", activation="relu")(x)])
    model = Model(x, Dense(2, activation="softmax")(y), backend="numpy")
    assert [layer.name for layer in model.layers] == ["dense2", "dense1", "add1", "dense3"]
    assert list(model.params) == [f"dense{i}.{p}" for i in (2, 1, 3) for p in "wb"]
    assert model.get_layer("dense2") is shared
    with pytest.raises(ConfigError, match=r"expected a layer among \['dense2'.*Received: 'dense9'"):
        model.get_layer("dense9")


def test_layers_know_what_they_gave_last():
    x = Input((4,))
    layer = Dense(3, activation="relu")
    assert layer.output is None
    y = layer(x)
    assert layer.output is y and y.layer is layer.activation
    model = Sequential([Dense(3, name="first", input_shape=(4,)), Dense(2)], backend="numpy")
    assert model.get_layer("first").output is model.output.sources[0] and model.input is model.inputs[0]
    both = Model([x, model.input], [y, model.output], backend="numpy")
    assert both.input == [x, model.input] and both.output == [y, model.output]
    with pytest.raises(ConfigError, match="not built yet"):
        assert Sequential([Dense(2)]).output


# ---------------------------------------------------------------------- values and gradients


def branched(backend, **settings) -> Model:
    """Two inputs, a layer used three times, a product of branches, two outputs of which one feeds the other."""
    image, vector = Input((4, 4, 2), name="image"), Input((3,), name="vector")
    conv = Conv2D(2, 3, padding="same", activation="tanh", name="conv")
    a = conv(image)
    b = conv(a)
    c = Concatenate()([Add()([a, b, image]), conv(b)])
    pooled = GlobalAveragePooling2D()(c)
    gate = Dense(4, activation="sigmoid", name="gate")(vector)
    mixed = Multiply()([pooled, gate])
    one = Dense(3, activation="softmax", name="one")(mixed)
    two = Dense(1, name="two")(Concatenate()([one, mixed]))
    return Model([image, vector], [one, two], backend=backend, **settings)


def test_gradients_of_shared_layers_are_summed(backend):
    model = branched(backend, dtype="float64")
    model.compile("sgd", ["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.3])
    x = [draw(3, 4, 4, 2), draw(3, 3, seed=1)]
    check_gradients(model, x, [np.eye(3), draw(3, 1, seed=2)])


def test_a_layer_used_twice_against_its_formula(backend, dtype):
    x = Input((3,))
    layer = Dense(3, name="d")
    model = Model(x, layer(layer(x)), backend=backend, dtype=dtype)
    w, b = draw(3, 3), draw(3, seed=1)
    model.set_weights([w, b])
    model.compile("sgd", "mse")
    data, t = draw(5, 3, seed=2), draw(5, 3, seed=3)
    h = data @ w + b
    y = h @ w + b
    dy = 2 * (y - t) / y.size
    dh = dy @ w.T
    grads = model.gradient(data, t)
    close(backend, grads["d.w"], h.T @ dy + data.T @ dh, "elementwise")
    close(backend, grads["d.b"], dy.sum(0) + dh.sum(0), "elementwise")


def test_an_output_that_is_read_further(backend):
    """Its own loss and what comes back from its readers add up."""
    x = Input((3,))
    y = Dense(2, name="y")(x)
    z = Dense(2, name="z")(y)
    model = Model(x, [y, z, y], backend=backend, dtype="float64")
    data, t = draw(4, 3), draw(4, 2, seed=1)
    model.compile("sgd", ["mse", "mse", "mse"])
    check_gradients(model, data, [t, t, draw(4, 2, seed=2)])
    model.compile("sgd", ["mse", "mse", None])
    check_gradients(model, data, [t, t])


def test_dicts_and_lists_are_the_same(backend):
    x = {"vector": draw(6, 3), "image": draw(6, 4, 4, 2)}
    t = {"two": draw(6), "one": np.arange(6) % 3}
    results = []
    for given, labels in (
        (x, t),
        ([x["image"], x["vector"]], [t["one"], t["two"]]),
        ((x["image"], x["vector"]), (t["one"], t["two"][:, None])),
    ):
        model = branched(backend)
        losses = {"two": "mse", "one": "sparse_categorical_crossentropy"}
        model.compile(SGD(0.1), losses, {"one": "accuracy"}, {"one": 1, "two": 0.5})
        history = model.fit(given, labels, 4, 2, verbose=0, validation_data=(given, labels)).history
        measured = model.evaluate(given, labels)
        assert history["val_loss"][-1] == measured[0] and len(measured) == 4
        results.append([*model.get_weights(), *model.predict(given), np.array(measured)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def formats(backend, data_format: str) -> Model:
    first = data_format == "channels_first"
    x = Input((3, 8, 6) if first else (8, 6, 3), data_format=data_format)
    y = Conv2D(4, 3, padding="same", activation="relu", name="conv1")(x)
    y = BatchNormalization(name="norm")(y)
    z = Conv2D(4, (1, 3), padding="same", groups=2, name="conv2")(y)
    y = Concatenate(axis=1 if first else -1)([Add()([y, z]), z])
    y = MaxPooling2D(2)(Softmax(axis=1 if first else -1)(y))
    return Model(x, Dense(3, activation="softmax", name="dense")(Flatten()(y)), backend=backend, dtype="float64")


def turned(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights after Flatten of 4x3 images of 8 channels, from their order of axes in channels_last."""
    dense = params["dense.w"].reshape(4, 3, 8, 3).transpose(2, 0, 1, 3).reshape(96, 3)
    return {**params, "dense.w": dense}


def test_both_data_formats_give_the_same_numbers(backend):
    x, t = draw(6, 8, 6, 3), np.arange(6) % 3
    there = x.transpose(0, 3, 1, 2)
    last, first = formats(backend, "channels_last"), formats(backend, "channels_first")
    for name, w in turned(last.params.to_numpy()).items():
        first.params[name] = w
    for model in (last, first):
        model.compile(SGD(0.1), "sparse_categorical_crossentropy")
    assert last.loss(x, t) == pytest.approx(first.loss(there, t), rel=1e-12)
    last.fit(x, t, 2, 2, verbose=0)
    first.fit(there, t, 2, 2, verbose=0)
    np.testing.assert_allclose(last.predict(x), first.predict(there), rtol=1e-9)
    got = first.params.to_numpy()
    for name, w in turned(last.params.to_numpy()).items():
        np.testing.assert_allclose(got[name], w, rtol=1e-8, atol=1e-10, err_msg=name)


def test_images_that_come_out_have_the_users_axes(backend):
    x = draw(2, 5, 4, 3)
    last, first = Input((5, 4, 3)), Input((3, 5, 4), data_format="channels_first")
    models = [Model(i, Conv2D(2, 3, name="conv")(i), backend=backend, dtype="float64") for i in (last, first)]
    models[1].set_weights(models[0].get_weights())
    y, t = models[0].predict(x), draw(2, 3, 2, 2, seed=1)
    assert y.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(y.transpose(0, 3, 1, 2), models[1].predict(x.transpose(0, 3, 1, 2)), rtol=1e-12)
    for model in models:
        model.compile("sgd", "mse")
    here, there = models[0].gradient(x, t), models[1].gradient(x.transpose(0, 3, 1, 2), t.transpose(0, 3, 1, 2))
    for name in here:
        np.testing.assert_allclose(backend.to_numpy(here[name]), backend.to_numpy(there[name]), rtol=1e-9)


# ---------------------------------------------------------------------- what cannot be


def a_graph(data_format: str = "channels_last"):
    x = Input((4, 4, 4), name="x", data_format=data_format)
    return x, Conv2D(3, 3, name="conv")(x)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (
            lambda: Model(Input((2,)), Dense(2)(Input((2,)))),
            ConfigError,
            r"not connected: no output .*Received: <Tensor",
        ),
        (
            lambda: Model((x := Input((2,))), Add(name="sum")([Dense(2)(x), Input((2,), name="other")])),
            ConfigError,
            r"not connected: sum \(Add\) reads an input that is not.*Received: <Tensor \(None, 2\) of input other>",
        ),
        (lambda: Model((x := Input((2,))), x), ConfigError, r"outputs: expected what a layer gives"),
        (lambda: Model((y := Dense(2)(Input((2,)))), Dense(1)(y)), ConfigError, r"inputs: expected tensors from xconv"),
        (lambda: Model([(x := Input((2,))), x], Dense(1)(x)), ConfigError, r"inputs: each only once"),
        (lambda: Model([], []), ConfigError, r"a network needs inputs"),
        (lambda: Model(Input((2,)), []), ConfigError, r"a network needs outputs"),
        (lambda: Model(Input((2,)), Dense(2)), ConfigError, r"outputs: expected tensors .*Received: <.*Dense"),
        (
            lambda: Model(np.zeros((1, 2)), Dense(2)(Input((2,)))),
            ConfigError,
            r"inputs: expected tensors .*array of shape",
        ),
        (
            lambda: Add(name="sum")([Dense(2)(Input((4,))), Dense(3)(Input((4,)))]),
            ShapeError,
            r"sum \(Add\): expected inputs of the same shape. Received: shapes \(2,\), \(3,\)",
        ),
        (
            lambda: Add()([Conv2D(2, 3)(Input((5, 6, 1))), Conv2D(4, 3)(Input((5, 6, 1)))]),
            ShapeError,
            r"Received: shapes \(3, 4, 2\), \(3, 4, 4\)",
        ),
        (
            lambda: Concatenate(name="cat")([Conv2D(2, 3)(Input((5, 6, 1))), Conv2D(2, 2)(Input((5, 6, 1)))]),
            ShapeError,
            r"cat \(Concatenate\): expected inputs of the same shape but for axis -1",
        ),
        (lambda: Add()(Input((4,))), ShapeError, r"Add: expected a list of at least two tensors. Received: 1"),
        (lambda: Dense(2)([Input((4,)), Input((4,))]), ShapeError, r"Dense: expected one tensor. Received: 2"),
        (
            lambda: Dense(2)(np.zeros((3, 4))),
            ConfigError,
            r"symbolic tensors.*predict. Received: array of shape \(3, 4\)",
        ),
        (
            lambda: Conv2D(2, 3, name="c")(Input((4,))),
            ShapeError,
            r"c \(Conv2D\): expected images, \(height, width, ch",
        ),
        (lambda: Conv2D(2, 5, name="c")(Input((4, 4, 1))), ShapeError, r"c \(Conv2D\): no output is left"),
        (
            lambda: Concatenate()([a_graph()[1], a_graph("channels_first")[1]]),
            ConfigError,
            r"one data format.*Received: channels_first and channels_last",
        ),
        (lambda: Conv2D(2, 3, data_format="channels_first")(a_graph()[0]), ConfigError, r"one data format"),
        (
            lambda: Model((x := Input((2,))), Dense(2, name="d")(Dense(2, name="d")(x))),
            ConfigError,
            r"layer names must differ.* give .*name= .*Received: 'd' for 2 layers",
        ),
        (
            lambda: Model((x := Input((2,))), Concatenate()([(d := Dense(3, name="d"))(x), d(Dense(3)(x))])),
            ShapeError,
            r"d \(Dense\): it is used more than once.*w \(2, 3\). Received: \(3, 3\)",
        ),
        (lambda: Input(()), ConfigError, r"Input: shape must be sizes without the batch"),
        (lambda: Input(28), ConfigError, r"Input: shape must be sizes .*Received: 28"),
        (lambda: Input((None, 3)), ConfigError, r"each size of shape.*Received: None"),
        (lambda: Input((28, 28, 1), data_format="NHWC"), ConfigError, r"Input: data_format.*Received: 'NHWC'"),
        (lambda: np.asarray(Input((2,))), ConfigError, r"a symbolic tensor holds no numbers"),
        (lambda: Sequential([Dense(2)]).predict([[1, 2]]), ConfigError, r"give the first layer input_shape"),
        (lambda: Sequential([Dense(2)]).summary(), ConfigError, r"sequential: not built yet: give the first layer"),
        (lambda: Sequential().predict(np.zeros((1, 2))), ConfigError, r"no layers yet"),
        (
            lambda: Sequential([Dense]),
            ConfigError,
            r"expected layers, such as xconv.Dense\(\), an instance. Received: <class",
        ),
        (
            lambda: Sequential([Dense(2, input_shape=(2,)), Input((2,))]),
            ConfigError,
            r"expected layers. Received: <Tensor",
        ),
        (lambda: Sequential().pop(), ConfigError, r"no layer to take off"),
    ],
)
def test_mistakes_in_building(build, kind, message):
    with pytest.raises(kind, match=message):
        build()


def test_a_layer_that_does_not_fit_is_not_added():
    model = Sequential([Dense(3, input_shape=(4,))], backend="numpy")
    with pytest.raises(ShapeError, match=r"conv2d1 \(Conv2D\): expected images"):
        model.add(Conv2D(2, 3))
    model.add(ReLU())
    assert [layer.name for layer in model.layers] == ["dense1", "relu1"]
    assert model.predict(draw(2, 4)).shape == (2, 3)


def test_mistakes_in_what_is_given(backend):
    model = branched(backend)
    x, t = [draw(6, 4, 4, 2), draw(6, 3)], [np.arange(6) % 3, draw(6)]
    names = r"\['image', 'vector'\]"
    with pytest.raises(ConfigError, match=rf"predict: x: expected a list of 2 inputs, {names}. Received: array"):
        model.predict(x[0])
    with pytest.raises(ConfigError, match=rf"predict: x: expected a list of 2 inputs, {names}"):
        model.predict([*x, x[0]])
    with pytest.raises(ConfigError, match=rf"predict: x: expected the inputs {names}. Received: \['image', 'v'\]"):
        model.predict({"image": x[0], "v": x[1]})
    with pytest.raises(ConfigError, match=r"as many examples in each input. Received: 6 in image, 5 in vector"):
        model.predict([x[0], x[1][:5]])
    with pytest.raises(ShapeError, match=r"predict: x: vector: expected shape \(N, 3\)"):
        model.predict([x[0], x[0]])
    with pytest.raises(ConfigError, match=r"fit: the model needs a loss: call model.compile"):
        model.compile("sgd")
        model.fit(x, t, verbose=0)
    model.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    with pytest.raises(ConfigError, match=r"fit: y: expected a list of labels for the outputs \['one', 'two'\]"):
        model.fit(x, t[0], verbose=0)
    with pytest.raises(
        ConfigError, match=r"fit: y: expected labels for the outputs \['one', 'two'\]. Received: \['one'\]"
    ):
        model.fit(x, {"one": t[0]}, verbose=0)
    with pytest.raises(DataError, match=r"fit: x: image: expected at least one example"):
        model.fit([a[:0] for a in x], [a[:0] for a in t], verbose=0)
    with pytest.raises(ConfigError, match=r"class_weight is a dict .* for a network of one output"):
        model.fit(x, t, class_weight={0: 1.0}, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": {"three": "mse"}}, r"loss: expected outputs among \['one', 'two'\]. Received: 'three'"),
        ({"loss": ["mse"]}, r"loss: expected one for each of the outputs"),
        ({"loss": "mean"}, r"loss: expected 'categorical_crossentropy'.*Received: 'mean'"),
        ({"loss": "mse", "loss_weights": {"x": 1}}, r"loss_weights: expected outputs among"),
        ({"loss": "mse", "metrics": {"x": "mae"}}, r"metrics: expected outputs among"),
        ({"loss": "mse", "metrics": ["nice"]}, r"metric: expected .*Received: 'nice'"),
        ({"loss": {}}, r"a loss for at least one output"),
        ({"metrics": ["accuracy"]}, r"metrics and loss_weights need a loss"),
        ({"loss": "mse", "optimizer": "adamant"}, r"optimizer.*Received: 'adamant'"),
    ],
)
def test_mistakes_in_compile(arguments, message):
    with pytest.raises(ConfigError, match=message):
        branched("numpy").compile(**{"optimizer": "sgd", **arguments})


class WrongNames(Layer):
    """Its gradient has another name than its parameter."""

    def param_specs(self, in_shape):
        return {"a": ParamSpec((1,), ones)}

    def forward(self, x, ctx):
        return x * self.params["a"], x

    def backward(self, dy, saved, need):
        return dy, {"b": (dy * saved).sum().reshape(1)}


def test_gradients_under_other_names_are_told():
    model = Sequential([WrongNames()], input_shape=(2,), backend="numpy")
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match=r"wrongnames1 .* for each of \['a'\]. Received: gradients of \['b'\]"):
        model.train_on_batch(np.ones((3, 2)), np.ones((3, 2)))


def test_training_is_not_said_at_the_call():
    model = Sequential([Dense(2)], input_shape=(2,), backend="numpy")
    for called in (model, Dense(2)):
        with pytest.raises(ConfigError, match=r"trainable = False.* Received: training=False"):
            called(Input((2,)), training=False)
