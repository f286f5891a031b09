"""Dropout."""

from __future__ import annotations

from typing import Any

from xconv import checks
from xconv.backend import Array, Need
from xconv.errors import ConfigError, described
from xconv.layers.base import Context, Layer


class Dropout(Layer):
    """y = 0 with probability `rate`, else x / (1 - rate), in training; y = x in inference.

    Each number by itself (Srivastava et al. 2014). Dividing in training keeps the mean, and leaves nothing to do
    afterwards. Which numbers are dropped depends on the model's seed, the step and this layer's place alone: it is the
    same on every backend, and goes on where it was when training is resumed.
    """

    keeps = ""

    def __init__(self, rate: float, **base: Any) -> None:
        super().__init__(**base)
        self.rate = checks.number(rate, f"{self.label}: rate", least=0.0)
        if self.rate >= 1:
            raise ConfigError(
                f"{self.label}: rate must be below 1, the share of numbers that is dropped. Received: {described(rate)}"
            )

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        if not ctx.train or self.rate == 0:
            return x, None
        key = ctx.seed, ctx.step, ctx.node
        return self.backend.dropout(x, self.rate, *key), key

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        return dy if saved is None else self.backend.dropout_backward(dy, self.rate, *saved), {}

    def config(self) -> dict[str, Any]:
        return {"rate": self.rate}
