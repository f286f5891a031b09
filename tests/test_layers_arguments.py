"""What layers are given: defaults, configs, and every refusal in its words."""

from __future__ import annotations

import numpy as np
import pytest

from xconv.errors import ConfigError, ShapeError
from xconv.layers import (
    Add,
    AvgPool2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    GlobalAveragePooling2D,
    Input,
    Lambda,
    LeakyReLU,
    MaxPool2D,
    Multiply,
    Reshape,
    Softmax,
    Subtract,
    ZeroPadding2D,
)

LAST = {"data_format": "channels_last"}


def _three(xp, x, y):
    return x


def _keyword(x, *, power):
    return x**power


REFUSED = [
    (lambda: Conv2D(0, 3), ConfigError, "Conv2D: filters must be an integer >= 1. Received: 0"),
    (
        lambda: Conv2D(2, (3.0, 3.0)),
        ConfigError,
        "Conv2D: kernel_size must be an integer >= 1 or a pair of them. Received: (3.0, 3.0)",
    ),
    (
        lambda: Conv2D(2, 3, 0),
        ConfigError,
        "Conv2D: strides must be an integer >= 1 or a pair of them. Received: 0",
    ),
    (
        lambda: Conv2D(2, 3, padding="full"),
        ConfigError,
        "Conv2D: padding must be 'valid', 'same', an integer >= 0, (height, width) or (top, bottom, left, right). "
        "Received: 'full'",
    ),
    (
        lambda: Conv2D(2, 3, padding=None),
        ConfigError,
        "Conv2D: padding must be an integer >= 0, (height, width) or (top, bottom, left, right). Received: None",
    ),
    (
        lambda: Conv2D(2, 3, dilation_rate=0),
        ConfigError,
        "Conv2D: dilation_rate must be an integer >= 1 or a pair of them. Received: 0",
    ),
    (
        lambda: Conv2D(3, 3, groups=2, name="c"),
        ConfigError,
        "c (Conv2D): groups must divide filters. Received: 2 groups, 3 filters",
    ),
    (
        lambda: Conv2D(4, 3, groups=2, name="c", **LAST).output_shape((3, 6, 7)),
        ShapeError,
        "c (Conv2D): groups must divide the channels of the input. Received: 2 groups, images of shape (6, 7, 3) with "
        "3 channels",
    ),
    (
        lambda: Conv2D(2, 3, stride=2),
        ConfigError,
        "Conv2D: no such argument (did you mean strides?): expected filters, kernel_size, strides, padding, "
        "dilation_rate, groups, activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, "
        "bias_regularizer, name, trainable, input_shape, data_format. Received: stride",
    ),
    (
        lambda: Concatenate(zzz=1, axs=2),
        ConfigError,
        "Concatenate: no such argument (did you mean axis?): expected axis, name, trainable, input_shape, "
        "data_format. Received: zzz, axs",
    ),
    (
        lambda: Add(zzz=1),
        ConfigError,
        "Add: no such argument: expected name, trainable, input_shape, data_format. Received: zzz",
    ),
    (
        lambda: Add([Input((2,)), Input((2,))], name="a"),
        ConfigError,
        "a (Add): tensors are given to the layer when it is called: Add()([a, b]). Received: "
        "[<Tensor (None, 2) of input>, <Tensor (None, 2) of input>]",
    ),
    (
        lambda: Concatenate(Input((2,))),
        ConfigError,
        "Concatenate: tensors are given to the layer when it is called: Concatenate()([a, b]). Received: "
        "<Tensor (None, 2) of input>",
    ),
    (
        lambda: Subtract()(Input((2,)), Input((2,))),
        ConfigError,
        "Subtract: expected its tensors as one list, Subtract()([a, b]). Received: 2 arguments",
    ),
    (
        lambda: Dense(3, name="d")(Input((2,)), Input((2,)), 1),
        ConfigError,
        "d (Dense): expected one tensor. Received: 3 arguments",
    ),
    (
        lambda: Subtract().output_shape(((3,), (3,), (3,))),
        ShapeError,
        "Subtract: expected exactly two inputs. Received: 3",
    ),
    (
        lambda: Dense(2, name="d").weights,
        ConfigError,
        "d (Dense): weights: a layer has its weights once its model is used: ask model.params or model.predict first. "
        "Received: a layer without weights",
    ),
    (
        lambda: Conv2D(2, 3, activation="swish"),
        ConfigError,
        "unknown activation: expected 'relu', 'sigmoid', 'tanh', 'softmax', 'leaky_relu', 'linear', a layer, or None. "
        "Received: 'swish'",
    ),
    (
        lambda: Conv2D(2, 3, **LAST).output_shape((5,)),
        ShapeError,
        "Conv2D: expected images, (height, width, channels). Received: shape (5,)",
    ),
    (
        lambda: AvgPool2D((3, 2), padding=2),
        ConfigError,
        "AvgPool2D: padding must be smaller than the kernel's width of 2, or some windows hold nothing but padding. "
        "Received: pads (2, 2, 2, 2)",
    ),
    (
        lambda: MaxPool2D(4).output_shape((2, 3, 9)),
        ShapeError,
        "MaxPool2D: no output is left: OH = (H + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (3 + 0 - 4) // 4 + 1 = 0, and must be >= 1. Received: input 3x9, kernel 4x4, stride 4x4, pads (0, 0, 0, 0)",
    ),
    (
        lambda: GlobalAveragePooling2D().output_shape((3, 4)),
        ShapeError,
        "GlobalAveragePooling2D: expected images, (channels, height, width). Received: shape (3, 4)",
    ),
    (lambda: Dense(True), ConfigError, "Dense: units must be an integer >= 1. Received: True"),
    (
        lambda: Dense(3).output_shape(()),
        ShapeError,
        "Dense: expected at least one feature axis. Received: shape ()",
    ),
    (
        lambda: Reshape((2, -1, -1)),
        ConfigError,
        "Reshape: target_shape must be sizes >= 1, of which one may be -1, without the batch's. Received: (2, -1, -1)",
    ),
    (
        lambda: Reshape("ab"),
        ConfigError,
        "Reshape: target_shape must be sizes >= 1, of which one may be -1, without the batch's. Received: 'ab'",
    ),
    (
        lambda: Reshape((4, -1), name="r", **LAST).output_shape((3, 2, 5)),
        ShapeError,
        "r (Reshape): target_shape (4, -1) must hold as many numbers as the input. "
        "Received: shape (2, 5, 3), 30 numbers",
    ),
    (
        lambda: Reshape((4, 5)).output_shape((40,)),
        ShapeError,
        "Reshape: target_shape (4, 5) must hold as many numbers as the input. Received: shape (40,), 40 numbers",
    ),
    (
        lambda: ZeroPadding2D(((1, -1), (0, 0))),
        ConfigError,
        "ZeroPadding2D: padding must be an integer >= 0 or a pair of them. Received: (1, -1)",
    ),
    (
        lambda: ZeroPadding2D("same"),
        ConfigError,
        "ZeroPadding2D: padding must be an integer >= 0, (height, width) or (top, bottom, left, right). "
        "Received: 'same'",
    ),
    (
        lambda: LeakyReLU(-0.1),
        ConfigError,
        "LeakyReLU: negative_slope must be a finite number >= 0. Received: -0.1",
    ),
    (lambda: Softmax(1.0), ConfigError, "Softmax: axis must be an integer. Received: 1.0"),
    (
        lambda: Softmax(2).output_shape((4,)),
        ShapeError,
        "Softmax: axis must be from 1 to 1, or from -1 to -1: axis 0 is the batch. Received: axis 2 for inputs of 2 "
        "axes",
    ),
    (
        lambda: BatchNormalization(momentum=1.5),
        ConfigError,
        "BatchNormalization: momentum must be a finite number from 0 to 1. Received: 1.5",
    ),
    (
        lambda: BatchNormalization(epsilon=0),
        ConfigError,
        "BatchNormalization: epsilon must be a finite number >= 1e-12. Received: 0",
    ),
    (lambda: BatchNormalization(0.9), ConfigError, "BatchNormalization: axis must be an integer. Received: 0.9"),
    (
        lambda: BatchNormalization(1, name="n", **LAST).output_shape((3, 4, 5)),
        ConfigError,
        "n (BatchNormalization): axis must be that of the channels, 3 or -1 here, or left out. "
        "Received: axis 1 for inputs of shape (None, 4, 5, 3)",
    ),
    (
        lambda: BatchNormalization(-1, data_format="channels_first").output_shape((3, 4, 5)),
        ConfigError,
        "BatchNormalization: axis must be that of the channels, 1 or -3 here, or left out. "
        "Received: axis -1 for inputs of shape (None, 3, 4, 5)",
    ),
    (
        lambda: BatchNormalization(1).output_shape((3, 4)),
        ConfigError,
        "BatchNormalization: axis must be that of the channels, 2 or -1 here, or left out. "
        "Received: axis 1 for inputs of shape (None, 3, 4)",
    ),
    (
        lambda: BatchNormalization(0, **LAST).output_shape((3,)),
        ConfigError,
        "BatchNormalization: axis must be that of the channels, 1 or -1 here, or left out. "
        "Received: axis 0 for inputs of shape (None, 3)",
    ),
    (lambda: Dropout(-0.5), ConfigError, "Dropout: rate must be a finite number >= 0. Received: -0.5"),
    (
        lambda: Dropout(1),
        ConfigError,
        "Dropout: rate must be below 1, the share of numbers that is dropped. Received: 1",
    ),
    (
        lambda: Add(name="a", **LAST).output_shape(((3, 4, 5), (3, 4, 6))),
        ShapeError,
        "a (Add): expected inputs of the same shape. Received: shapes (4, 5, 3), (4, 6, 3)",
    ),
    (
        lambda: Multiply().output_shape(((3,),)),
        ShapeError,
        "Multiply: expected at least two inputs. Received: 1",
    ),
    (
        lambda: Concatenate(**LAST).output_shape(((3, 4, 5), (2, 4, 6))),
        ShapeError,
        "Concatenate: expected inputs of the same shape but for axis -1. Received: shapes (4, 5, 3), (4, 6, 2)",
    ),
    (
        lambda: Concatenate().output_shape(((3, 4), (3,))),
        ShapeError,
        "Concatenate: expected inputs of the same shape but for axis -1. Received: shapes (3, 4), (3,)",
    ),
    (
        lambda: Concatenate(0).output_shape(((3,), (3,))),
        ShapeError,
        "Concatenate: axis must be from 1 to 1, or from -1 to -1: axis 0 is the batch. Received: axis 0 for inputs of "
        "2 axes",
    ),
    (
        lambda: Concatenate(-2).output_shape(((3,), (3,))),
        ShapeError,
        "Concatenate: axis must be from 1 to 1, or from -1 to -1: axis 0 is the batch. Received: axis -2 for inputs of "
        "2 axes",
    ),
    (lambda: Lambda(3), ConfigError, "Lambda: function must be callable as f(x) or f(xp, x). Received: 3"),
    (
        lambda: Lambda(_three),
        ConfigError,
        f"Lambda: function must be callable as f(x) or f(xp, x). Received: {_three!r}, with 3 arguments",
    ),
    (
        lambda: Lambda(_keyword),
        ConfigError,
        f"Lambda: function must be callable as f(x) or f(xp, x). Received: {_keyword!r}, whose arguments are not known",
    ),
    (
        lambda: Lambda(np.add),
        ConfigError,
        "Lambda: function must be callable as f(x) or f(xp, x). Received: <ufunc 'add'>, whose arguments are not known",
    ),
    (
        lambda: Lambda(abs, _three),
        ConfigError,
        f"Lambda: backward must be callable as f(xp, dy, x, y). Received: {_three!r}",
    ),
    (
        lambda: Lambda(abs, (10,)),
        ConfigError,
        "Lambda: backward must be callable as f(xp, dy, x, y); sizes are output_shape=. Received: (10,)",
    ),
    (
        lambda: Lambda(abs, 3),
        ConfigError,
        "Lambda: backward must be callable as f(xp, dy, x, y). Received: 3",
    ),
    (
        lambda: Lambda(lambda xp, x: x.sum(), name="l").output_shape((3,)),
        ShapeError,
        "l (Lambda): function must give an array whose first axis is the batch's, of 1 here. "
        "Received: array of shape (), dtype float32",
    ),
    (
        lambda: Lambda(abs, output_shape=(3, 0)),
        ConfigError,
        "Lambda: each size of output_shape must be an integer >= 1. Received: 0",
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value) == message
