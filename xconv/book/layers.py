"""The book's layers: they are given their weights, keep what backward needs, and hold their gradients as dW and db.

Each is a thin dress over the same backend operations as xconv's own layers. Where no backend is named it is the one
that owns the arrays: $XCONV_BACKEND or the best usable one for NumPy arrays, CuPy for CuPy's.
"""

from __future__ import annotations

import math
from typing import Any

from xconv import checks
from xconv.backend import Array, Backend, backend_of
from xconv.errors import DTypeError, ShapeError, XconvError, described
from xconv.shapes import paddings, pair, pooling_pads, same_shape, window_output


def floats(backend: Backend, x: Array, what: str, dtype: Any = None) -> Array:
    """`x` as this backend's array of `dtype`; without one float32 and float64 stay, and other numbers become float64.

    DTypeError for anything but real numbers.
    """
    if x.dtype.kind not in "buif":
        raise DTypeError(f"{what}: expected real numbers (float, int or bool). Received: {described(x)}")
    return backend.asarray(x, dtype or (x.dtype.name if x.dtype.name in checks.DTYPES else "float64"))


class _BookLayer:
    """What the book's layers have in common: where they run, and what their last output was like."""

    backend: Backend
    _gave: tuple[tuple[int, ...], Any] | None = None  # shape and dtype

    def _output(self, y: Array) -> Array:
        self._gave = y.shape, y.dtype
        return y

    def _dout(self, dout: Array) -> Array:
        """The gradient that backward is given, which must have the shape of the last output."""
        name = type(self).__name__
        if self._gave is None:
            raise XconvError(f"{name}: backward needs a forward pass before it. Received: {described(dout)}")
        shape, dtype = self._gave
        backend_of(dout, self.backend)
        same_shape(dout.shape, shape, f"{name}: dout")
        return floats(self.backend, dout, f"{name}: dout", dtype)


class _Weighted(_BookLayer):
    """A layer with W and b; `dW` and `db` are there after backward."""

    dW: Array = None
    db: Array = None

    def __init__(self, W: Array, b: Array, backend: str | Backend | None) -> None:
        self.W, self.b = W, b
        self.backend = backend_of(W, backend)
        backend_of(b, self.backend)
        for name, array in (("W", W), ("b", b)):
            if array.dtype.name not in checks.DTYPES or array.dtype != W.dtype:
                raise DTypeError(
                    f"{type(self).__name__}: expected W and b both of dtype float32, or both of float64. "
                    f"Received: {name} as {described(array)}"
                )
        self.x: Array = None

    def _input(self, x: Array) -> Array:
        if not isinstance(x, self.backend.array_type):
            x = checks.host_array(x, f"{type(self).__name__}: x")
        return floats(self.backend, x, f"{type(self).__name__}: x", self.W.dtype)

    def _weights(self) -> tuple[Array, Array]:
        """W and b, C-contiguous: themselves as a rule, a copy where they are views with other strides."""
        return self.backend.asarray(self.W), self.backend.asarray(self.b)


class Convolution(_Weighted):
    """W[F,C,FH,FW], b[F], stride and pad as in section 7.4.4: x[N,C,H,W] -> [N,F,OH,OW]."""

    def __init__(
        self, W: Array, b: Array, stride: int = 1, pad: int = 0, *, backend: str | Backend | None = None
    ) -> None:
        super().__init__(W, b, backend)
        if W.ndim != 4:
            raise ShapeError(f"Convolution: expected W of shape (F, C, FH, FW). Received: {described(W)}")
        same_shape(b.shape, W.shape[:1], "Convolution: b")
        self.stride, self.pad = pair(stride, "Convolution: stride"), paddings(pad, "Convolution: pad")

    def forward(self, x: Array) -> Array:
        """x[N,C,H,W] -> y[N,F,OH,OW]."""
        x = self._input(x)
        if x.ndim != 4 or x.shape[1] != self.W.shape[1]:
            raise ShapeError(f"Convolution: expected x of shape (N, {self.W.shape[1]}, H, W). Received: {described(x)}")
        window_output(x.shape[2:], self.W.shape[2:], self.stride, self.pad, what="Convolution")
        with self.backend.running():
            y, self.x = self.backend.conv2d(x, *self._weights(), self.stride, self.pad)
        return self._output(y)

    def backward(self, dout: Array) -> Array:
        """dout[N,F,OH,OW] -> dx[N,C,H,W]; sets dW and db."""
        dout = self._dout(dout)
        with self.backend.running():
            dx, self.dW, self.db = self.backend.conv2d_backward(dout, self.x)
        return dx


