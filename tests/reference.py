"""Naive loops in float64, straight from the definitions. Imports nothing of xconv, so that it can judge it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def out_size(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """How many places the window fits, counted one by one."""
    reach = dilation * (kernel - 1)
    return sum(1 for start in range(-before, size + after, stride) if start + reach < size + after)


def windows(
    x_shape: tuple[int, ...], kernel: Any, stride: Any, pads: Any, dilation: Any = (1, 1)
) -> Iterator[tuple[int, ...]]:
    """(n, c, oy, ox, ky, kx, y, x) of every tap that lies inside the image."""
    n_, c_, h, w = x_shape
    oh = out_size(h, kernel[0], stride[0], pads[0], pads[1], dilation[0])
    ow = out_size(w, kernel[1], stride[1], pads[2], pads[3], dilation[1])
    for n in range(n_):
        for c in range(c_):
            for oy in range(oh):
                for ox in range(ow):
                    for ky in range(kernel[0]):
                        for kx in range(kernel[1]):
                            y = oy * stride[0] + ky * dilation[0] - pads[0]
                            x = ox * stride[1] + kx * dilation[1] - pads[2]
                            if 0 <= y < h and 0 <= x < w:
                                yield n, c, oy, ox, ky, kx, y, x


def out_shape(x_shape: tuple[int, ...], kernel: Any, stride: Any, pads: Any, dilation: Any = (1, 1)) -> tuple[int, int]:
    """(OH, OW)."""
    return (
        out_size(x_shape[2], kernel[0], stride[0], pads[0], pads[1], dilation[0]),
        out_size(x_shape[3], kernel[1], stride[1], pads[2], pads[3], dilation[1]),
    )


def im2col(x: np.ndarray, kernel: Any, stride: Any, pads: Any, dilation: Any = (1, 1)) -> np.ndarray:
    n, c, _, _ = x.shape
    oh, ow = out_shape(x.shape, kernel, stride, pads, dilation)
    col = np.zeros((n, oh, ow, c, *kernel))
    for i, ch, oy, ox, ky, kx, y, xx in windows(x.shape, kernel, stride, pads, dilation):
        col[i, oy, ox, ch, ky, kx] = x[i, ch, y, xx]
    return col.reshape(n * oh * ow, c * kernel[0] * kernel[1])


def col2im(col: np.ndarray, x_shape: Any, kernel: Any, stride: Any, pads: Any, dilation: Any = (1, 1)) -> np.ndarray:
    n, c = x_shape[:2]
    oh, ow = out_shape(x_shape, kernel, stride, pads, dilation)
    col = col.reshape(n, oh, ow, c, *kernel)
    x = np.zeros(x_shape)
    for i, ch, oy, ox, ky, kx, y, xx in windows(x_shape, kernel, stride, pads, dilation):
        x[i, ch, y, xx] += col[i, oy, ox, ch, ky, kx]
    return x


def conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: Any, pads: Any, dilation: Any = (1, 1)) -> np.ndarray:
    kernel = w.shape[2:]
    y = np.zeros((x.shape[0], w.shape[0], *out_shape(x.shape, kernel, stride, pads, dilation)))
    for f in range(w.shape[0]):
        y[:, f] = b[f]
        for n, c, oy, ox, ky, kx, iy, ix in windows(x.shape, kernel, stride, pads, dilation):
            y[n, f, oy, ox] += float(x[n, c, iy, ix]) * float(w[f, c, ky, kx])
    return y


def conv2d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: Any, pads: Any, dilation: Any = (1, 1)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[0])
    for f in range(w.shape[0]):
        db[f] = math.fsum(dy[:, f].ravel().tolist())
        for n, c, oy, ox, ky, kx, iy, ix in windows(x.shape, w.shape[2:], stride, pads, dilation):
            g = float(dy[n, f, oy, ox])
            dx[n, c, iy, ix] += g * float(w[f, c, ky, kx])
            dw[f, c, ky, kx] += g * float(x[n, c, iy, ix])
    return dx, dw, db


def max_pool(x: np.ndarray, kernel: Any, stride: Any, pads: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first maximum, or the first NaN, among the entries inside the image."""
    y = np.zeros((*x.shape[:2], *out_shape(x.shape, kernel, stride, pads)))
    argmax = np.full(y.shape, -1)
    for n, c, oy, ox, ky, kx, iy, ix in windows(x.shape, kernel, stride, pads):
        value, at = float(x[n, c, iy, ix]), (n, c, oy, ox)
        if argmax[at] < 0 or (not math.isnan(y[at]) and (math.isnan(value) or value > y[at])):
            y[at], argmax[at] = value, ky * kernel[1] + kx
    return y, argmax


