"""Window arithmetic in plain Python integers: pairs, paddings and output sizes, with the formula in the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xconv.errors import ConfigError, ShapeError, described

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]  # top, bottom, left, right


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def positive(value: Any, what: str, least: int = 1) -> int:
    """`value` as an int that is at least `least`."""
    if not _is_int(value) or value < least:
        raise ConfigError(f"{what} must be an integer >= {least}. Received: {described(value)}")
    return int(value)


def pair(value: Any, what: str, least: int = 1) -> Pair:
    """An int or a pair of ints (height, width), each at least `least`."""
    values = (value, value) if _is_int(value) else value
    if not isinstance(values, Sequence) or len(values) != 2 or not all(_is_int(v) and v >= least for v in values):
        raise ConfigError(f"{what} must be an integer >= {least} or a pair of them. Received: {described(value)}")
    return int(values[0]), int(values[1])


def paddings(value: Any, what: str) -> Pads:
    """(top, bottom, left, right) from one int, (height, width), or all four; none may be negative."""
    if isinstance(value, Sequence) and len(value) == 4 and all(_is_int(v) and v >= 0 for v in value):
        top, bottom, left, right = (int(v) for v in value)
        return top, bottom, left, right
    if not _is_int(value) and not (isinstance(value, Sequence) and len(value) == 2):
        raise ConfigError(
            f"{what} must be an integer >= 0, (height, width) or (top, bottom, left, right). "
            f"Received: {described(value)}"
        )
    height, width = pair(value, what, least=0)
    return height, height, width, width


def pooling_pads(value: Any, kernel: Pair, what: str, word: str = "pad") -> Pads:
    """(top, bottom, left, right) for a pooling, of which every window must see some of the image."""
    pads = paddings(value, f"{what}: {word}")
    for axis, name in enumerate(("height", "width")):
        if max(pads[2 * axis : 2 * axis + 2]) >= kernel[axis]:
            raise ConfigError(
                f"{what}: {word} must be smaller than the kernel's {name} of {kernel[axis]}, or some windows hold "
                f"nothing but padding. Received: pads {pads}"
            )
    return pads


def window_output(
    size: Pair, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1), what: str = "window"
) -> Pair:
    """(OH, OW) of a window that slides over `size` = (H, W); ShapeError where nothing is left."""
    out = []
    for axis, name in enumerate("HW"):
        before, after = pads[2 * axis], pads[2 * axis + 1]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        length = (size[axis] + before + after - reach) // stride[axis] + 1
        if length < 1:
            raise ShapeError(
                f"{what}: no output is left: O{name} = ({name} + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
                f"= ({size[axis]} + {before + after} - {reach}) // {stride[axis]} + 1 = {length}, and must be >= 1. "
                f"Received: input {size[0]}x{size[1]}, kernel {kernel[0]}x{kernel[1]}, "
                f"stride {stride[0]}x{stride[1]}, pads {tuple(pads)}"
            )
        out.append(length)
    return out[0], out[1]


def same_shape(got: Sequence[int], expected: Sequence[int], what: str, cure: str = "") -> None:
    """ShapeError unless the two shapes are equal; `cure` ends what was expected."""
    if tuple(got) != tuple(expected):
        raise ShapeError(f"{what}: expected shape {tuple(expected)}{cure}. Received: shape {tuple(got)}")


DATA_FORMATS = ("channels_last", "channels_first")


def data_format_name(value: Any, what: str) -> str:
    """ "channels_last" or "channels_first", else ConfigError."""
    if value not in DATA_FORMATS:
        raise ConfigError(f"{what}: data_format must be 'channels_last' or 'channels_first'. Received: {value!r}")
    return str(value)


def channels_first(shape: Sequence[int], data_format: str) -> tuple[int, ...]:
    """The shape inside xconv of one example that the user gives as `shape`: (H, W, C) becomes (C, H, W).

    Only shapes of three sizes are images; others stay as they are.
    """
    if data_format == "channels_last" and len(shape) == 3:
        return shape[2], shape[0], shape[1]
    return tuple(shape)


def as_given(shape: Sequence[int], data_format: str) -> tuple[int, ...]:
    """The way back: the shape that the user sees of one example that is `shape` inside xconv."""
    if data_format == "channels_last" and len(shape) == 3:
        return shape[1], shape[2], shape[0]
    return tuple(shape)


def same_pads(size: Pair, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Pads:
    """The padding "same" of Keras: output size ceil(size / stride), and where it is odd one more after than before."""
    pads = []
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        total = max((-(-size[axis] // stride[axis]) - 1) * stride[axis] + reach - size[axis], 0)
        pads += [total // 2, total - total // 2]
    return pads[0], pads[1], pads[2], pads[3]
