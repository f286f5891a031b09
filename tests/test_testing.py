"""check_layer and check_backend pass what is right and catch what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from xconv import AvgPool2D, Conv2D, Dense, Flatten, Layer, MaxPool2D, ReLU, get_backend
from xconv.backend.numpy_backend import NumpyBackend
from xconv.testing import check_backend, check_layer

LAYERS = [
    (Conv2D(3, 3), (2, 6, 5)),
    (Conv2D(2, (2, 3), stride=(2, 1), pad=(1, 0, 2, 1)), (3, 5, 6)),
    (MaxPool2D(2), (2, 6, 6)),
    (MaxPool2D(3, stride=2, pad=1), (2, 7, 5)),
    (AvgPool2D(2), (2, 6, 6)),
    (AvgPool2D((2, 3), stride=(1, 2), pad=(1, 0, 1, 1)), (2, 5, 6)),
    (Dense(4), (7,)),
    (Dense(3), (2, 4, 5)),
    (ReLU(), (2, 4, 3)),
    (Flatten(), (2, 3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: type(v).__name__ if isinstance(v, Layer) else None)
def test_every_layer_passes(backend, layer, shape):
    check_layer(layer, shape, backends=("numpy", backend))


def test_every_backend_passes(backend):
    check_backend(backend)


class Scale(Layer):
    """y = 2 x, right."""

    def forward(self, x, ctx):
        return x * 2.0, None

    def backward(self, dy, saved, need):
        return dy * 2.0, {}


def test_a_layer_of_ones_own_passes():
    check_layer(Scale(), (3, 4))


class WrongGradient(Scale):
    def backward(self, dy, saved, need):
        return dy * 2.001, {}


class WrongShape(Scale):
    def output_shape(self, in_shape):
        return (*in_shape, 1)


class WritesDy(Scale):
    def backward(self, dy, saved, need):
        dy *= 2.0
        return dy, {}


class WritesX(Scale):
    def forward(self, x, ctx):
        x *= 2.0
        return x, None


class Forgetful(Scale):
    calls = 0

    def forward(self, x, ctx):
        type(self).calls += 1
        return x * (2.0 + 1e-12 * self.calls), None


class MixesTheBatch(Scale):
    def forward(self, x, ctx):
        return x - x.mean(axis=0), None

    def backward(self, dy, saved, need):
        return dy - dy.mean(axis=0), {}


class MakesFloat64(Scale):
    def forward(self, x, ctx):
        return x.astype("float64") * 2.0, None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (WrongGradient, "dx, numerical"),
        (WrongShape, "shape"),
        (WritesDy, "dy was written|dx differs"),
        (WritesX, "x was written|y differs"),
        (Forgetful, "differs when computed again"),
        (MixesTheBatch, "one example alone"),
        (MakesFloat64, "expected float32"),
    ],
)
def test_wrong_layers_are_caught(wrong, said):
    with pytest.raises(AssertionError, match=said):
        check_layer(wrong(), (3, 4), backends=["numpy"])


def broken(name, change):
    """NumPy's backend with one operation changed."""
    right = getattr(NumpyBackend, name)

    class Broken(NumpyBackend):
        pass

    def operation(self, *args, **kwargs):
        return change(right(self, *args, **kwargs))

    import functools

    setattr(Broken, name, functools.wraps(right)(operation))
    return Broken()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("relu", lambda y: y * 1.001),
        ("im2col", lambda col: col + 0.1),
        ("dense", lambda y: np.asfortranarray(y)),
        ("avg_pool", lambda y: y.astype("float64")),
        ("max_pool", lambda r: (r[0], r[1].astype("int64"))),
        ("dense_backward", lambda r: (r[0], r[1], r[2] * 2)),
        ("softmax_cross_entropy", lambda r: (r[0] * 1.01, r[1])),
        ("batch_norm", lambda r: (r[0], r[1]._replace(var=r[1].var * 1.01))),
        ("batch_norm_backward", lambda r: (r[0], r[1] * 1.01, r[2])),
        ("batch_norm_inference", lambda y: y * 1.001),
        ("dropout", lambda y: np.nextafter(y, y.dtype.type(9))),  # not to the bit
    ],
)
def test_wrong_backends_are_caught(name, change):
    with pytest.raises(AssertionError, match=rf"{name.removesuffix('_backward')}|conv2d"):
        check_backend(broken(name, change))


def test_another_signature_is_caught():
    class Other(NumpyBackend):
        def relu(self, x, slope=0.1):
            return x

    with pytest.raises(AssertionError, match=r"relu takes"):
        check_backend(Other())


def test_names_are_enough():
    check_backend("numpy")
    assert get_backend("numpy").name == "numpy"
