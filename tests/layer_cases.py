"""Every layer in every way of using it, each beside a naive reference: (layer, shapes inside xconv, reference)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from tests import reference_layers as naive
from xconv.layers import (
    Activation,
    Add,
    Average,
    AvgPool2D,
    BatchNormalization,
    ChannelPadding,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Identity,
    Lambda,
    Layer,
    LeakyReLU,
    Maximum,
    MaxPool2D,
    Multiply,
    Normalization,
    ReLU,
    Rescaling,
    Reshape,
    Sigmoid,
    Softmax,
    Subtract,
    Tanh,
    ZeroPadding2D,
)

LAST, FIRST = "channels_last", "channels_first"


def last(reference: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A reference in the user's order of a channels_last model, [N,H,W,C], for arrays as they are inside."""

    def turned(x: Any, params: Any, train: bool) -> np.ndarray:
        def out(a: Any) -> Any:
            return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a

        y = reference([out(a) for a in x] if isinstance(x, tuple) else out(x), params, train)
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y

    return turned


def conv(**settings: Any) -> Callable[..., np.ndarray]:
    return lambda x, p, train: naive.conv2d(x, p["w"], p.get("b"), **settings)


def pool(kernel: Any, stride: Any, padding: Any, mean: bool) -> Callable[..., np.ndarray]:
    return lambda x, p, train: naive.pool(x, kernel, stride, padding, mean)


def each(f: Callable[[float], float]) -> Callable[..., np.ndarray]:
    return lambda x, p, train: naive.each(x, f)


def dense(x: Any, p: Any, train: bool) -> np.ndarray:
    return naive.dense(x, p["w"], p.get("b"))


def softmax(axis: int = -1) -> Callable[..., np.ndarray]:
    return lambda x, p, train: naive.softmax(x, axis)


def norm(axis: int, eps: float, frozen: bool = False) -> Callable[..., np.ndarray]:
    def reference(x: Any, p: Any, train: bool) -> np.ndarray:
        given = p["mean"], p["var"]
        mean, var = naive.statistics(x, axis) if train and not frozen else given
        return naive.batch_norm(x, axis, p.get("gamma"), p.get("beta"), mean, var, eps)

    return reference


def order(*shape: int) -> Callable[..., np.ndarray]:
    return lambda x, p, train: naive.in_order(x, shape)


def concatenate(axis: int) -> Callable[..., np.ndarray]:
    return lambda xs, p, train: naive.concatenate(xs, axis)


def merge(f: Callable[[list[float]], float]) -> Callable[..., np.ndarray]:
    def reference(xs: Any, p: Any, train: bool) -> np.ndarray:
        y = np.zeros(xs[0].shape)
        for at in np.ndindex(y.shape):
            y[at] = f([float(x[at]) for x in xs])
        return y

    return reference


def sigmoid(v: float) -> float:
    return 1.0 / (1.0 + math.exp(-v))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def squares(xp: Any, x: Any) -> Any:
    """[N,...,K] -> [N,...,1]: the last axis as the user sees it."""
    return (x * x).sum(axis=-1, keepdims=True)


def squares_backward(xp: Any, dy: Any, x: Any, y: Any) -> Any:
    return 2.0 * x * dy


