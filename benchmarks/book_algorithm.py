"""SimpleConvNet by the algorithm of "Deep Learning from Scratch" (Saitoh 2016), chapters 5 to 7, in our own writing.

The peer that xconv's own NumPy backend is compared with, so it does what the book does and no less: every array is
fresh, im2col copies slice by slice and then transposes and reshapes, pooling goes through im2col too, the first layer
gives its dx although nobody wants it, and the optimizer walks over a dict. Only the dtype is honoured throughout, where
the book's im2col makes float64 of everything: otherwise its float32 would be slower for a reason that is not the
algorithm. Not part of the package; tests/test_benchmarks.py holds it to xconv's gradients.
"""

from __future__ import annotations

import numpy as np

Params = dict[str, np.ndarray]


def im2col(x: np.ndarray, fh: int, fw: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """x[N,C,H,W] -> [N*OH*OW, C*fh*fw] (section 7.4.3)."""
    n, c, h, w = x.shape
    oh, ow = (h + 2 * pad - fh) // stride + 1, (w + 2 * pad - fw) // stride + 1
    image = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], "constant")
    col = np.zeros((n, c, fh, fw, oh, ow), x.dtype)
    for ky in range(fh):
        y_end = ky + stride * oh
        for kx in range(fw):
            col[:, :, ky, kx] = image[:, :, ky:y_end:stride, kx : kx + stride * ow : stride]
    return col.transpose(0, 4, 5, 1, 2, 3).reshape(n * oh * ow, -1)


def col2im(col: np.ndarray, x_shape: tuple[int, ...], fh: int, fw: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """[N*OH*OW, C*fh*fw] -> x[N,C,H,W], overlapping windows summed (section 7.4.3)."""
    n, c, h, w = x_shape
    oh, ow = (h + 2 * pad - fh) // stride + 1, (w + 2 * pad - fw) // stride + 1
    col = col.reshape(n, oh, ow, c, fh, fw).transpose(0, 3, 4, 5, 1, 2)
    image = np.zeros((n, c, h + 2 * pad + stride - 1, w + 2 * pad + stride - 1), col.dtype)
    for ky in range(fh):
        y_end = ky + stride * oh
        for kx in range(fw):
            image[:, :, ky:y_end:stride, kx : kx + stride * ow : stride] += col[:, :, ky, kx]
    return image[:, :, pad : h + pad, pad : w + pad]


class Convolution:
    """Section 7.4.4."""

    def __init__(self, w: np.ndarray, b: np.ndarray, stride: int, pad: int) -> None:
        self.w, self.b, self.stride, self.pad = w, b, stride, pad

    def forward(self, x: np.ndarray) -> np.ndarray:
        f, _, fh, fw = self.w.shape
        n, _, h, w = x.shape
        oh, ow = (h + 2 * self.pad - fh) // self.stride + 1, (w + 2 * self.pad - fw) // self.stride + 1
        self.x_shape = x.shape
        self.col = im2col(x, fh, fw, self.stride, self.pad)
        self.col_w = self.w.reshape(f, -1).T
        out = np.dot(self.col, self.col_w) + self.b
        return out.reshape(n, oh, ow, -1).transpose(0, 3, 1, 2)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        f, c, fh, fw = self.w.shape
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, f)
        self.db = np.sum(dout, axis=0)
        self.dw = np.dot(self.col.T, dout).transpose(1, 0).reshape(f, c, fh, fw)
        dcol = np.dot(dout, self.col_w.T)
        return col2im(dcol, self.x_shape, fh, fw, self.stride, self.pad)


class Relu:
    """Section 5.5.1."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dout[self.mask] = 0
        return dout


class Pooling:
    """Section 7.4.5."""

    def __init__(self, size: int, stride: int) -> None:
        self.size, self.stride = size, stride

    def forward(self, x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        oh, ow = (h - self.size) // self.stride + 1, (w - self.size) // self.stride + 1
        col = im2col(x, self.size, self.size, self.stride).reshape(-1, self.size * self.size)
        self.x_shape, self.arg_max = x.shape, np.argmax(col, axis=1)
        return np.max(col, axis=1).reshape(n, oh, ow, c).transpose(0, 3, 1, 2)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dout = dout.transpose(0, 2, 3, 1)
        window = self.size * self.size
        dmax = np.zeros((dout.size, window), dout.dtype)
        dmax[np.arange(self.arg_max.size), self.arg_max.flatten()] = dout.flatten()
        dmax = dmax.reshape((*dout.shape, window))
        dcol = dmax.reshape(dmax.shape[0] * dmax.shape[1] * dmax.shape[2], -1)
        return col2im(dcol, self.x_shape, self.size, self.size, self.stride)


class Affine:
    """Section 5.6.2; flattens what it is given."""

    def __init__(self, w: np.ndarray, b: np.ndarray) -> None:
        self.w, self.b = w, b

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x_shape = x.shape
        self.x = x.reshape(x.shape[0], -1)
        return np.dot(self.x, self.w) + self.b

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dx = np.dot(dout, self.w.T)
        self.dw = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0)
        return dx.reshape(self.x_shape)


class SoftmaxWithLoss:
    """Section 5.6.3, for integer labels."""

    def forward(self, x: np.ndarray, t: np.ndarray) -> float:
        e = np.exp(x - np.max(x, axis=1, keepdims=True))
        self.t, self.y = t, e / np.sum(e, axis=1, keepdims=True)
        return float(-np.sum(np.log(self.y[np.arange(len(t)), t] + 1e-7)) / len(t))

    def backward(self) -> np.ndarray:
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


class AdaGrad:
    """Section 6.1.5."""

    def __init__(self, lr: float = 0.01) -> None:
        self.lr, self.h = lr, None

    def update(self, params: Params, grads: Params) -> None:
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.h[key] += grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


class BookConvNet:
    """Conv - relu - pool - affine - relu - affine (section 7.5), from arrays W1, b1, W2, b2, W3, b3, in `dtype`."""

    def __init__(self, params: Params, dtype: str) -> None:
        self.params = p = {name: np.array(value, dtype) for name, value in params.items()}
        self.conv, self.affine1, self.affine2 = (
            Convolution(p["W1"], p["b1"], stride=1, pad=0),
            Affine(p["W2"], p["b2"]),
            Affine(p["W3"], p["b3"]),
        )
        self.layers = [self.conv, Relu(), Pooling(size=2, stride=2), self.affine1, Relu(), self.affine2]
        self.last = SoftmaxWithLoss()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """x[N,C,H,W] -> logits[N,K]."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float, Params]:
        """The mean loss over x[N,C,H,W] and labels t[N], and its gradients."""
        loss = self.last.forward(self.predict(x), t)
        dout = self.last.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        weighted = {"1": self.conv, "2": self.affine1, "3": self.affine2}
        grads = {}
        for number, layer in weighted.items():
            grads[f"W{number}"], grads[f"b{number}"] = layer.dw, layer.db
        return loss, grads
