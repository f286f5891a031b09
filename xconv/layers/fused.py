"""Runs of layers that a backend does in one go. The graph swaps them in; nobody writes them in a model."""

from __future__ import annotations

from typing import Any

from xconv.backend import Array, Need
from xconv.layers.base import Context, Layer
from xconv.layers.conv import Conv2D
from xconv.layers.pool import MaxPool2D


class ConvReLUMaxPool(Layer):
    """Conv2D, ReLU and MaxPool2D without ever storing the unpooled map. The parameters stay the Conv2D's."""

    def __init__(self, conv: Conv2D, pool: MaxPool2D) -> None:
        super().__init__(name=conv.name)
        self.conv, self.pool = conv, pool

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        conv, pool = self.conv, self.pool
        return conv.backend.conv2d_relu_max_pool(
            x, conv.params["w"], conv.params["b"], conv.stride, conv.pads, pool.kernel, pool.stride
        )

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        dx, dw, db = self.conv.backend.conv2d_relu_max_pool_backward(dy, saved, need)
        return dx, {"w": dw, "b": db}