IMAGE = (4, 5, 6)
CASES: list[tuple[Layer, Any, Callable[..., np.ndarray] | None]] = [
    (Conv2D(3, 3), (2, 6, 5), conv()),
    (Conv2D(2, (2, 3), (2, 1), (1, 0, 2, 1)), (3, 5, 6), conv(stride=(2, 1), padding=(1, 0, 2, 1))),
    (Conv2D(2, (4, 3), (3, 2), "same"), (1, 7, 6), conv(stride=(3, 2), padding="same")),
    (Conv2D(2, 2, padding="same", use_bias=False), (2, 3, 4), conv(padding="same")),
    (Conv2D(2, 3, 2, "same", dilation_rate=(2, 1)), (2, 6, 5), conv(stride=(2, 2), padding="same", dilation=(2, 1))),
    (Conv2D(4, 3, padding=1, groups=2), (2, 4, 3), conv(padding=(1, 1, 1, 1), groups=2)),
    (Conv2D(6, 2, groups=3, use_bias=False), (3, 4, 3), conv(groups=3)),  # depthwise
    (Conv2D(4, 2, 2, "same", groups=2), IMAGE, conv(stride=(2, 2), padding="same", groups=2)),
    (MaxPool2D(), (2, 6, 5), pool((2, 2), (2, 2), "valid", False)),
    (MaxPool2D(3, 2, 1), (2, 7, 5), pool((3, 3), (2, 2), (1, 1, 1, 1), False)),
    (MaxPool2D((3, 2), 2, "same"), IMAGE, pool((3, 2), (2, 2), "same", False)),
    (AvgPool2D(), (2, 6, 5), pool((2, 2), (2, 2), "valid", True)),
    (AvgPool2D((2, 3), (1, 2), (1, 0, 1, 1)), (2, 5, 6), pool((2, 3), (1, 2), (1, 0, 1, 1), True)),
    (AvgPool2D((3, 4), (2, 3), "same"), (2, 6, 7), pool((3, 4), (2, 3), "same", True)),
    (AvgPool2D(2, padding="same"), (2, 4, 6), pool((2, 2), (2, 2), "same", True)),  # which pads nothing
    (GlobalAveragePooling2D(), IMAGE, lambda x, p, train: naive.over_places(x, mean)),
    (GlobalMaxPooling2D(), IMAGE, lambda x, p, train: naive.over_places(x, max)),
    (Dense(4), (7,), dense),
    (Dense(2, use_bias=False), (3, 4), dense),
    (Dense(3, data_format=FIRST), (2, 4, 5), dense),
    (Dense(3, data_format=LAST), (2, 4, 5), last(dense)),
    (Flatten(), (6,), order(6)),
    (Flatten(data_format=FIRST), (2, 3, 4), order(24)),
    (Flatten(data_format=LAST), (2, 3, 4), last(order(24))),
    (Reshape((-1, 4)), (2, 6), order(3, 4)),
    (Reshape((3, 2, 4), data_format=FIRST), (24,), order(3, 2, 4)),
    (Reshape((3, -1, 4), data_format=LAST), (24,), last(order(3, 2, 4))),
    (Reshape((3, 2, 4), data_format=LAST), (2, 3, 4), last(order(3, 2, 4))),
    (Reshape((8, 3), data_format=LAST), (2, 3, 4), last(order(8, 3))),
    (ZeroPadding2D(), (2, 3, 4), lambda x, p, train: naive.zero_padding(x, (1, 1, 1, 1))),
    (ChannelPadding(2, 1), (2, 3, 4), lambda x, p, train: np.pad(x, ((0, 0), (2, 1), (0, 0), (0, 0)))),
    (ZeroPadding2D((0, 2)), (2, 3, 4), lambda x, p, train: naive.zero_padding(x, (0, 0, 2, 2))),
    (ZeroPadding2D(((1, 0), (3, 2))), (2, 3, 4), lambda x, p, train: naive.zero_padding(x, (1, 0, 3, 2))),
    (ReLU(), (2, 4, 3), each(lambda v: max(v, 0.0))),
    (LeakyReLU(), (2, 4, 3), each(lambda v: v if v > 0 else 0.3 * v)),
    (LeakyReLU(alpha=0.01), (9,), each(lambda v: v if v > 0 else 0.01 * v)),
    (Sigmoid(), (2, 4, 3), each(sigmoid)),
    (Tanh(), (2, 4, 3), each(math.tanh)),
    (Softmax(), (5,), softmax()),
    (Softmax(1), (3, 4), softmax(1)),
    (Softmax(data_format=FIRST), (2, 3, 4), softmax()),
    (Softmax(data_format=LAST), (2, 3, 4), last(softmax())),
    (Softmax(-3, data_format=LAST), (2, 3, 4), last(softmax(1))),
    (Activation("leaky_relu"), (9,), each(lambda v: v if v > 0 else 0.2 * v)),
    (Identity(), (2, 3, 4), each(lambda v: v)),
    (BatchNormalization(), (3, 4, 5), norm(1, 1e-3)),
    (BatchNormalization(None, 0.5, 0.1, center=False), (3, 2, 2), norm(1, 0.1)),
    (BatchNormalization(scale=False), (5,), norm(1, 1e-3)),
    (BatchNormalization(center=False, scale=False), (3, 4), norm(2, 1e-3)),
    (BatchNormalization(1, data_format=FIRST), (3, 4, 5), norm(1, 1e-3)),
    (BatchNormalization(-1, data_format=LAST), (3, 4, 5), norm(1, 1e-3)),
    (BatchNormalization(-1), (4, 3), norm(2, 1e-3)),
    (BatchNormalization(trainable=False), (3, 4, 5), norm(1, 1e-3, frozen=True)),
    (BatchNormalization(trainable=False), (6,), norm(1, 1e-3, frozen=True)),
    (Rescaling(1 / 127.5, -1.0), (2, 3, 4), each(lambda v: v / 127.5 - 1)),
    (Rescaling(-3.0), (7,), each(lambda v: -3 * v)),
    (Normalization(-1, 0.5, 4.0, data_format=LAST), (3, 4, 5), norm(1, 0.0, frozen=True)),
    (Normalization(1, [1, -2, 0.5], [1, 0.25, 9], data_format=FIRST), (3, 4, 5), norm(1, 0.0, frozen=True)),
    (Normalization(mean=[1, 2, 3, 4], variance=2), (4,), norm(1, 0.0, frozen=True)),
    (Normalization(-1, 0, [1, 2]), (3, 2), norm(2, 0.0, frozen=True)),
    (Normalization(None, 0.5, 4), (3, 4, 5), norm(1, 0.0, frozen=True)),
    (Dropout(0.4), (2, 4, 5), None),  # see test_layers_dropout
    (Dropout(0), (7,), each(lambda v: v)),
    (Add(), [(3, 4)] * 3, merge(sum)),
    (Subtract(), [(2, 3, 4)] * 2, merge(lambda values: values[0] - values[1])),
    (Average(), [(2, 3, 4)] * 3, merge(mean)),
    (Multiply(), [(2, 3, 4)] * 3, merge(lambda values: reduce(lambda a, b: a * b, values))),
    (Maximum(), [(2, 3, 4)] * 3, merge(max)),
    (Concatenate(), [(3,), (1,), (2,)], concatenate(-1)),
    (Concatenate(1), [(3, 2), (1, 2)], concatenate(1)),
    (Concatenate(data_format=FIRST), [(2, 3, 4), (2, 3, 1)], concatenate(-1)),
    (Concatenate(data_format=LAST), [(2, 3, 4), (1, 3, 4)], last(concatenate(-1))),
    (Concatenate(1, data_format=LAST), [(2, 3, 4), (2, 1, 4)], last(concatenate(1))),
    (Lambda(lambda x: x * abs(x), lambda xp, dy, x, y: 2 * abs(x) * dy), (3, 4), each(lambda v: v * abs(v))),
    (Lambda(squares, squares_backward), (3, 4), lambda x, p, train: naive.dense(x * x, np.ones((4, 1)), None)),
    (
        Lambda(squares, squares_backward, output_shape=(4, 5, 1), data_format=LAST),
        (3, 4, 5),
        last(lambda x, p, train: naive.dense(x * x, np.ones((3, 1)), None)),
    ),
]  # fmt: skip


def name(case: tuple[Layer, Any, Any]) -> str:
    """For test ids."""
    layer, shape, _ = case
    return f"{type(layer).__name__}-{shape}-{layer.data_format or 'both'}".replace(" ", "")