class Affine(_Weighted):
    """W[I,O], b[O]: x of any rank is flattened to [N,I] -> [N,O] (section 5.6.2)."""

    def __init__(self, W: Array, b: Array, *, backend: str | Backend | None = None) -> None:
        super().__init__(W, b, backend)
        if W.ndim != 2:
            raise ShapeError(f"Affine: expected W of shape (inputs, outputs). Received: {described(W)}")
        same_shape(b.shape, W.shape[1:], "Affine: b")
        self.original_x_shape: tuple[int, ...] = ()

    def forward(self, x: Array) -> Array:
        """x[N,...] -> y[N,O]."""
        x = self._input(x)
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.W.shape[0]:
            raise ShapeError(f"Affine: expected {self.W.shape[0]} values for each example. Received: {described(x)}")
        self.original_x_shape = x.shape
        self.x = x.reshape(x.shape[0], self.W.shape[0])
        with self.backend.running():
            y = self.backend.dense(self.x, *self._weights())
        return self._output(y)

    def backward(self, dout: Array) -> Array:
        """dout[N,O] -> dx in the shape of x; sets dW and db."""
        dout = self._dout(dout)
        with self.backend.running():
            dx, self.dW, self.db = self.backend.dense_backward(dout, self.x, self._weights()[0])
        return dx.reshape(self.original_x_shape)


class Pooling(_BookLayer):
    """Max-pooling (section 7.4.5): x[N,C,H,W] -> [N,C,OH,OW]."""

    def __init__(
        self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0, *, backend: str | Backend | None = None
    ) -> None:
        self.kernel = pair((pool_h, pool_w), "Pooling: pool_h, pool_w")
        self.stride = pair(stride, "Pooling: stride")
        self.pad = pooling_pads(pad, self.kernel, "Pooling")
        self._named = backend

    def forward(self, x: Array) -> Array:
        """x[N,C,H,W] -> y[N,C,OH,OW]."""
        self.backend = backend_of(x, self._named)
        if x.ndim != 4:
            raise ShapeError(f"Pooling: expected x of shape (N, C, H, W). Received: {described(x)}")
        window_output(x.shape[2:], self.kernel, self.stride, self.pad, what="Pooling")
        x = floats(self.backend, x, "Pooling: x")
        with self.backend.running():
            y, self.arg_max = self.backend.max_pool(x, self.kernel, self.stride, self.pad)
        self.x_shape = x.shape
        return self._output(y)

    def backward(self, dout: Array) -> Array:
        """dout[N,C,OH,OW] -> dx[N,C,H,W]."""
        dout = self._dout(dout)
        with self.backend.running():
            return self.backend.max_pool_backward(dout, self.arg_max, self.x_shape, self.kernel, self.stride, self.pad)


class Relu(_BookLayer):
    """max(x, 0) (section 5.5.1); never writes into dout, as the book's does."""

    def __init__(self, *, backend: str | Backend | None = None) -> None:
        self._named = backend

    def forward(self, x: Array) -> Array:
        """X of any shape -> y of that shape."""
        self.backend = backend_of(x, self._named)
        x = floats(self.backend, x, "Relu: x")
        with self.backend.running():
            self.y = self.backend.relu(x)
        return self._output(self.y)

    def backward(self, dout: Array) -> Array:
        """Dout where y > 0, else 0."""
        dout = self._dout(dout)
        with self.backend.running():
            return self.backend.relu_backward(dout, self.y)


class SoftmaxWithLoss:
    """Softmax and cross-entropy (section 5.6.3): x[N,K] and t, integers [N] or one-hot [N,K] -> the mean loss."""

    def __init__(self, *, backend: str | Backend | None = None) -> None:
        self._named = backend

    def forward(self, x: Array, t: Array) -> float:
        """The mean loss, a float."""
        self.backend = backend_of(x, self._named)
        if x.ndim != 2 or 0 in x.shape:
            raise ShapeError(f"SoftmaxWithLoss: expected x of shape (N, classes). Received: {described(x)}")
        if isinstance(t, self.backend.array_type):
            t = self.backend.to_numpy(t)  # labels are checked on the host, with the same words for every backend
        t = self.backend.asarray(checks.labels(t, x.shape[0], x.shape[1], "SoftmaxWithLoss: t"))
        x = floats(self.backend, x, "SoftmaxWithLoss: x")
        with self.backend.running():
            loss, self.dx = self.backend.softmax_cross_entropy(x, t)
        self.loss = float(self.backend.to_numpy(loss)[0])
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        """dx[N,K] = dout (softmax(x) - onehot(t)) / N."""
        return self.dx * float(dout)
