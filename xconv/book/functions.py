"""The book's im2col and col2im, its optimizer with another argument name, and its load_mnist."""

from __future__ import annotations

import numpy as np

from xconv import checks, data, optimizers
from xconv.backend import Array, backend_of
from xconv.book.layers import floats
from xconv.errors import ShapeError, described
from xconv.shapes import paddings, pair, positive, window_output

Split = tuple[np.ndarray, np.ndarray]


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """x[N,C,H,W] -> col[N*OH*OW, C*filter_h*filter_w] (section 7.4.3), in the dtype of x; of integers, float64."""
    backend = backend_of(input_data)
    _four_axes(input_data.shape, "im2col")
    kernel = positive(filter_h, "im2col: filter_h"), positive(filter_w, "im2col: filter_w")
    strides, pads = pair(stride, "im2col: stride"), paddings(pad, "im2col: pad")
    window_output(input_data.shape[2:], kernel, strides, pads, what="im2col")
    x = floats(backend, input_data, "im2col: input_data")
    with backend.running():
        return backend.im2col(x, kernel, strides, pads)


def col2im(
    col: Array, input_shape: tuple[int, ...], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """col[N*OH*OW, C*filter_h*filter_w] -> x[N,C,H,W], overlapping windows summed (section 7.4.3)."""
    backend = backend_of(col)
    _four_axes(input_shape, "col2im")
    kernel = positive(filter_h, "col2im: filter_h"), positive(filter_w, "col2im: filter_w")
    strides, pads = pair(stride, "col2im: stride"), paddings(pad, "col2im: pad")
    n, c, h, w = input_shape
    oh, ow = window_output((h, w), kernel, strides, pads, what="col2im")
    if col.shape != (n * oh * ow, c * kernel[0] * kernel[1]):
        raise ShapeError(
            f"col2im: expected columns of shape {(n * oh * ow, c * kernel[0] * kernel[1])}. Received: {described(col)}"
        )
    col = floats(backend, col, "col2im: col")
    with backend.running():
        return backend.col2im(col, tuple(input_shape), kernel, strides, pads)


def _four_axes(shape: tuple[int, ...], what: str) -> None:
    if len(shape) != 4:
        raise ShapeError(f"{what}: expected images of shape (N, C, H, W). Received: shape {tuple(shape)}")


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False, *, name: str = "mnist"
) -> tuple[Split, Split]:
    """(x_train, t_train), (x_test, t_test) of MNIST.

    x is float32 in 0..1, or uint8 0..255 with `normalize=False`; [N,784], or [N,1,28,28] with `flatten=False`. t is
    int64[N], or one-hot float32[N,10]. `name` may be "mnist-sample", which needs no download, or "fashion-mnist".
    """
    found = data.load(name)

    def split(x: np.ndarray, t: np.ndarray) -> Split:
        x = data.pixels(x) if normalize else x.copy()
        labels = checks.labels(t, len(x), len(found.classes), name)
        if one_hot_label:
            return x.reshape(len(x), -1) if flatten else x, np.eye(len(found.classes), dtype=np.float32)[labels]
        return x.reshape(len(x), -1) if flatten else x, labels

    return split(found.x_train, found.t_train), split(found.x_test, found.t_test)


class RMSprop(optimizers.RMSprop):
    """xconv's RMSprop under the book's argument names and defaults."""

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        super().__init__(lr, rho=decay_rate)
