"""Convolution."""

from __future__ import annotations

from typing import Any

from xconv import initializers
from xconv.backend import Array, Need
from xconv.layers.base import Context, Layer, ParamSpec, Shape
from xconv.shapes import paddings, pair, positive, window_output


class Conv2D(Layer):
    """y[n,f,i,j] = b[f] + sum over c,k,l of w[f,c,k,l] x[n, c, i*stride + k - pad, j*stride + l - pad].

    x[N,C,H,W], w[F,C,KH,KW], b[F] -> y[N,F,OH,OW], OH = (H + pads - KH) // stride + 1. This is the correlation that
    every framework calls convolution. (LeCun et al. 1998; Deep Learning from Scratch, section 7.2)
    """

    def __init__(
        self,
        filters: int,
        kernel: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        pad: int | tuple[int, ...] = 0,
        weight_init: str | float | initializers.Initializer = "he",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.filters = positive(filters, f"{self.label}: filters")
        self.kernel = pair(kernel, f"{self.label}: kernel")
        self.stride = pair(stride, f"{self.label}: stride")
        self.pads = paddings(pad, f"{self.label}: pad")
        self.weight_init = initializers.get(weight_init)

    def output_shape(self, in_shape: Shape) -> Shape:
        _, h, w = self._expect_images(in_shape)
        return self.filters, *window_output((h, w), self.kernel, self.stride, self.pads, what=self.label)

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        return {
            "w": ParamSpec((self.filters, in_shape[0], *self.kernel), self.weight_init),
            "b": ParamSpec((self.filters,), initializers.zeros),
        }

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self.backend.conv2d(x, self.params["w"], self.params["b"], self.stride, self.pads)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        dx, dw, db = self.backend.conv2d_backward(dy, saved, need)
        return dx, {"w": dw, "b": db}

    def config(self) -> dict[str, Any]:
        return {"filters": self.filters, "kernel": self.kernel, "stride": self.stride, "pad": self.pads}
