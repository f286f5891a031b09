"""Layers that move numbers and change none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xconv.backend import Array, Need
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.base import Context, Layer, Shape
from xconv.shapes import Pads, channels_first, paddings, pair, positive


class Flatten(Layer):
    """x[N,...] -> y[N, all the rest], in the order of axes that the user sees.

    Images come out as H, W, C in a channels_last model, as in Keras, and as C, H, W in a channels_first one, as in the
    book and PyTorch (where Keras would still give H, W, C).
    """

    keeps = ""

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        turned = self.data_format == "channels_last" and len(in_shape) == 3
        return math.prod(out_shape) * itemsize if turned else 0, 0

    def output_shape(self, in_shape: Shape) -> Shape:
        return (math.prod(in_shape),)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        x = self.images_last(x)
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.images_first(dy.reshape(saved)) if need.x else None, {}


class Reshape(Layer):
    """x[N,...] -> y[N, *target_shape], both in the order of axes that the user sees; one size may be -1.

    Where the target has three sizes it is an image's: (H, W, C) in a channels_last model, else (C, H, W).
    """

    keeps = ""

    def __init__(self, target_shape: Sequence[int], **base: Any) -> None:
        super().__init__(**base)
        sizes = list(target_shape) if isinstance(target_shape, Sequence) else [None]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and (n == -1 or n > 0) for n in sizes)
        if isinstance(target_shape, str) or not whole or sizes.count(-1) > 1:
            raise ConfigError(
                f"{self.label}: target_shape must be sizes >= 1, of which one may be -1, without the batch's. "
                f"Received: {described(target_shape)}"
            )
        self.target_shape = tuple(int(n) for n in sizes)

    def output_shape(self, in_shape: Shape) -> Shape:
        known, size = math.prod(n for n in self.target_shape if n != -1), math.prod(in_shape)
        if size % known or (-1 not in self.target_shape and size != known):
            raise ShapeError(
                f"{self.label}: target_shape {self.target_shape} must hold as many numbers as the input. "
                f"Received: shape {self._seen(in_shape)}, {size} numbers"
            )
        seen = tuple(size // known if n == -1 else n for n in self.target_shape)
        return channels_first(seen, self.data_format or "channels_first")

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        x = self.images_last(x)
        return self.images_first(x.reshape(x.shape[0], *self._seen(self.output_shape(x.shape[1:])))), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.images_first(self.images_last(dy).reshape(saved)) if need.x else None, {}

    def config(self) -> dict[str, Any]:
        return {"target_shape": list(self.target_shape)}


class ZeroPadding2D(Layer):
    """Rows and columns of zeros around images: x[N,C,H,W] -> y[N, C, top + H + bottom, left + W + right].

    `padding` is an int, (height, width), or ((top, bottom), (left, right)).
    """

    keeps = ""

    def __init__(self, padding: int | tuple[int, int] | tuple[Pads, ...] | Any = 1, **base: Any) -> None:
        super().__init__(**base)
        self.padding = self._pads(padding)

    def _pads(self, padding: Any) -> Pads:
        what = f"{self.label}: padding"
        nested = isinstance(padding, Sequence) and not isinstance(padding, str) and len(padding) == 2
        if nested and any(isinstance(side, Sequence) for side in padding):
            (top, bottom), (left, right) = (pair(side, what, least=0) for side in padding)
            return top, bottom, left, right
        return paddings(padding, what)

    def output_shape(self, in_shape: Shape) -> Shape:
        c, h, w = self._expect_images(in_shape)
        top, bottom, left, right = self.padding
        return c, top + h + bottom, left + w + right

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.xp.zeros((x.shape[0], *self.output_shape(x.shape[1:])), x.dtype)
        y[self._inside(x.shape)] = x
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.contiguous(dy[self._inside(saved)]) if need.x else None, {}

    def _inside(self, x_shape: Shape) -> Any:
        top, _, left, _ = self.padding
        return ..., slice(top, top + x_shape[2]), slice(left, left + x_shape[3])

    def config(self) -> dict[str, Any]:
        top, bottom, left, right = self.padding
        return {"padding": [[top, bottom], [left, right]]}


class ChannelPadding(Layer):
    """Channels of zeros before and behind those of images: x[N,C,H,W] -> y[N, before + C + behind, H, W].

    With ``MaxPool2D(1, strides=2)`` before it, the shortcut without parameters of He et al. 2015 (option A), where a
    residual network halves its images and doubles its channels.
    """

    keeps = ""

    def __init__(self, before: int = 0, behind: int = 0, **base: Any) -> None:
        super().__init__(**base)
        self.before = positive(before, f"{self.label}: before", least=0)
        self.behind = positive(behind, f"{self.label}: behind", least=0)

    def output_shape(self, in_shape: Shape) -> Shape:
        c, h, w = self._expect_images(in_shape)
        return self.before + c + self.behind, h, w

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.xp.zeros((x.shape[0], *self.output_shape(x.shape[1:])), x.dtype)
        y[:, self.before : self.before + x.shape[1]] = x
        return y, x.shape[1]

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self.backend.contiguous(dy[:, self.before : self.before + saved]) if need.x else None, {}

    def config(self) -> dict[str, Any]:
        return {"before": self.before, "behind": self.behind}
