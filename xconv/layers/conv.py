"""Convolution."""

from __future__ import annotations

from typing import Any

from xconv.backend import Array, Need
from xconv.errors import ConfigError, ShapeError
from xconv.initializers import Initializer
from xconv.layers.base import Context, Layer, ParamSpec, Shape
from xconv.layers.padding import padding_of, pads_of, plain
from xconv.layers.weighted import Weighted
from xconv.shapes import Pads, pair, positive, window_output


class Conv2D(Weighted):
    """y[n,f,i,j] = b[f] + sum over c,k,l of w[f,c,k,l] x[n, g C/G + c, i s + k d - top, j s + l d - left].

    x[N,C,H,W], w[F,C/G,KH,KW], b[F] -> y[N,F,OH,OW], where s is the stride, d the dilation, G the number of groups and
    g = f // (F/G) the group of filter f: with G > 1 each filter sees C/G channels alone (Krizhevsky et al. 2012; G = C
    is the depthwise convolution of Chollet 2017). OH = (H + pads - (d (KH - 1) + 1)) // s + 1; with padding "same"
    OH = ceil(H / s). This is the correlation that every framework calls convolution.
    (LeCun et al. 1998; dilation: Yu and Koltun 2016; Deep Learning from Scratch, section 7.2)

    Args:
        filters: F.
        kernel_size: KH = KW, or (KH, KW).
        strides: of both axes, or (height, width).
        padding: "valid" for none, "same", or zeros by number: an int, (height, width) or (top, bottom, left, right).
        dilation_rate: distance between the inputs that neighbours in the kernel see.
        groups: G, which must divide both C and F.
        activation: applied to y: a name ("relu", ...) or a layer.
        use_bias: False leaves out b.
        kernel_initializer, bias_initializer: first values of w and b.
        kernel_regularizer, bias_regularizer: penalties on them.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, ...] = "valid",
        *,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | Layer | None = None,
        use_bias: bool = True,
        kernel_initializer: str | float | Initializer = "glorot_uniform",
        bias_initializer: str | float | Initializer = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **base: Any,
    ) -> None:
        super().__init__(
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            **base,
        )
        self.filters = positive(filters, f"{self.label}: filters")
        self.kernel_size = pair(kernel_size, f"{self.label}: kernel_size")
        self.strides = pair(strides, f"{self.label}: strides")
        self.padding = padding_of(padding, self.label)
        self.dilation_rate = pair(dilation_rate, f"{self.label}: dilation_rate")
        self.groups = positive(groups, f"{self.label}: groups")
        if self.filters % self.groups:
            raise ConfigError(
                f"{self.label}: groups must divide filters. Received: {self.groups} groups, {self.filters} filters"
            )

    def pads(self, in_shape: Shape) -> Pads:
        """(top, bottom, left, right) around images (C, H, W)."""
        return pads_of(self.padding, (in_shape[1], in_shape[2]), self.kernel_size, self.strides, self.dilation_rate)

    def output_shape(self, in_shape: Shape) -> Shape:
        c, h, w = self._expect_images(in_shape)
        if c % self.groups:
            raise ShapeError(
                f"{self.label}: groups must divide the channels of the input. Received: {self.groups} groups, images "
                f"of shape {self._seen(in_shape)} with {c} channels"
            )
        pads = self.pads(in_shape)
        size = window_output((h, w), self.kernel_size, self.strides, pads, self.dilation_rate, what=self.label)
        return self.filters, *size

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        return self._specs((self.filters, in_shape[0] // self.groups, *self.kernel_size), self.filters)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        w, b = self.w_and_b(self.filters)
        pads = self.pads(x.shape[1:])
        return self.backend.conv2d(x, w, b, self.strides, pads, self.dilation_rate, groups=self.groups)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        dx, dw, db = self.backend.conv2d_backward(dy, saved, need)
        return dx, self.gradients(dw, db)

    def config(self) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": plain(self.padding),
            "dilation_rate": list(self.dilation_rate),
            "groups": self.groups,
            **super().config(),
        }
