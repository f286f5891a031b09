"""Pooling."""

from __future__ import annotations

from typing import Any

from xconv.backend import Array, Need
from xconv.layers.base import Context, Layer, Shape
from xconv.shapes import pair, pooling_pads, window_output


class _Pool2D(Layer):
    """A window that slides over each channel by itself."""

    def __init__(
        self,
        kernel: int | tuple[int, int] = 2,
        *,
        stride: int | tuple[int, int] | None = None,
        pad: int | tuple[int, ...] = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.kernel = pair(kernel, f"{self.label}: kernel")
        self.stride = self.kernel if stride is None else pair(stride, f"{self.label}: stride")
        self.pads = pooling_pads(pad, self.kernel, self.label)

    def output_shape(self, in_shape: Shape) -> Shape:
        c, h, w = self._expect_images(in_shape)
        return c, *window_output((h, w), self.kernel, self.stride, self.pads, what=self.label)

    def config(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "stride": self.stride, "pad": self.pads}


class MaxPool2D(_Pool2D):
    """y[n,c,i,j] = the largest x[n,c] in the window; x[N,C,H,W] -> y[N,C,OH,OW].

    The stride is the kernel's size unless given. Its gradient goes to the first maximum alone. Padding never wins.
    """

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y, argmax = self.backend.max_pool(x, self.kernel, self.stride, self.pads)
        return y, (argmax, x.shape)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        argmax, x_shape = saved
        return self.backend.max_pool_backward(dy, argmax, x_shape, self.kernel, self.stride, self.pads), {}


class AvgPool2D(_Pool2D):
    """y[n,c,i,j] = the mean of x[n,c] in the window, padding counted as zeros; x[N,C,H,W] -> y[N,C,OH,OW]."""

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self.backend.avg_pool(x, self.kernel, self.stride, self.pads), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.avg_pool_backward(dy, saved, self.kernel, self.stride, self.pads), {}
