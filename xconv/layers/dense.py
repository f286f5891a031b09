"""The fully connected layer."""

from __future__ import annotations

from typing import Any

from xconv.backend import Array, Need
from xconv.errors import ShapeError
from xconv.initializers import Initializer
from xconv.layers.base import Context, Layer, ParamSpec, Shape
from xconv.layers.weighted import Weighted
from xconv.shapes import channels_first, positive


class Dense(Weighted):
    """y = x w + b over the last axis: x[N,...,I], w[I,O], b[O] -> y[N,...,O]; dx = dy w', dw = x' dy, db = sum of dy.

    The last axis is the one that the user sees last: of images in a channels_last model the channels'. Then this is a
    convolution by 1x1. (Rosenblatt 1958; Deep Learning from Scratch, section 5.6)

    Args:
        units: O.
        activation: applied to y: a name ("relu", ...) or a layer.
        use_bias: False leaves out b.
        kernel_initializer, bias_initializer: first values of w and b.
        kernel_regularizer, bias_regularizer: penalties on them.
    """

    def __init__(
        self,
        units: int,
        activation: str | Layer | None = None,
        *,
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
        self.units = positive(units, f"{self.label}: units")

    def output_shape(self, in_shape: Shape) -> Shape:
        if not in_shape:
            raise ShapeError(f"{self.label}: expected at least one feature axis. Received: shape ()")
        return channels_first((*self._seen(in_shape)[:-1], self.units), self.data_format or "channels_first")

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        return self._specs((self._seen(in_shape)[-1], self.units), self.units)

    def forward(self, x: Array, ctx: Context, activation: str | None = None) -> tuple[Array, Any]:
        x = self.images_last(x)
        y = self.backend.dense(x.reshape(-1, x.shape[-1]), *self.w_and_b(self.units), activation)
        return self.images_first(y.reshape(*x.shape[:-1], self.units)), (x, y if activation else None)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        x, y = saved
        dy = self.images_last(dy).reshape(-1, self.units)
        dx, dw, db = self.backend.dense_backward(dy, x.reshape(-1, x.shape[-1]), self.params["w"], need, y)
        return None if dx is None else self.images_first(dx.reshape(x.shape)), self.gradients(dw, db)

    def config(self) -> dict[str, Any]:
        return {"units": self.units, **super().config()}
