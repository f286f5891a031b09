"""Axes as the user counts them, and where they are inside xconv."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xconv.backend import Array
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.base import Layer, Shape


def whole(value: Any, what: str) -> int:
    """An axis: any integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{what} must be an integer. Received: {described(value)}")
    return int(value)


def inside(layer: Layer, axis: int, rank: int) -> int:
    """Where the user's `axis` is in an array of `rank` axes, the batch's among them: it is 0, as in Keras.

    Images that the user sees as [N,H,W,C] are [N,C,H,W] inside. The batch axis is refused.
    """
    if not -rank < axis < rank or axis == 0:
        raise ShapeError(
            f"{layer.label}: axis must be from 1 to {rank - 1}, or from {1 - rank} to -1: axis 0 is the batch. "
            f"Received: axis {axis} for inputs of {rank} axes"
        )
    axis %= rank
    return (0, 2, 3, 1)[axis] if layer.data_format == "channels_last" and rank == 4 else axis


def of_channels(layer: Layer, axis: int | None, in_shape: Shape, otherwise: str = "") -> int:
    """How many channels there are in inputs of `in_shape`; an error where `axis`, as the user counts, is another's.

    `otherwise` says what else the user may do.
    """
    if not in_shape:
        raise ShapeError(f"{layer.label}: expected at least one feature axis. Received: shape ()")
    rank = len(in_shape) + 1
    channels = 1 if rank == 4 and layer.data_format != "channels_last" else rank - 1
    if axis not in (None, channels, channels - rank):
        raise ConfigError(
            f"{layer.label}: axis must be that of the channels, {channels} or {channels - rank} here{otherwise}. "
            f"Received: axis {axis} for inputs of shape {(None, *layer._seen(in_shape))}"
        )
    return in_shape[0] if rank == 4 else in_shape[-1]


def as_maps(x: Array) -> Array:
    """[N,C,H,W] as it is; [N,...,F] as [N..., F, 1, 1]."""
    return x if x.ndim == 4 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1], 1, 1)