def max_pool_backward(
    dy: np.ndarray, argmax: np.ndarray, x_shape: Any, kernel: Any, stride: Any, pads: Any
) -> np.ndarray:
    dx = np.zeros(x_shape)
    for n, c, oy, ox, ky, kx, iy, ix in windows(x_shape, kernel, stride, pads):
        if argmax[n, c, oy, ox] == ky * kernel[1] + kx:
            dx[n, c, iy, ix] += dy[n, c, oy, ox]
    return dx


def avg_pool(x: np.ndarray, kernel: Any, stride: Any, pads: Any) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *out_shape(x.shape, kernel, stride, pads)))
    for n, c, oy, ox, _, _, iy, ix in windows(x.shape, kernel, stride, pads):
        y[n, c, oy, ox] += float(x[n, c, iy, ix]) / (kernel[0] * kernel[1])
    return y


def avg_pool_backward(dy: np.ndarray, x_shape: Any, kernel: Any, stride: Any, pads: Any) -> np.ndarray:
    dx = np.zeros(x_shape)
    for n, c, oy, ox, _, _, iy, ix in windows(x_shape, kernel, stride, pads):
        dx[n, c, iy, ix] += float(dy[n, c, oy, ox]) / (kernel[0] * kernel[1])
    return dx


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            out[i, j] = math.fsum(float(u) * float(v) for u, v in zip(a[i], b[:, j], strict=True))
    return out


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    n, k = logits.shape
    total, d = 0.0, np.zeros((n, k))
    for i in range(n):
        row = [float(v) for v in logits[i]]
        top = max(row)
        weights = [math.exp(v - top) for v in row]
        total += math.log(math.fsum(weights)) - (row[labels[i]] - top)
        for j in range(k):
            d[i, j] = (weights[j] / math.fsum(weights) - (j == labels[i])) / n
    return total / n, d


class Rule:
    """One number under one update rule, step by step: p -= what the rule says of g."""

    def __init__(self, name: str, lr: float, **settings: float) -> None:
        self.name, self.lr, self.s = name, lr, settings
        self.m = self.v = 0.0
        self.t = 0

    def __call__(self, p: float, g: float) -> float:
        s, lr = self.s, self.lr
        self.t += 1
        if self.name == "sgd":
            return p - lr * g
        if self.name == "momentum":
            self.v = s["momentum"] * self.v - lr * g
            return p + self.v
        if self.name == "nesterov":  # as the book writes it, with the old v
            old = self.v
            self.v = s["momentum"] * self.v - lr * g
            return p + s["momentum"] ** 2 * old - (1 + s["momentum"]) * lr * g
        if self.name == "adagrad":
            self.v += g * g
            return p - lr * g / (math.sqrt(self.v) + s["eps"])
        if self.name == "rmsprop":
            self.v = s["rho"] * self.v + (1 - s["rho"]) * g * g
            return p - lr * g / (math.sqrt(self.v) + s["eps"])
        if self.name == "adam":
            self.m = s["beta1"] * self.m + (1 - s["beta1"]) * g
            self.v = s["beta2"] * self.v + (1 - s["beta2"]) * g * g
            rate = lr * math.sqrt(1 - s["beta2"] ** self.t) / (1 - s["beta1"] ** self.t)
            return p - rate * self.m / (math.sqrt(self.v) + s["eps"])
        raise KeyError(self.name)


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """(f(x + h) - f(x - h)) / 2h, entry by entry."""
    x = np.array(x, np.float64)
    d = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        up = f(x)
        x[i] = kept - h
        d[i] = (up - f(x)) / (2 * h)
        x[i] = kept
    return d
