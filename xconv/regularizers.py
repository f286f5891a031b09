"""Penalties on weights: what they add to the loss, and to the gradient."""

from __future__ import annotations

from typing import Any, Protocol

from xconv.backend import Array


class Regularizer(Protocol):
    """A penalty on one parameter, part of the loss."""

    def penalty(self, xp: Any, w: Array) -> Array:
        """What it adds to the loss: an array of shape ()."""

    def gradient(self, xp: Any, w: Array) -> Array:
        """The penalty's gradient, in the shape of w."""
