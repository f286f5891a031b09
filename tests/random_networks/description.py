"""What a random network is, as plain data, and the shapes in it, worked out without xconv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]  # of one example, in the axis order of the network's data format


@dataclass(frozen=True)
class Node:
    """One use of a layer. Two nodes of the same `layer` share it; `sources` counts the inputs first, then the nodes."""

    layer: str
    kind: str
    arguments: dict[str, Any]
    sources: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Output:
    """A value that the network gives, and what is asked of it."""

    value: int
    loss: str
    weight: float


@dataclass(frozen=True)
class Network:
    """Everything there is to say of a network but its numbers, which `examples` and `weights` draw."""

    seed: int
    number: int
    data_format: str
    batch: int
    dropout_seed: int
    inputs: tuple[Shape, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]

    def __str__(self) -> str:
        return f"network {self.number} of seed {self.seed}"

    def shape(self, value: int) -> Shape:
        """Of one example of an input or a node."""
        return [*self.inputs, *(node.shape for node in self.nodes)][value]

    def examples(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(xs, ts), which float32 holds exactly, so that both dtypes are given the same."""
        rng = np.random.default_rng([self.seed, self.number, 1])
        xs = [rng.standard_normal((self.batch, *shape)).astype(np.float32) for shape in self.inputs]
        return xs, [_labels(rng, out.loss, (self.batch, *self.shape(out.value))) for out in self.outputs]

    def weights(self, shapes: dict[str, Shape]) -> dict[str, np.ndarray]:
        """Values for parameters of these names ("layer.parameter") and shapes, none of them zero; exact in float32."""
        rng = np.random.default_rng([self.seed, self.number, 2])
        drawn = {}
        for name, shape in shapes.items():
            values = rng.standard_normal(shape)
            if name.endswith((".gamma", ".var")):
                values = rng.uniform(0.5, 1.5, shape)
            elif name.endswith(".w"):  # over the inputs that an output has: w[I,O] or w[F,C/G,KH,KW]
                values *= 1.2 / math.sqrt(shape[0] if len(shape) == 2 else math.prod(shape[1:]))
            else:
                values *= 0.5
            drawn[name] = values.astype(np.float32)
        return drawn


@dataclass(frozen=True)
class Results:
    """What one network gives: in inference, in training, and on the way back."""

    predicted: list[np.ndarray]
    trained: list[np.ndarray]  # the outputs of a training pass
    loss: float
    gradients: dict[str, np.ndarray]  # of every trained parameter
    inputs: list[np.ndarray]  # the loss's gradient by each input


def _labels(rng: np.random.Generator, loss: str, shape: Shape) -> np.ndarray:
    """Labels that a loss takes for outputs of this shape; for "linear" the coefficients."""
    if loss in ("sparse", "sparse of logits"):
        return rng.integers(shape[-1], size=shape[:-1])
    if loss in ("categorical", "smoothed"):
        return np.eye(shape[-1], dtype=np.float32)[rng.integers(shape[-1], size=shape[:-1])]
    if loss == "soft":
        t = rng.uniform(0.1, 1.0, shape)
        return (t / t.sum(axis=-1, keepdims=True)).astype(np.float32)
    if loss == "binary":
        return rng.uniform(0.0, 1.0, shape).round(int(rng.integers(2)) * 3).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------- shapes, apart from xconv's


def same_padding(size: int, reach: int, stride: int) -> tuple[int, int]:
    """Keras's "same": ceil(size / stride) windows, whose padding is one larger at the end where it is odd."""
    missing = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return missing // 2, missing - missing // 2


def four_pads(padding: Any, sizes: Shape, kernel: Shape, strides: Shape, dilation: Shape) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) that an argument `padding` means."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        reaches = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        (top, bottom), (left, right) = map(same_padding, sizes, reaches, strides)
        return top, bottom, left, right
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2 and isinstance(padding[0], int):
        return padding[0], padding[0], padding[1], padding[1]
    top, bottom, left, right = padding if len(padding) == 4 else (*padding[0], *padding[1])
    return top, bottom, left, right


def two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def to_chw(shape: Shape, data_format: str) -> Shape:
    return (shape[2], shape[0], shape[1]) if data_format == "channels_last" else shape


def from_chw(shape: Shape, data_format: str) -> Shape:
    return (shape[1], shape[2], shape[0]) if data_format == "channels_last" else shape


def shape_after(kind: str, arguments: dict[str, Any], shapes: Sequence[Shape], data_format: str) -> Shape | None:
    """What a layer makes of inputs of these shapes; None where it cannot take them."""
    shape = shapes[0]
    if kind == "Concatenate":
        axis = arguments["axis"] % (len(shape) + 1) - 1
        return *shape[:axis], sum(other[axis] for other in shapes), *shape[axis + 1 :]
    if kind == "Dense":
        return *shape[:-1], arguments["units"]
    if kind == "Flatten":
        return (math.prod(shape),)
    if kind == "Reshape":
        target = arguments["target_shape"]
        rest = math.prod(shape) // abs(math.prod(target))
        return tuple(rest if size == -1 else size for size in target)
    if kind == "Lambda" and arguments["function"] == "total":
        return *shape[:-1], 1
    if kind not in ("Conv2D", "MaxPool2D", "AvgPool2D", "ZeroPadding2D", "ChannelPadding") and "Global" not in kind:
        return shape
    c, *sizes = to_chw(shape, data_format)
    if kind == "ChannelPadding":
        return from_chw((arguments["before"] + c + arguments["behind"], *sizes), data_format)
    if kind.startswith("Global"):
        return (c,)
    kernel = two(arguments.get("kernel_size") or arguments.get("pool_size", 1))
    strides, dilation = (
        two(arguments.get("strides", kernel if "Pool" in kind else 1)),
        arguments.get("dilation_rate", 1),
    )
    dilation = two(dilation)
    pads = four_pads(arguments["padding"], tuple(sizes), kernel, strides, dilation)
    reaches = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    out = [(sizes[i] + pads[2 * i] + pads[2 * i + 1] - reaches[i]) // strides[i] + 1 for i in (0, 1)]
    return from_chw((arguments.get("filters", c), *out), data_format) if min(out) >= 1 else None
