"""What a layer is. A layer never knows where it runs, and keeps nothing between calls but its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xconv.backend import Array, Backend, Need
from xconv.errors import ShapeError
from xconv.initializers import Initializer

Shape = tuple[int, ...]  # of one example: no batch axis


@dataclass(frozen=True)
class Context:
    """What a forward pass is told besides its input."""

    train: bool = False
    step: int = 0


@dataclass(frozen=True)
class ParamSpec:
    """Shape and first values of one parameter."""

    shape: Shape
    initializer: Initializer


class Layer:
    """One operation with its parameters.

    A layer of your own overrides `output_shape`, `forward` and `backward`, and `param_specs` where it has parameters.
    `backend` and `params` (name -> array, live views of the model's one buffer) are there once a model is built.
    """

    backend: Backend
    params: dict[str, Array]

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name
        self.params = {}

    @property
    def label(self) -> str:
        """How messages call this layer."""
        kind = type(self).__name__
        return f"{self.name} ({kind})" if self.name else kind

    def output_shape(self, in_shape: Shape) -> Shape:
        """Shape of one output for one input of `in_shape`; ShapeError where that cannot be. Allocates nothing."""
        return in_shape

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        """The parameters this layer needs for inputs of `in_shape`, in order. Allocates nothing."""
        return {}

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        """x[N, *in_shape] -> y[N, *out_shape] and whatever the backward pass will want to have kept."""
        raise NotImplementedError

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        """dy[N, *out_shape] -> dx[N, *in_shape], None if not needed, and a gradient per parameter. Never writes dy."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The arguments that make this layer again, as plain JSON values."""
        return {}

    def _expect_images(self, in_shape: Shape) -> tuple[int, int, int]:
        if len(in_shape) != 3:
            raise ShapeError(
                f"{self.label}: expected images, (channels, height, width). Received: shape {tuple(in_shape)}"
            )
        return in_shape[0], in_shape[1], in_shape[2]
