"""Layers as they are called: functional names, operators, weights of a layer, and layers of one's own gone wrong."""

from __future__ import annotations

import numpy as np
import pytest

import xconv
from tests.checks import draw
from xconv import Input, Model, Sequential, layers
from xconv.errors import ConfigError, ShapeError
from xconv.layers import Add, Conv2D, Dense, Flatten, Layer, ParamSpec
from xconv.testing import check_layer

A, B = draw(3, 2, 4, seed=1), draw(3, 2, 4, seed=2)

# ---------------------------------------------------------------------- merging


def merged(backend, make):
    """What a model of two inputs gives for A and B."""
    a, b = Input((2, 4)), Input((2, 4))
    y = make(a, b)
    return Model([a, b], y, backend=backend, dtype="float64").predict([A, B]), y


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("add", layers.Add, A + B),
        ("subtract", layers.Subtract, A - B),
        ("multiply", layers.Multiply, A * B),
        ("average", layers.Average, (A + B) / 2),
        ("maximum", layers.Maximum, np.where(A > B, A, B)),
        ("concatenate", layers.Concatenate, np.dstack([A, B])),
    ],
)
def test_functional_names(backend, name, kind, expected):
    function = getattr(layers, name)
    got, y = merged(backend, lambda a, b: function([a, b], name="it"))
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    assert type(y.layer) is kind and y.layer.name == "it"


def test_concatenate_along_an_axis(backend):
    got, _ = merged(backend, lambda a, b: layers.concatenate([a, b], axis=1))
    np.testing.assert_array_equal(got, np.hstack([A, B]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a, b: a + b, A + B),
        (lambda a, b: a - b, A - B),
        (lambda a, b: b - a, B - A),
        (lambda a, b: a * b, A * B),
        (lambda a, b: (a + b) * a - b, (A + B) * A - B),
    ],
)
def test_operators(backend, make, expected):
    np.testing.assert_allclose(merged(backend, make)[0], expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t + 2, r"expected another symbolic tensor beside \+; .*Lambda\(lambda t: t \+ 2,.*Received: 2$"),
        (lambda t: 2.5 + t, r"beside \+; .*Received: 2.5$"),
        (lambda t: t - 1, r"beside -; .*Received: 1$"),
        (lambda t: 1 - t, r"beside -; .*Received: 1$"),
        (lambda t: t * 2, r"beside \*; .*Received: 2$"),
        (lambda t: 2 * t, r"beside \*; .*Received: 2$"),
        (lambda t: t * np.ones(3), r"beside \*; .*Received: array of shape \(3,\), dtype float64$"),
        (lambda t: t / 255.0, r"expected no /; .*Lambda\(lambda t: t / 2,.*Received: 255.0$"),
        (lambda t: 1 / t, r"expected no /; .*Received: 1$"),
        (lambda t: t / t, r"expected no /; .*Received: <Tensor \(None, 3\) of input>$"),
        (lambda t: np.float32(2) * t, r"holds no numbers; .*Lambda"),
        (lambda t: np.ones(3) - t, r"holds no numbers; .*Lambda"),
    ],
)
def test_numbers_beside_symbolic_tensors(make, message):
    with pytest.raises(ConfigError, match=rf"^a symbolic tensor.*{message}"):
        make(Input((3,)))


def test_operators_want_equal_shapes():
    with pytest.raises(ShapeError, match=r"^Add: expected inputs of the same shape. Received: shapes \(3,\), \(4,\)"):
        Input((3,)) + Input((4,))


# ---------------------------------------------------------------------- weights of a layer


