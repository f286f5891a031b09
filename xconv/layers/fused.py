"""Runs of layers that a backend does in one go. A plan swaps them in; nobody writes them in a model."""

from __future__ import annotations

from typing import Any, ClassVar

from xconv.backend import Array, Need
from xconv.layers.base import Context, Layer, Shape
from xconv.layers.conv import Conv2D
from xconv.layers.dense import Dense
from xconv.layers.norm import BatchNormalization
from xconv.layers.pool import MaxPool2D


class _ConvWith(Layer):
    """Conv2D of one group, told what comes next. The parameters stay the Conv2D's."""

    what: ClassVar[dict[str, Any]]

    def __init__(self, conv: Conv2D) -> None:
        super().__init__(name=conv.name)
        self.conv = conv

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        conv = self.conv
        w, b = conv.w_and_b(conv.filters)
        return conv.backend.conv2d(x, w, b, conv.strides, conv.pads(x.shape[1:]), conv.dilation_rate, **self.what)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.conv.backward(dy, saved, need)


class ConvReLU(_ConvWith):
    """Conv2D and ReLU without ever storing what ReLU is given."""

    keeps = "xy"
    what = {"activation": "relu"}  # noqa: RUF012
    pooling = None

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        if ctx.backward:
            return super().forward(x, ctx)
        conv = self.conv
        given = x, *conv.w_and_b(conv.filters), conv.strides, conv.pads(x.shape[1:]), conv.dilation_rate
        return conv.backend.conv2d_relu_inference(*given), None


class DenseReLU(Layer):
    """Dense and ReLU in one. The parameters stay the Dense's."""

    keeps = "xy"

    def __init__(self, dense: Dense) -> None:
        super().__init__(name=dense.name)
        self.dense = dense

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self.dense.forward(x, ctx, activation="relu")

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.dense.backward(dy, saved, need)


class NormalizedConv(_ConvWith):
    """Conv2D whose output goes to a BatchNormalization alone: a backend may round more freely there."""

    keeps = "x"
    what = {"normalized": True}  # noqa: RUF012


class NormReLU(Layer):
    """BatchNormalization and ReLU in one pass each way. The parameters stay the BatchNormalization's."""

    keeps = "x"

    def __init__(self, norm: BatchNormalization) -> None:
        super().__init__(name=norm.name)
        self.norm = norm

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self.norm.forward(x, ctx, relu=True)

    def learnt(self, saved: Any) -> Any:
        return self.norm.learnt(saved)

    def update(self, saved: Any) -> None:
        self.norm.update(saved)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.norm.backward(dy, saved, need)


class ConvReLUMaxPool(Layer):
    """Conv2D, ReLU and MaxPool2D without ever storing the unpooled map. The parameters stay the Conv2D's.

    The Conv2D has one group and no dilation, the MaxPool2D no padding.
    """

    keeps = "xy"
    what: ClassVar[dict[str, Any]] = ConvReLU.what

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        return self.pool.memory(in_shape, out_shape, itemsize)

    def __init__(self, conv: Conv2D, pool: MaxPool2D) -> None:
        super().__init__(name=conv.name)
        self.conv, self.pool, self.pooling = conv, pool, (pool.pool_size, pool.strides)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        conv = self.conv
        given = x, *conv.w_and_b(conv.filters), conv.strides, conv.pads(x.shape[1:])
        if ctx.backward:
            return conv.backend.conv2d_relu_max_pool(*given, *self.pooling)
        return conv.backend.conv2d_relu_inference(*given, pool=self.pooling), None

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        dx, dw, db = self.conv.backend.conv2d_relu_max_pool_backward(dy, saved, need)
        return dx, self.conv.gradients(dw, db)


def convolution(layer: Layer) -> tuple[Conv2D, dict[str, Any]] | None:
    """The Conv2D that a run does, and what its backend is told of what comes next; None where it does none."""
    if isinstance(layer, Conv2D):
        return layer, {}
    return (layer.conv, layer.what) if isinstance(layer, _ConvWith | ConvReLUMaxPool) else None
