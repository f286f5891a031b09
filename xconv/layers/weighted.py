"""What the layers with a weight and a bias have in common."""

from __future__ import annotations

from typing import Any

from xconv import initializers, regularizers
from xconv.backend import Array
from xconv.errors import ConfigError
from xconv.initializers import Initializer
from xconv.layers import activation as activations
from xconv.layers.base import Layer, ParamSpec, Shape
from xconv.regularizers import Regularizer


class Weighted(Layer):
    """A layer with parameters "w" and, unless `use_bias` is False, "b"."""

    def __init__(
        self,
        *,
        activation: str | Layer | None,
        use_bias: bool,
        kernel_initializer: str | float | Initializer,
        bias_initializer: str | float | Initializer,
        kernel_regularizer: Any,
        bias_regularizer: Any,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def _specs(self, w: Shape, outputs: int) -> dict[str, ParamSpec]:
        specs = {"w": ParamSpec(w, self.kernel_initializer, self.kernel_regularizer)}
        if self.use_bias:
            specs["b"] = ParamSpec((outputs,), self.bias_initializer, self.bias_regularizer)
        return specs

    def w_and_b(self, outputs: int) -> tuple[Array, Array]:
        """w and b[outputs], zeros where there is no bias."""
        w = self.params["w"]
        return w, self.params["b"] if self.use_bias else self.backend.xp.zeros(outputs, w.dtype)

    def gradients(self, dw: Array, db: Array) -> dict[str, Array]:
        """Of those parameters that there are."""
        return {"w": dw, "b": db} if self.use_bias else {"w": dw}

    def config(self) -> dict[str, Any]:
        config = {
            "activation": activations.config_of(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.config_of(self.kernel_initializer),
            "bias_initializer": initializers.config_of(self.bias_initializer),
            "kernel_regularizer": self._penalty(self.kernel_regularizer),
            "bias_regularizer": self._penalty(self.bias_regularizer),
        }
        # A function of the user's own has no plain form. It only drew the first values, so the default may stand there.
        return {k: v for k, v in config.items() if v is not None or not k.endswith("_initializer")}

    def _penalty(self, regularizer: Regularizer | None) -> Any:
        if regularizer is None:
            return None
        if not hasattr(regularizer, "config"):
            raise ConfigError(
                f"{self.label}: its regularizer cannot be saved; give it a config(), or use regularizers.L1, L2 or "
                f"L1L2. Received: {type(regularizer).__name__}"
            )
        return regularizer.config()