def test_weights_are_the_parameters_themselves(backend):
    model = Sequential([Dense(2, name="d")], input_shape=(3,), backend=backend)
    before = model.get_weights()
    w, b = model.get_layer("d").weights
    w *= 2
    assert b.shape == (2,)
    np.testing.assert_array_equal(model.get_weights()[0], 2 * before[0])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_in_the_order_of_keras(backend, groups):
    model = Sequential([Conv2D(6, (3, 2), groups=groups, name="c")], input_shape=(5, 6, 4), backend=backend)
    b = model.get_weights()[1]
    kernel = draw(3, 2, 4 // groups, 6).astype("float32")
    message = (
        rf"^parameter 'c.w': expected shape \(6, {4 // groups}, 3, 2\); this looks like Keras's order: "
        rf"give w.transpose\(3, 2, 0, 1\). Received: shape \(3, 2, {4 // groups}, 6\)$"
    )
    layer = model.get_layer("c")
    for give in (layer.set_weights, lambda weights: model.params.__setitem__("c.w", weights[0])):
        with pytest.raises(ShapeError, match=message):
            give([kernel, b])
    layer.set_weights([kernel.transpose(3, 2, 0, 1), b])
    np.testing.assert_array_equal(model.get_weights()[0][4, 1, 2, 0], kernel[2, 0, 1, 4])
    with pytest.raises(ShapeError, match=r"expected shape \(6, \d, 3, 2\). Received: shape \(3, 2, 6, 5\)$"):
        layer.set_weights([draw(3, 2, 6, 5), b])


# ---------------------------------------------------------------------- layers of one's own


class Scale(Layer):
    """y = a x, right; the others break it."""

    def param_specs(self, in_shape):
        return {"a": ParamSpec((1,), xconv.initializers.ones)}

    def forward(self, x, ctx):
        return x * self.params["a"], x

    def backward(self, dy, saved, need):
        return dy * self.params["a"], {"a": (dy * saved).reshape(-1).sum(keepdims=True)}


class NoPair(Scale):
    def forward(self, x, ctx):
        return x * self.params["a"]


class ThreeThings(Scale):
    def forward(self, x, ctx):
        return x, x, x


class NoGradients(Scale):
    def backward(self, dy, saved, need):
        return dy


class TwoArrays(Scale):
    def backward(self, dy, saved, need):
        return dy, dy


class Called(Layer):
    def call(self, x):
        return x


class Both(Scale):
    def call(self, x):
        return x


class Forgot(Scale):
    def __init__(self, rate=1.0):
        self.rate = rate


def trained(layer, backend):
    model = Sequential([Dense(2), layer, Dense(1)], input_shape=(2,), backend=backend)
    model.compile("sgd", "mse")
    return model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))  # a batch of 2: an array of it unpacks as a pair


@pytest.mark.parametrize("kind", [Scale, Both])
def test_a_layer_that_is_right(backend, kind):
    trained(kind(), backend)
    check_layer(kind(), (3,), backends=("numpy", backend))


FORWARD = r"forward must give \(y, what backward needs of this pass, or None\)\. Received: "
BACKWARD = r"backward must give \(dx, gradients of the parameters by name, {} without any\)\. Received: "
WRONG = [
    (NoPair, FORWARD + r"array of shape \(\d, 2\), dtype float\d\d$"),
    (ThreeThings, FORWARD + r"tuple of \(array.*array.*array"),
    (NoGradients, BACKWARD + r"array of shape \(\d, 2\), dtype float\d\d$"),
    (TwoArrays, BACKWARD + r"tuple of \(array.*array"),
]


@pytest.mark.parametrize(("kind", "message"), WRONG)
def test_what_forward_and_backward_must_give(backend, kind, message):
    with pytest.raises(ConfigError, match=rf"^own \({kind.__name__}\): {message}"):
        trained(kind(name="own"), backend)
    with pytest.raises(ConfigError, match=rf"^{kind.__name__}: {message}"):
        check_layer(kind(), (2,), backends=("numpy",))


def test_a_layer_with_call_and_no_forward():
    with pytest.raises(ConfigError, match=r"^c \(Called\): xconv layers define forward\(x, ctx\) and backward\(dy"):
        Called(name="c")(Input((3,)))


def test_a_layer_whose_init_calls_no_super():
    message = r"^Forgot: its __init__ must call super\(\).__init__\(\*\*base\) before .* Received: a layer without"
    for use in (lambda: Forgot()(Input((3,))), lambda: Sequential([Forgot()]), lambda: check_layer(Forgot(), (3,))):
        with pytest.raises(ConfigError, match=message):
            use()
    with pytest.raises(AttributeError, match="'Flatten' object has no attribute 'kernel'"):
        _ = Flatten().kernel
    assert not hasattr(Add(), "backend")


def test_a_layer_of_ones_own_that_leaves_nothing_is_named():
    class Crop(Layer):
        def output_shape(self, in_shape):
            return in_shape[0], in_shape[1] - 8, in_shape[2] - 10

    with pytest.raises(
        ShapeError, match=r"crop1 .*no output is left.* Received: output_shape \(3, 0, -2\) for inputs \(3, 8, 8\)"
    ):
        Sequential([Crop(input_shape=(8, 8, 3))])
