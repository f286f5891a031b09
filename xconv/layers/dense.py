"""The fully connected layer, and the flattening before it."""

from __future__ import annotations

import math
from typing import Any

from xconv import initializers
from xconv.backend import Array, Need
from xconv.errors import ShapeError
from xconv.layers.base import Context, Layer, ParamSpec, Shape
from xconv.shapes import positive


class Dense(Layer):
    """y = x w + b over the last axis: x[N,...,I], w[I,O], b[O] -> y[N,...,O]."""

    def __init__(
        self,
        units: int,
        *,
        weight_init: str | float | initializers.Initializer = "he",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.units = positive(units, f"{self.label}: units")
        self.weight_init = initializers.get(weight_init)

    def output_shape(self, in_shape: Shape) -> Shape:
        if not in_shape:
            raise ShapeError(f"{self.label}: expected at least one feature axis. Received: shape ()")
        return *in_shape[:-1], self.units

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        return {
            "w": ParamSpec((in_shape[-1], self.units), self.weight_init),
            "b": ParamSpec((self.units,), initializers.zeros),
        }

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.dense(x.reshape(-1, x.shape[-1]), self.params["w"], self.params["b"])
        return y.reshape(*x.shape[:-1], self.units), x

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        x = saved
        dx, dw, db = self.backend.dense_backward(
            dy.reshape(-1, self.units), x.reshape(-1, x.shape[-1]), self.params["w"], need
        )
        return None if dx is None else dx.reshape(x.shape), {"w": dw, "b": db}

    def config(self) -> dict[str, Any]:
        return {"units": self.units}


class Flatten(Layer):
    """x[N,C,H,W] -> y[N, C*H*W], channels first as in the book."""

    def output_shape(self, in_shape: Shape) -> Shape:
        return (math.prod(in_shape),)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return dy.reshape(saved), {}
