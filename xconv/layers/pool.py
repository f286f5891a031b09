"""Pooling, by windows and over whole images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xconv.backend import Array, Need
from xconv.backend.base import argmax_dtype
from xconv.layers.base import Context, Layer, Shape
from xconv.layers.padding import padding_of, pads_of, plain
from xconv.shapes import Pads, pair, window_output


class _Pool2D(Layer):
    """A window that slides over each channel by itself."""

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: str | int | tuple[int, ...] = "valid",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.pool_size = pair(pool_size, f"{self.label}: pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, f"{self.label}: strides")
        self.padding = padding_of(padding, self.label, self.pool_size)

    def pads(self, in_shape: Shape) -> Pads:
        """(top, bottom, left, right) around images (C, H, W)."""
        return pads_of(self.padding, (in_shape[1], in_shape[2]), self.pool_size, self.strides)

    def output_shape(self, in_shape: Shape) -> Shape:
        c, h, w = self._expect_images(in_shape)
        return c, *window_output((h, w), self.pool_size, self.strides, self.pads(in_shape), what=self.label)

    def config(self) -> dict[str, Any]:
        return {
            "pool_size": list(self.pool_size),
            "strides": list(self.strides),
            "padding": plain(self.padding),
        }


class MaxPool2D(_Pool2D):
    """y[n,c,i,j] = the largest x[n,c] in the window; x[N,C,H,W] -> y[N,C,OH,OW].

    The stride is the window's size unless given. Its gradient goes to the first maximum alone. Padding ("valid", "same"
    or numbers, as Conv2D has it) never wins. (Riesenhuber and Poggio 1999; Deep Learning from Scratch, section 7.3)
    """

    keeps = ""

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        places = math.prod(out_shape)
        return places * itemsize, places * np.dtype(argmax_dtype(self.pool_size)).itemsize

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y, argmax = self.backend.max_pool(x, self.pool_size, self.strides, self.pads(x.shape[1:]))
        return y, (argmax, x.shape)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        argmax, shape = saved
        pads = self.pads(shape[1:])
        return self.backend.max_pool_backward(dy, argmax, shape, self.pool_size, self.strides, pads), {}


class AvgPool2D(_Pool2D):
    """y[n,c,i,j] = the mean of x[n,c] in the window; x[N,C,H,W] -> y[N,C,OH,OW].

    The stride is the window's size unless given. Padding by number counts as zeros, as PyTorch has it; that of "same"
    is left out of the mean, as Keras has it. (LeCun et al. 1989)
    """

    keeps = ""

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self.backend.avg_pool(x, self.pool_size, self.strides, self.pads(x.shape[1:]))
        share = self._share(x.shape, y)
        return (y if share is None else y * share), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        share = self._share(saved, dy)
        dy = dy if share is None else dy * share
        return self.backend.avg_pool_backward(dy, saved, self.pool_size, self.strides, self.pads(saved[1:])), {}

    def _share(self, x_shape: Shape, y: Array) -> Array | None:
        """[OH,OW]: KH KW over how many entries of the window lie inside the image, where padding does not count."""
        pads = self.pads(x_shape[1:])
        if self.padding != "same" or not any(pads):
            return None
        share = []
        for axis in (0, 1):
            size, reach = x_shape[2 + axis], self.pool_size[axis]
            start = self.backend.xp.arange(y.shape[2 + axis]) * self.strides[axis] - pads[2 * axis]
            inside = self.backend.xp.minimum(start + reach, size) - self.backend.xp.maximum(start, 0)
            share.append(reach / inside)
        return (share[0][:, None] * share[1]).astype(y.dtype)


class _GlobalPooling2D(Layer):
    """Each channel becomes one number."""

    def output_shape(self, in_shape: Shape) -> Shape:
        return (self._expect_images(in_shape)[0],)


class GlobalAveragePooling2D(_GlobalPooling2D):
    """y[n,c] = the mean of x[n,c]; x[N,C,H,W] -> y[N,C] (Lin et al. 2014, section 3.2)."""

    keeps = ""

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return x.mean(axis=(2, 3)), x.shape

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        dx = self.backend.empty(saved, dy.dtype)
        dx[...] = (dy * (1.0 / (saved[2] * saved[3])))[:, :, None, None]
        return dx, {}


class GlobalMaxPooling2D(_GlobalPooling2D):
    """y[n,c] = the largest x[n,c]; x[N,C,H,W] -> y[N,C]. Its gradient goes to the first maximum alone."""

    keeps = ""

    def memory(self, in_shape: Any, out_shape: Shape, itemsize: int) -> tuple[int, int]:
        return math.prod(out_shape) * itemsize, math.prod(out_shape) * 8

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        flat = x.reshape(*x.shape[:2], -1)
        return flat.max(axis=2), (flat.argmax(axis=2), x.shape)

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        if not need.x:
            return None, {}
        argmax, shape = saved
        first = argmax[:, :, None] == self.backend.xp.arange(shape[2] * shape[3])
        return (dy[:, :, None] * first).reshape(shape), {}
