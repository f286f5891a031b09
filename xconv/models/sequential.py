"""Layers in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xconv.backend import Backend
from xconv.errors import ConfigError, described
from xconv.graph import Graph
from xconv.layers import Input, Layer
from xconv.layers.symbolic import Tensor
from xconv.models.model import Model
from xconv.models.network import Network


class Sequential(Model):
    """Each layer reads the one before: ``Sequential([Conv2D(8, 3, input_shape=(28, 28, 1)), Flatten(), Dense(10)])``.

    The input's shape is given here, by the first layer, by an `Input` at the front, by `build`, or by the first
    examples. A model among the layers stands for its own layers, with their weights. Layers may be added at any time.
    `data_format` is "channels_last" unless said otherwise. The rest as `Model`.
    """

    def __init__(
        self,
        layers: Sequence[Layer | Tensor | Network] = (),
        *,
        input_shape: Sequence[int] | None = None,
        data_format: str | None = None,
        name: str | None = None,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        self._settings(name, backend, seed, dtype, fuse)
        self._row: list[Any] = []  # layers, and models that stand for theirs
        self._input: Tensor | None = None
        self._data_format = data_format
        if input_shape is not None:
            self._input = Input(input_shape, data_format=data_format or "channels_last")
        for layer in layers if isinstance(layers, list | tuple) else [layers]:
            self._append(layer)
        self._build()

    def add(self, layer: Layer | Tensor | Network) -> None:
        """Put a layer at the end. Weights of those before stay as they are."""
        before = list(self._row), self._input
        try:
            self._append(layer)
            self._build()
        except Exception:
            self._row, self._input = before
            raise

    def pop(self) -> Any:
        """Take the last layer, or model, off."""
        if not self._row:
            raise ConfigError(f"{self.name}: no layer to take off. Received: an empty model")
        layer = self._row.pop()
        self._graph = None
        self._build()
        return layer

    @property
    def graph(self) -> Graph:
        """The nodes; ConfigError where there is no layer, or the input's shape is not known yet."""
        if self._graph is None and not self._row:
            raise ConfigError(f"{self.name}: no layers yet: add some first. Received: an empty model")
        return super().graph

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return list(self._row) if self._graph is None else super().layers

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Say the shape of the input, where no layer does: of one example, or as Keras has it, (None, 28, 28, 1)."""
        shape = tuple(input_shape)
        before = self._input
        self._input = Input(shape[1:] if shape[:1] == (None,) else shape, data_format=self._format())  # type: ignore[arg-type]
        try:
            self._build()
        except Exception:
            self._input = before
            raise

    def _shaped_by(self, x: Any) -> None:
        if self._input is None and self._row and len(getattr(x, "shape", ())) > 1:
            self.build((None, *x.shape[1:]))

    def _format(self) -> str:
        return self._data_format or self._row[0].data_format or "channels_last"

    def _append(self, layer: Any) -> None:
        if isinstance(layer, Tensor) and layer.layer is None and not self._row and self._input is None:
            self._input = layer
            return
        if not isinstance(layer, Layer | Network):
            cure = f", such as xconv.{layer.__name__}(), an instance" if isinstance(layer, type) else ""
            raise ConfigError(f"{self.name}: expected layers{cure}. Received: {described(layer)}")
        self._row.append(layer)
        if len(self._row) == 1 and self._input is None:
            if isinstance(layer, Network):
                self._input = Input(layer.input_shape, data_format=layer.data_format)
            elif layer.input_shape is not None:
                self._input = Input(layer.input_shape, data_format=self._format())
        if isinstance(layer, Layer) and layer.name is None:  # so that errors of the shapes name it
            kind = type(layer).__name__.lower()
            taken = {
                other.name for part in self._row for other in (part.layers if isinstance(part, Network) else [part])
            }
            number = 1 + sum(type(other) is type(layer) for other in self._row[:-1])
            while f"{kind}{number}" in taken:
                number += 1
            layer.name = f"{kind}{number}"

    def _build(self) -> None:
        if self._input is None or not self._row:
            return
        tensor = self._input
        for part in self._row:
            tensor = part(tensor)
        self._set_graph([self._input], [tensor])
