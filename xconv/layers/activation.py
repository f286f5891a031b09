"""Activations."""

from __future__ import annotations

from typing import Any

from xconv.backend import Array, Need
from xconv.layers.base import Context, Layer


class ReLU(Layer):
    """y = max(x, 0); dx = dy where y > 0, else 0."""

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.relu(x)
        return y, y

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.relu_backward(dy, saved), {}
