"""The layers, one family a file."""

from xconv.layers.activation import Activation, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from xconv.layers.base import Context, Layer, ParamSpec
from xconv.layers.conv import Conv2D
from xconv.layers.dense import Dense
from xconv.layers.dropout import Dropout
from xconv.layers.lambda_ import Lambda
from xconv.layers.merge import (
    Add,
    Average,
    Concatenate,
    Maximum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    maximum,
    multiply,
    subtract,
)
from xconv.layers.norm import BatchNormalization
from xconv.layers.pool import AvgPool2D, GlobalAveragePooling2D, GlobalMaxPooling2D, MaxPool2D
from xconv.layers.reshape import ChannelPadding, Flatten, Reshape, ZeroPadding2D
from xconv.layers.scaling import Normalization, Rescaling
from xconv.layers.symbolic import Input, Tensor

AveragePooling2D, MaxPooling2D = AvgPool2D, MaxPool2D  # Keras has both names

# What a file may name; not Lambda, whose functions no file holds.
REGISTRY: dict[str, type[Layer]] = {
    kind.__name__: kind
    for kind in (
        Add, Average, AvgPool2D, BatchNormalization, ChannelPadding, Concatenate, Conv2D, Dense, Dropout, Flatten,
        GlobalAveragePooling2D, GlobalMaxPooling2D, Identity, LeakyReLU, MaxPool2D, Maximum, Multiply, Normalization,
        ReLU, Rescaling, Reshape, Sigmoid, Softmax, Subtract, Tanh, ZeroPadding2D,
    )
}  # fmt: skip

__all__ = [
    "REGISTRY",
    "Activation",
    "Add",
    "Average",
    "AveragePooling2D",
    "AvgPool2D",
    "BatchNormalization",
    "ChannelPadding",
    "Concatenate",
    "Context",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "Identity",
    "Input",
    "Lambda",
    "Layer",
    "LeakyReLU",
    "MaxPool2D",
    "MaxPooling2D",
    "Maximum",
    "Multiply",
    "Normalization",
    "ParamSpec",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Subtract",
    "Tanh",
    "Tensor",
    "ZeroPadding2D",
    "add",
    "average",
    "concatenate",
    "maximum",
    "multiply",
    "subtract",
]
