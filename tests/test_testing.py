"""check_layer and check_backend pass what is right and catch what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from xconv import get_backend
from xconv.backend.numpy_backend import NumpyBackend
from xconv.initializers import ones
from xconv.layers import Add, Flatten, Layer, ParamSpec
from xconv.testing import check_backend, check_layer


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


class WritesSaved(Scale):
    def forward(self, x, ctx):
        return x * 2.0, x * 0.0 + 2.0

    def backward(self, dy, saved, need):
        dx = dy * saved
        saved *= 1.5
        return dx, {}


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


class WrongInInference(Scale):
    def forward(self, x, ctx):
        return x * (2.0 if ctx.train else 3.0), None


class NeedsWhatIsNotAsked(Scale):
    def backward(self, dy, saved, need):
        return dy * (2.0 if need.params else 2.1), {}


class LosesItsArgument(Scale):
    def __init__(self, factor, **base):
        super().__init__(**base)
        self.factor = factor


class ForgetsItsArgument(Scale):
    def __init__(self, factor=2.0, **base):
        super().__init__(**base)
        self.factor = factor

    def forward(self, x, ctx):
        return x * self.factor, None

    def backward(self, dy, saved, need):
        return dy * self.factor, {}


class Weighs(Scale):
    """y = w x, right."""

    def param_specs(self, in_shape):
        return {"w": ParamSpec((1,), lambda rng, shape: np.ones(shape))}

    def forward(self, x, ctx):
        return x * self.params["w"], x

    def backward(self, dy, saved, need):
        return dy * self.params["w"], {"w": (dy * saved).sum(keepdims=True).reshape(1)}


class HasNoGradient(Weighs):
    def backward(self, dy, saved, need):
        return dy * self.params["w"], {}


class WrongParameterGradient(Weighs):
    def backward(self, dy, saved, need):
        dx, grads = super().backward(dy, saved, need)
        return dx, {"w": grads["w"] * 1.001}


class UpdatesWhatIsTrained(Weighs):
    def update(self, saved):
        w = self.params["w"]
        w *= 0.9


class WrongAdd(Add):
    def backward(self, dy, saved, need):
        return (dy, dy * 0.0), {}


class TooFewAdd(Add):
    def backward(self, dy, saved, need):
        return (dy,), {}


def test_a_layer_with_parameters_of_ones_own_passes(backend):
    check_layer(Weighs(), (3, 4), backends=["numpy", backend])


@pytest.mark.parametrize(
    ("wrong", "shape", "said"),
    [
        (WrongGradient(), (3, 4), "training: dx, numerical"),
        (WrongShape(), (3, 4), "shape"),
        (WritesDy(), (3, 4), "dy was written|backward writes"),
        (WritesX(), (3, 4), "x was written|differs"),
        (WritesSaved(), (3, 4), "backward writes what forward saved"),
        (Forgetful(), (3, 4), "differs when computed again"),
        (MixesTheBatch(), (3, 4), "one example alone"),
        (MakesFloat64(), (3, 4), "expected float32"),
        (WrongInInference(), (3, 4), "inference: dx, numerical"),
        (NeedsWhatIsNotAsked(), (3, 4), "depends on what else is needed"),
        (LosesItsArgument(2.0), (3, 4), "config {} does not make it again"),
        (ForgetsItsArgument(3.0), (3, 4), "made again from its config, it gives another y"),
        (HasNoGradient(), (3, 4), r"expected the gradients \['dw'\], not \[\]"),
        (WrongParameterGradient(), (3, 4), "dw, numerical"),
        (UpdatesWhatIsTrained(), (3, 4), "update changes w"),
        (WrongAdd(), [(3,), (3,)], "dx1, numerical"),
        (TooFewAdd(), [(3,), (3,)], "1 dx for 2 inputs"),
        (Flatten(), (2, 3, 4), "other results in a channels_last model; where that is meant"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Layer) else None,
)
def test_wrong_layers_are_caught(wrong, shape, said):
    with pytest.raises(AssertionError, match=said):
        check_layer(wrong, shape, backends=["numpy"])


def test_a_reference_is_asked():
    check_layer(Scale(), (3, 4), reference=lambda x, params, train: x + x, backends=["numpy"])
    with pytest.raises(AssertionError, match="training: y against the reference"):
        check_layer(Scale(), (3, 4), reference=lambda x, params, train: x, backends=["numpy"])
    with pytest.raises(AssertionError, match="inference: y against the reference"):
        check_layer(Scale(), (3, 4), reference=lambda x, params, train: x * (2 if train else 3), backends=["numpy"])


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


class Remembering(Layer):
    """Keeps its input on itself: right when it is used once."""

    def param_specs(self, in_shape):
        return {"a": ParamSpec((1,), ones)}

    def forward(self, x, ctx):
        self.x = x
        return x * self.params["a"], None

    def backward(self, dy, saved, need):
        return dy * self.params["a"], {"a": (dy * self.x).sum().reshape(1)}


def test_a_layer_that_remembers_is_caught():
    with pytest.raises(AssertionError, match=r"used twice: the sum of layer\.a"):
        check_layer(Remembering(), (3,))


class Forgetful(Remembering):
    """Its config does not say what it was made with, though it seems to."""

    factor = 1.0

    def forward(self, x, ctx):
        return x * self.params["a"] * self.factor, x

    def backward(self, dy, saved, need):
        return dy * self.params["a"] * self.factor, {"a": (dy * saved).sum().reshape(1) * self.factor}


def test_a_layer_whose_file_makes_another_is_caught(monkeypatch):
    layer = Forgetful()
    layer.factor = 2.0
    monkeypatch.setattr("xconv.testing.layer._check_config", lambda *_: None)  # which would catch it, too
    with pytest.raises(AssertionError, match="saved and loaded, it predicts other bits"):
        check_layer(layer, (3,))
