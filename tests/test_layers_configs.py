"""What layers tell of themselves: configs, defaults, shapes, and activations by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.layer_cases import CASES, name
from xconv import initializers, regularizers
from xconv.errors import ConfigError
from xconv.layers import (
    REGISTRY,
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Flatten,
    Lambda,
    LeakyReLU,
    MaxPool2D,
    ReLU,
    Reshape,
    activation,
)

LAST = {"data_format": "channels_last"}


@pytest.mark.parametrize("case", [c for c in CASES if not isinstance(c[0], Lambda)], ids=name)
def test_configs_are_plain_and_stay_as_they_are(case):
    layer, _, _ = case
    config = layer.config()
    assert json.loads(json.dumps(config)) == config
    assert REGISTRY[type(layer).__name__](**config).config() == config


def test_defaults_are_keras_ones():
    conv, norm, pool = Conv2D(2, 3), BatchNormalization(), MaxPool2D()
    assert conv.config() == {
        "filters": 2,
        "kernel_size": [3, 3],
        "strides": [1, 1],
        "padding": "valid",
        "dilation_rate": [1, 1],
        "groups": 1,
        "activation": None,
        "use_bias": True,
        "kernel_initializer": "glorot_uniform",
        "bias_initializer": "zeros",
        "kernel_regularizer": None,
        "bias_regularizer": None,
    }
    assert norm.config() == {"axis": None, "momentum": 0.99, "epsilon": 1e-3, "center": True, "scale": True}
    assert pool.config() == {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
    assert LeakyReLU().negative_slope == 0.3 and Activation("leaky_relu").negative_slope == 0.2


def test_what_is_given_reaches_the_parameters():
    layer = Conv2D(
        4, 3, kernel_initializer="he_normal", bias_initializer=0.5, kernel_regularizer="l2", bias_regularizer="l1"
    )
    specs = layer.param_specs((3, 5, 5))
    assert {key: spec.shape for key, spec in specs.items()} == {"w": (4, 3, 3, 3), "b": (4,)}
    assert specs["w"].initializer == initializers.get("he_normal")
    assert isinstance(specs["w"].regularizer, regularizers.L2) and isinstance(specs["b"].regularizer, regularizers.L1)
    again = Conv2D(**layer.config()).param_specs((3, 5, 5))
    draws = [spec["b"].initializer(np.random.default_rng(3), (4,)) for spec in (specs, again)]
    np.testing.assert_array_equal(*draws)
    assert draws[0].std() > 0
    assert isinstance(again["b"].regularizer, regularizers.L1)
    assert list(Dense(3, use_bias=False).param_specs((5,))) == ["w"]
    assert Conv2D(4, 3, groups=2).param_specs((6, 5, 5))["w"].shape == (4, 3, 3, 3)
    assert {key: spec.trainable for key, spec in BatchNormalization().param_specs((3, 5, 5)).items()} == {
        "gamma": True,
        "beta": True,
        "mean": False,
        "var": False,
    }


def test_what_has_no_plain_form():
    def mine(rng, shape):
        return np.ones(shape)

    assert "kernel_initializer" not in Dense(3, kernel_initializer=mine).config()  # it drew first values, no more

    class Penalty:
        def penalty(self, xp, w):
            return w.sum()

        def gradient(self, xp, w):
            return xp.ones_like(w)

    with pytest.raises(ConfigError, match=r"^d \(Dense\): its regularizer cannot be saved.*Received: Penalty$"):
        Dense(3, name="d", bias_regularizer=Penalty()).config()
    assert Lambda(abs).config() == {} and not Lambda.portable and "Lambda" not in REGISTRY


@pytest.mark.parametrize("named", activation.NAMED)
def test_activations_by_name(named):
    layer = Activation(named, name="a")
    assert type(layer) is activation.NAMED[named][0] and layer.name == "a"
    by_name = activation.get(named)
    assert by_name is None if named == "linear" else type(by_name) is type(layer)
    again = activation.get(json.loads(json.dumps(activation.config_of(layer))))
    assert type(again) is type(layer) and again.config() == layer.config()


def test_activations_of_layers_are_layers():
    own = LeakyReLU(0.7)
    assert Conv2D(2, 3, activation=own).activation is own
    assert isinstance(Dense(2, "relu").activation, ReLU)
    assert Dense(2).activation is None and Dense(2, "linear").activation is None
    assert Dense(**Dense(2, activation=own).config()).activation.negative_slope == 0.7
    with pytest.raises(ConfigError, match=r"activation: expected a config whose 'kind' is .* Received: {'kind': 'x'}"):
        activation.get({"kind": "x"})
    with pytest.raises(ConfigError, match=r"unknown activation.* Received: <class"):
        activation.get(ReLU)


SIZES = [(n, k, s, d) for n in (1, 2, 5, 6, 7) for k in (1, 2, 3, 4) for s in (1, 2, 3) for d in (1, 2)]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_same_gives_ceil_of_size_over_stride(data_format):
    for n, k, s, d in SIZES:
        layer = Conv2D(2, k, s, "same", dilation_rate=d, data_format=data_format)
        assert layer.output_shape((3, n, 2 * n)) == (2, -(-n // s), -(-2 * n // s))
        top, bottom, left, right = layer.pads((3, n, 2 * n))
        assert 0 <= bottom - top <= 1 and 0 <= right - left <= 1
        assert top + bottom <= d * (k - 1)


def test_shapes_are_inside_ones():
    assert Flatten(**LAST).output_shape((3, 4, 5)) == (60,)
    assert Dense(7, **LAST).output_shape((3, 4, 5)) == (7, 4, 5)
    assert Dense(7, data_format="channels_first").output_shape((3, 4, 5)) == (3, 4, 7)
    assert Reshape((4, 5, -1), **LAST).output_shape((60,)) == (3, 4, 5)
    assert Concatenate(-1, **LAST).output_shape(((3, 4, 5), (2, 4, 5))) == (5, 4, 5)
    assert Concatenate(2, **LAST).output_shape(((3, 4, 5), (3, 4, 1))) == (3, 4, 6)
    assert Lambda(lambda xp, x: x[:, :, :, :1], **LAST).output_shape((3, 4, 5)) == (1, 4, 5)
    assert Lambda(lambda xp, x: 1 / 0, output_shape=(4, 5, 3), **LAST).output_shape((3, 4, 5)) == (3, 4, 5)


def test_the_axis_of_the_channels_may_be_named():
    first = {"data_format": "channels_first"}
    for axis, shape, base in [
        (-1, (3, 4, 5), LAST), (3, (3, 4, 5), LAST), (1, (3, 4, 5), first), (-3, (3, 4, 5), first), (1, (3,), LAST),
        (-1, (4, 3), first), (2, (4, 3), LAST), (np.int64(-1), (3,), LAST), (None, (3, 4, 5), first),
    ]:  # fmt: skip
        layer = BatchNormalization(axis, 0.8, 0.01, **base)
        assert layer.output_shape(shape) == shape and layer.param_specs(shape)["mean"].shape == (3,)
        again = json.loads(json.dumps(layer.config()))
        assert again == {"axis": axis, "momentum": 0.8, "epsilon": 0.01, "center": True, "scale": True}
        assert BatchNormalization(**again).axis == axis
