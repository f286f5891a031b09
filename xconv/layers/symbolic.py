"""Networks before they have numbers: tensors that know their shape and what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from xconv.errors import ConfigError, ShapeError, described
from xconv.shapes import as_given, channels_first, data_format_name, positive

if TYPE_CHECKING:
    from xconv.layers.base import Layer

_numbers = count()


@dataclass(frozen=True, eq=False)
class Tensor:
    """What an input or a layer will give; made by `Input` and by calling layers.

    `inside` is the shape of one example as layers see it, images as (C, H, W). A tensor's `number` is larger than those
    of all it is made from, so that sorting by it gives an order in which a network can run.
    """

    inside: tuple[int, ...]
    data_format: str
    name: str | None = None
    layer: Layer | None = None  # None for an input
    sources: tuple[Tensor, ...] = ()
    hidden: bool = False  # a layer's own activation
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def shape(self) -> tuple[int | None, ...]:
        """As the user sees it, with None for the batch."""
        return None, *as_given(self.inside, self.data_format)

    def __repr__(self) -> str:
        made = f"input {self.name or ''}".strip() if self.layer is None else self.layer.label
        return f"<Tensor {self.shape} of {made}>"

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ConfigError(
            "a symbolic tensor holds no numbers; ask a model that ends in it, or compute in a layer, such as "
            f"Lambda(lambda t: 2 * t)(x). Received: {self!r}"
        )

    def _merged(self, kind: str, sign: str, first: Any, second: Any) -> Tensor:
        """first (sign) second, one of which is this tensor."""
        if not isinstance(first, Tensor) or not isinstance(second, Tensor) or not kind:
            other = first if second is self else second
            expected = f"another symbolic tensor beside {sign}" if kind else f"no {sign}"
            raise ConfigError(
                f"a symbolic tensor: expected {expected}; compute with numbers in a Lambda, such as "
                f"Lambda(lambda t: t {sign} 2, backward=...)(x). Received: {described(other)}"
            )
        from xconv.layers import merge  # which needs this module

        return getattr(merge, kind)()([first, second])

    def __add__(self, other: Any) -> Tensor:
        return self._merged("Add", "+", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return self._merged("Add", "+", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return self._merged("Subtract", "-", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._merged("Subtract", "-", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return self._merged("Multiply", "*", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._merged("Multiply", "*", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return self._merged("", "/", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._merged("", "/", other, self)


def Input(shape: Sequence[int], *, name: str | None = None, data_format: str = "channels_last") -> Tensor:
    """An input of a network: `shape` is that of one example, without the batch axis, as (28, 28, 1)."""
    if not isinstance(shape, Sequence) or not shape:
        raise ConfigError(f"Input: shape must be sizes without the batch, as (28, 28, 1). Received: {described(shape)}")
    data_format = data_format_name(data_format, "Input")
    sizes = tuple(positive(n, "Input: each size of shape") for n in shape)
    return Tensor(channels_first(sizes, data_format), data_format, name)


def connect(layer: Layer, inputs: Any) -> Tensor:
    """The tensor that the layer makes of these."""
    several = isinstance(inputs, list | tuple)
    tensors = tuple(inputs) if several else (inputs,)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{layer.label}: layers are called on symbolic tensors, from xconv.Input or other layers; arrays go to "
                f"a model's predict. Received: {described(tensor)}"
            )
    if layer.many_inputs and len(tensors) < 2:
        raise ShapeError(f"{layer.label}: expected a list of at least two tensors. Received: {len(tensors)}")
    if not layer.many_inputs and len(tensors) != 1:
        raise ShapeError(f"{layer.label}: expected one tensor. Received: {len(tensors)}")
    formats = {tensor.data_format for tensor in tensors} | ({layer.data_format} if layer.data_format else set())
    if len(formats) != 1:
        raise ConfigError(
            f"{layer.label}: a network has one data format; give it to Input, or to Sequential. "
            f"Received: {' and '.join(sorted(formats))}"
        )
    layer.data_format = formats.pop()
    inside = tuple(tensor.inside for tensor in tensors)
    out = tuple(layer.output_shape(inside if layer.many_inputs else inside[0]))
    if any(size < 1 for size in out):
        raise ShapeError(
            f"{layer.label}: no output is left: every size must be >= 1. Received: output_shape {out} for inputs "
            f"{' and '.join(map(str, inside))}"
        )
    y = Tensor(out, layer.data_format, None, layer, tensors)
    if layer.activation is not None:
        layer.activation.data_format = layer.data_format
        after = tuple(layer.activation.output_shape(out))
        y = Tensor(after, layer.data_format, None, layer.activation, (y,), True)
    layer.output = y
    return y
