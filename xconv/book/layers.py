"""The book's layers: they are given their weights, keep what backward needs, and hold their gradients as dW and db.

Each is a thin dress over the same backend operations as xconv's own layers. Where no backend is named it is the one
that owns the arrays: $XCONV_BACKEND or the best usable one for NumPy arrays, CuPy for CuPy's.
"""

from __future__ import annotations

import math

from xconv import checks
from xconv.backend import Array, Backend, backend_of
from xconv.errors import ShapeError, described
from xconv.shapes import paddings, pair, same_shape, window_output


class _Weighted:
    """A layer with W and b; `dW` and `db` are there after backward."""

    dW: Array = None
    db: Array = None

    def __init__(self, W: Array, b: Array, backend: str | Backend | None) -> None:
        self.W, self.b = W, b
        self.backend = backend_of(W, backend)
        backend_of(b, self.backend)
        self.x: Array = None

    @property
    def _label(self) -> str:
        return type(self).__name__

    def _input(self, x: Array) -> Array:
        if not isinstance(x, self.backend.array_type):
            x = checks.host_array(x, f"{self._label}: x")
        return self.backend.asarray(x, self.W.dtype)


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
            y, self.x = self.backend.conv2d(x, self.W, self.b, self.stride, self.pad)
        return y

    def backward(self, dout: Array) -> Array:
        """dout[N,F,OH,OW] -> dx[N,C,H,W]; sets dW and db."""
        with self.backend.running():
            dx, self.dW, self.db = self.backend.conv2d_backward(self._input(dout), self.x)
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
        self.original_x_shape = x.shape
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.W.shape[0]:
            raise ShapeError(f"Affine: expected {self.W.shape[0]} values for each example. Received: {described(x)}")
        self.x = x.reshape(x.shape[0], self.W.shape[0])
        with self.backend.running():
            return self.backend.dense(self.x, self.W, self.b)

    def backward(self, dout: Array) -> Array:
        """dout[N,O] -> dx in the shape of x; sets dW and db."""
        with self.backend.running():
            dx, self.dW, self.db = self.backend.dense_backward(self._input(dout), self.x, self.W)
        return dx.reshape(self.original_x_shape)


class Pooling:
    """Max-pooling (section 7.4.5): x[N,C,H,W] -> [N,C,OH,OW]."""

    def __init__(
        self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0, *, backend: str | Backend | None = None
    ) -> None:
        self.kernel = pair((pool_h, pool_w), "Pooling: pool_h, pool_w")
        self.stride, self.pad = pair(stride, "Pooling: stride"), paddings(pad, "Pooling: pad")
        self._named = backend

    def forward(self, x: Array) -> Array:
        """x[N,C,H,W] -> y[N,C,OH,OW]."""
        self.backend = backend_of(x, self._named)
        if x.ndim != 4:
            raise ShapeError(f"Pooling: expected x of shape (N, C, H, W). Received: {described(x)}")
        window_output(x.shape[2:], self.kernel, self.stride, self.pad, what="Pooling")
        self.x_shape = x.shape
        with self.backend.running():
            y, self.arg_max = self.backend.max_pool(self.backend.asarray(x), self.kernel, self.stride, self.pad)
        return y

    def backward(self, dout: Array) -> Array:
        """dout[N,C,OH,OW] -> dx[N,C,H,W]."""
        with self.backend.running():
            return self.backend.max_pool_backward(
                self.backend.asarray(dout), self.arg_max, self.x_shape, self.kernel, self.stride, self.pad
            )


class Relu:
    """max(x, 0) (section 5.5.1); never writes into dout, as the book's does."""

    def __init__(self, *, backend: str | Backend | None = None) -> None:
        self._named = backend

    def forward(self, x: Array) -> Array:
        """X of any shape -> y of that shape."""
        self.backend = backend_of(x, self._named)
        with self.backend.running():
            self.y = self.backend.relu(self.backend.asarray(x))
        return self.y

    def backward(self, dout: Array) -> Array:
        """Dout where y > 0, else 0."""
        with self.backend.running():
            return self.backend.relu_backward(self.backend.asarray(dout), self.y)


class SoftmaxWithLoss:
    """Softmax and cross-entropy (section 5.6.3): x[N,K] and t, integers [N] or one-hot [N,K] -> the mean loss."""

    def __init__(self, *, backend: str | Backend | None = None) -> None:
        self._named = backend

    def forward(self, x: Array, t: Array) -> float:
        """The mean loss, a float."""
        self.backend = backend_of(x, self._named)
        if x.ndim != 2:
            raise ShapeError(f"SoftmaxWithLoss: expected x of shape (N, classes). Received: {described(x)}")
        if not hasattr(t, "__cuda_array_interface__"):
            t = self.backend.asarray(checks.labels(t, x.shape[0], x.shape[1], "SoftmaxWithLoss: t"))
        elif t.ndim == 2:
            t = t.argmax(axis=1)
        with self.backend.running():
            loss, self.dx = self.backend.softmax_cross_entropy(self.backend.asarray(x), t)
        self.loss = float(self.backend.to_numpy(loss)[0])
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        """dx[N,K] = dout (softmax(x) - onehot(t)) / N."""
        return self.dx * float(dout)
