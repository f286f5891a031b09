"""The Numba backend with one algorithm of convolution forced, and what that must give, by naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import reference
from xconv.backend.threads import Team

numba_backend = pytest.importorskip("xconv.backend.numba_backend", reason="needs Numba: pip install 'xconv[numba]'")
ALGORITHMS = ("columns", "winograd", "direct")
NONE = (0, 0, 0, 0)


class Sharing(Team):
    """Shares all work out, however little it is."""

    def ranges(self, n: int, work: float, most: int | None = None) -> list[tuple[int, int]]:
        return super().ranges(n, 1e9, most)


class Forced(numba_backend.NumbaBackend):
    """`ran` lists the algorithms that convolutions took, in order."""

    def __init__(self, algorithm: str | None, threads: int = 2) -> None:
        super().__init__()
        self.algorithm, self.team, self.ran = algorithm, Sharing(threads), []

    def _columns_conv2d(self, *arguments: Any) -> Any:
        self.ran.append("columns")
        return super()._columns_conv2d(*arguments)

    def _winograd_conv2d(self, *arguments: Any) -> Any:
        self.ran.append("winograd")
        return super()._winograd_conv2d(*arguments)

    def _direct_conv2d(self, *arguments: Any) -> Any:
        self.ran.append("direct")
        return super()._direct_conv2d(*arguments)

    def _rows_conv2d(self, *arguments: Any) -> Any:
        self.ran.append("rows")
        return super()._rows_conv2d(*arguments)


def conv2d(x: Any, w: Any, b: Any, stride: Any, pads: Any) -> np.ndarray:
    """`reference.conv2d` with the loop over filters left to a product in float64."""
    with np.errstate(invalid="ignore"):
        col = reference.im2col(x, w.shape[2:], stride, pads) @ w.astype("f8").reshape(len(w), -1).T + b.astype("f8")
    return col.reshape(len(x), *reference.out_shape(x.shape, w.shape[2:], stride, pads), -1).transpose(0, 3, 1, 2)


def conv2d_backward(dy: Any, x: Any, w: Any, stride: Any, pads: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`reference.conv2d_backward` likewise."""
    rows = dy.astype("f8").transpose(0, 2, 3, 1).reshape(-1, len(w))
    with np.errstate(invalid="ignore"):
        dcol = rows @ w.astype("f8").reshape(len(w), -1)
        dw = rows.T @ reference.im2col(x, w.shape[2:], stride, pads)
    return reference.col2im(dcol, x.shape, w.shape[2:], stride, pads), dw.reshape(w.shape), rows.sum(axis=0)


def certain(conv: np.ndarray, pool: Any, pool_stride: Any) -> np.ndarray:
    """Whether rounding can change neither which of a window is the largest nor whether that is positive."""
    n, f = conv.shape[:2]
    taps = reference.im2col(conv.reshape(n * f, 1, *conv.shape[2:]), pool, pool_stride, NONE)
    top = np.sort(taps, axis=1)[:, ::-1]
    sure = np.abs(top[:, 0]) > 1e-4 * np.abs(conv).max()
    if top.shape[1] > 1:
        sure &= top[:, 0] - top[:, 1] > 1e-4 * np.abs(conv).max()
    return sure.reshape(n, f, *reference.out_shape(conv.shape, pool, pool_stride, NONE))


def relu_pool(conv: np.ndarray, pool: Any, pool_stride: Any) -> tuple[np.ndarray, Any]:
    """ReLU and max-pooling, and the function that gives dconv of dy."""
    relu = np.maximum(conv, 0)
    y, where = reference.max_pool(relu, pool, pool_stride, NONE)

    def backward(dy: np.ndarray) -> np.ndarray:
        opened = np.where(y <= 0, 0, dy)  # NaN lets through
        return reference.max_pool_backward(opened, where, conv.shape, pool, pool_stride, NONE)

    return y, backward
