"""Axes as the user counts them, and where they are inside xconv."""

from __future__ import annotations

from typing import Any

import numpy as np

from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.base import Layer


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
