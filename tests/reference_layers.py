"""Layers as naive loops in float64, straight from the definitions. Imports nothing of xconv, so that it can judge it.

Each takes x[N,...] (or several) in the order of axes that its user sees, and gives y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tests import reference


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """The smallest padding (before, after) that leaves ceil(size / stride) places, as even as can be."""
    wanted = math.ceil(size / stride)
    total = 0
    while reference.out_size(size, kernel, stride, 0, total, dilation) < wanted:
        total += 1
    return total // 2, total - total // 2


def pads_of(padding: Any, x: np.ndarray, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> tuple[int, ...]:
    """(top, bottom, left, right) for x[N,C,H,W]."""
    if padding == "same":
        return (
            *same_pads(x.shape[2], kernel[0], stride[0], dilation[0]),
            *same_pads(x.shape[3], kernel[1], stride[1], dilation[1]),
        )
    return (0, 0, 0, 0) if padding == "valid" else padding


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    stride: Any = (1, 1),
    padding: Any = "valid",
    dilation: Any = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """x[N,C,H,W], w[F,C/groups,KH,KW]: filter f sees the channels of its own group."""
    pads = pads_of(padding, x, w.shape[2:], stride, dilation)
    filters, channels = w.shape[0] // groups, x.shape[1] // groups
    maps = []
    for f in range(w.shape[0]):
        g = f // filters
        seen = x[:, g * channels : (g + 1) * channels]
        bias = np.zeros(1) if b is None else b[f : f + 1]
        maps.append(reference.conv2d(seen, w[f : f + 1], bias, stride, pads, dilation))
    return np.concatenate(maps, axis=1)


def pool(x: np.ndarray, kernel: Any, stride: Any, padding: Any, mean: bool) -> np.ndarray:
    """The largest of each window, or its mean: numbers of padding count as zeros, those of "same" do not count."""
    pads = pads_of(padding, x, kernel, stride)
    inside: dict[tuple[int, ...], list[float]] = {}
    for n, c, oy, ox, _, _, iy, ix in reference.windows(x.shape, kernel, stride, pads):
        inside.setdefault((n, c, oy, ox), []).append(float(x[n, c, iy, ix]))
    y = np.zeros((*x.shape[:2], *reference.out_shape(x.shape, kernel, stride, pads)))
    for at, values in inside.items():
        count = len(values) if padding == "same" else kernel[0] * kernel[1]
        y[at] = math.fsum(values) / count if mean else max(values)
    return y


def over_places(x: np.ndarray, f: Callable[[list[float]], float]) -> np.ndarray:
    """x[N,C,H,W] -> [N,C], f of the numbers of each map."""
    return np.array([[f([float(v) for v in image.ravel()]) for image in maps] for maps in x])


def rows(x: np.ndarray, axis: int) -> Iterator[tuple[Any, list[float]]]:
    """(index, numbers) of each line along an axis."""
    for rest in np.ndindex(*x.shape[:axis], *x.shape[axis + 1 :]):
        at = (*rest[:axis], slice(None), *rest[axis:])
        yield at, [float(v) for v in x[at]]


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    y = np.zeros((*x.shape[:-1], w.shape[1]))
    for at in np.ndindex(y.shape):
        products = [float(u) * float(v) for u, v in zip(x[at[:-1]], w[:, at[-1]], strict=True)]
        y[at] = math.fsum(products) + (0.0 if b is None else float(b[at[-1]]))
    return y


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    y = np.zeros(x.shape)
    for at, values in rows(x, axis % x.ndim):
        weights = [math.exp(v - max(values)) for v in values]
        y[at] = [v / math.fsum(weights) for v in weights]
    return y


def each(x: np.ndarray, f: Callable[[float], float]) -> np.ndarray:
    return np.array([f(float(v)) for v in x.ravel()]).reshape(x.shape)


def statistics(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance over all axes but one."""
    lines = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).tolist()
    means = [math.fsum(line) / len(line) for line in lines]
    spread = [math.fsum((v - m) ** 2 for v in line) / len(line) for line, m in zip(lines, means, strict=True)]
    return np.array(means), np.array(spread)


def batch_norm(
    x: np.ndarray, axis: int, gamma: Any, beta: Any, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """With the given statistics."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        c = at[axis]
        xhat = (float(x[at]) - float(mean[c])) / math.sqrt(float(var[c]) + eps)
        y[at] = (1.0 if gamma is None else float(gamma[c])) * xhat + (0.0 if beta is None else float(beta[c]))
    return y


def zero_padding(x: np.ndarray, pads: Sequence[int]) -> np.ndarray:
    """x[N,C,H,W]."""
    n, c, h, w = x.shape
    y = np.zeros((n, c, h + pads[0] + pads[1], w + pads[2] + pads[3]))
    for at in np.ndindex(x.shape):
        y[at[0], at[1], at[2] + pads[0], at[3] + pads[2]] = x[at]
    return y


def in_order(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The numbers of each example one after another, laid out anew."""
    y = np.zeros((x.shape[0], *shape))
    for n in range(x.shape[0]):
        for at, value in zip(np.ndindex(*shape), (x[(n, *i)] for i in np.ndindex(*x.shape[1:])), strict=True):
            y[(n, *at)] = value
    return y


def concatenate(xs: Sequence[np.ndarray], axis: int) -> np.ndarray:
    axis %= xs[0].ndim
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    y, start = np.zeros(shape), 0
    for x in xs:
        for at in np.ndindex(x.shape):
            y[(*at[:axis], at[axis] + start, *at[axis + 1 :])] = x[at]
        start += x.shape[axis]
    return y
