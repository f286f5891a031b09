"""The layers, one family a file."""

from xconv.layers.activation import ReLU
from xconv.layers.base import Context, Layer, ParamSpec
from xconv.layers.conv import Conv2D
from xconv.layers.dense import Dense, Flatten
from xconv.layers.pool import AvgPool2D, MaxPool2D

__all__ = ["AvgPool2D", "Context", "Conv2D", "Dense", "Flatten", "Layer", "MaxPool2D", "ParamSpec", "ReLU"]
