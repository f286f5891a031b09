"""Inputs brought to a common scale within the model, so that it takes raw pixels and a file of it has all it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from xconv import checks
from xconv.backend import Array, Need
from xconv.errors import ConfigError, DataError, ShapeError, described
from xconv.layers.axes import as_maps, of_channels, whole
from xconv.layers.base import Context, Layer, ParamSpec, Shape

PIECE = 1 << 22  # numbers that `adapt` takes at once
TINY = 1e-14  # added to a variance: Keras bounds its root from below by 1e-7

PerChannel = float | tuple[float, ...]


class Rescaling(Layer):
    """y = scale x + offset; dx = scale dy.

    Of bytes, Rescaling(1 / 255) makes numbers from 0 to 1, and Rescaling(1 / 127.5, -1) from -1 to 1.

    Args:
        scale: the factor.
        offset: what is added.
    """

    keeps = ""
    takes_pixels = True

    def __init__(self, scale: float, offset: float = 0.0, **base: Any) -> None:
        super().__init__(**base)
        self.scale = checks.number(scale, f"{self.label}: scale")
        self.offset = checks.number(offset, f"{self.label}: offset")

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        y = self._scaled(x)
        if self.offset:
            y += self.offset
        return y, None

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self._scaled(dy) if need.x else None, {}

    def _scaled(self, x: Array) -> Array:
        return self.backend.xp.multiply(x, self.scale, out=self.backend.empty(x.shape, x.dtype))

    def config(self) -> dict[str, Any]:
        return {"scale": self.scale, "offset": self.offset}


class Normalization(Layer):
    """y = (x - mean) / sqrt(variance), for each channel by itself; dx = dy / sqrt(variance).

    Mean and variance are given, or found by `adapt`, and then stay: training does not change them. A variance of 0, of
    a channel that is always the same, counts as 1e-14.

        layer = Normalization()
        layer.adapt(x_train)
        model = Sequential([layer, ...])

    Args:
        axis: the channels' axis as the user sees it, -1 (the last) of channels_last images and of rows of features, 1
            of channels_first images; None takes one mean and variance for all.
        mean: a number, or one for each channel.
        variance: likewise, >= 0.
    """

    keeps = ""
    takes_pixels = True

    def __init__(
        self,
        axis: int | None = -1,
        mean: float | Sequence[float] | None = None,
        variance: float | Sequence[float] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.axis = None if axis is None else whole(axis, f"{self.label}: axis")
        if (mean is None) != (variance is None):
            raise ConfigError(
                f"{self.label}: mean and variance go together. Received: mean {described(mean)}, variance "
                f"{described(variance)}"
            )
        self.mean = None if mean is None else self._numbers(mean, "mean", -math.inf)
        self.variance = None if variance is None else self._numbers(variance, "variance", 0.0)

    def adapt(self, data: Any) -> None:
        """Take mean and variance of each channel from examples [N, ...], in the axis order that the user sees.

        Arrays, np.memmap, and xconv.data's Sources, Pixels as numbers from 0 to 1; computed in float64, piece by piece
        (Chan, Golub and LeVeque 1979). DataError where there are no examples, or numbers that are not finite.
        """
        shape = tuple(np.shape(data))
        if self.axis is not None and not (-len(shape) < self.axis < len(shape) and self.axis != 0):
            raise ShapeError(
                f"{self.label}: adapt: expected examples [N, ...] with an axis {self.axis} that is not the first. "
                f"Received: shape {shape}"
            )
        if not shape or 0 in shape:
            raise DataError(f"{self.label}: adapt: expected at least one example. Received: shape {shape}")
        count, mean, apart = 0, np.zeros(1), np.zeros(1)  # apart: the sum of squared distances from the mean
        for rows in self._pieces(data, shape):
            here, middle = len(rows), rows.mean(axis=0)
            step = middle - mean
            apart = apart + ((rows - middle) ** 2).sum(axis=0) + step**2 * (count * here / (count + here))
            mean = mean + step * (here / (count + here))
            count += here
        found = {"mean": mean.tolist(), "var": (apart / count).tolist()}
        if self.store is not None:
            for name, values in found.items():
                key = f"{self.name}.{name}"
                self.store.parameters[key] = np.broadcast_to(values, self.store.parameters[key].shape)
        one = self.axis is None
        self.mean, self.variance = (v[0] if one else tuple(v) for v in found.values())

    def _pieces(self, data: Any, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """float64[rows, channels], checked."""
        what = f"{self.label}: adapt"
        given = data if hasattr(data, "shape") else checks.host_array(data, what)
        count = max(1, PIECE // math.prod(shape[1:]))
        for first in range(0, shape[0], count):
            part = checks.host_array(given[first : first + count], what)
            checks.finite(part, what)
            last = part if self.axis is None else np.moveaxis(part, self.axis, -1)
            yield last.reshape(-1, 1 if self.axis is None else shape[self.axis]).astype(np.float64)

    def output_shape(self, in_shape: Shape) -> Shape:
        if self.axis is not None:
            of_channels(self, self.axis, in_shape)
        return in_shape

    def param_specs(self, in_shape: Shape) -> dict[str, ParamSpec]:
        if self.mean is None or self.variance is None:
            raise ConfigError(
                f"{self.label}: call its adapt(x_train) before it comes into a model, or give mean and variance. "
                "Received: neither"
            )
        channels = of_channels(self, None, in_shape)
        return {"mean": self._spec(self.mean, "mean", channels), "var": self._spec(self.variance, "variance", channels)}

    def _spec(self, values: PerChannel, what: str, channels: int) -> ParamSpec:
        if isinstance(values, tuple) and len(values) != channels:
            raise ShapeError(
                f"{self.label}: {what} must be one number, or one for each of the {channels} channels. "
                f"Received: {len(values)} numbers"
            )
        return ParamSpec((channels,), lambda rng, shape: np.full(shape, values, np.float64), trainable=False)

    def forward(self, x: Array, ctx: Context) -> tuple[Array, Any]:
        return self._normalized(x, self.params["mean"]), None

    def backward(self, dy: Array, saved: Any, need: Need) -> tuple[Array | None, dict[str, Array]]:
        return self._normalized(dy, None) if need.x else None, {}

    def _normalized(self, x: Array, mean: Array | None) -> Array:
        """(x - mean) / sqrt(variance), by the operation that batch normalisation has for given statistics."""
        xp, var = self.backend.xp, self.params["var"]
        one, zero = xp.ones(var.shape, var.dtype), xp.zeros(var.shape, var.dtype)
        mean = zero if mean is None else mean
        return self.backend.batch_norm_inference(as_maps(x), one, zero, mean, var, TINY).reshape(x.shape)

    def config(self) -> dict[str, Any]:
        given = (list(v) if isinstance(v, tuple) else v for v in (self.mean, self.variance))
        return {"axis": self.axis, **dict(zip(("mean", "variance"), given, strict=True))}

    def _numbers(self, values: Any, what: str, least: float) -> PerChannel:
        if isinstance(values, Sequence | np.ndarray) and np.ndim(values) > 0 and not isinstance(values, str):
            return tuple(checks.number(v, f"{self.label}: {what}", least) for v in np.asarray(values).ravel().tolist())
        return checks.number(values, f"{self.label}: {what}", least)
