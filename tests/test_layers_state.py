"""Layers whose results depend on more than x: moving statistics, masks, the user's functions; and numerical edges."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference_layers as naive
from tests.checks import close, draw
from tests.conftest import load
from xconv.backend import Need
from xconv.backend.saved import EVERYTHING
from xconv.errors import ConfigError, DataError, ShapeError
from xconv.layers import (
    AvgPool2D,
    BatchNormalization,
    Context,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalMaxPooling2D,
    Lambda,
    LeakyReLU,
    Maximum,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from xconv.layers.fused import ConvReLU, ConvReLUMaxPool, DenseReLU
from xconv.testing import bind

FOUR = ("gamma", "beta", "mean", "var")


def on(layer, backend, dtype="float64", **weights):
    return bind(layer, backend, weights, dtype)


def context(backend, train=True, seed=7, step=2, node=4):
    return Context(train, seed, backend.asarray(np.array([step], np.uint64)), node)


def run(layer, x, dy=None, train=True, need=EVERYTHING, **key):
    """y, dx and the parameters' gradients, on the host."""
    backend = layer.backend
    with backend.running():
        y, saved = layer.forward(x, context(backend, train, **key))
        if train:
            layer.update(layer.learnt(saved))
        dx, grads = layer.backward(y if dy is None else dy, saved, need)
    return y, dx, grads


# ---------------------------------------------------------------------- batch normalisation


@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 2, 5), 1), ((6, 3), 1), ((4, 5, 3), 2)])
def test_moving_statistics(backend, dtype, shape, axis):
    """mean = momentum mean + (1 - momentum) batch mean, var likewise with the biased variance; twice, in place."""
    weights = {name: np.abs(draw(3, seed=i)) for i, name in enumerate(FOUR)}
    layer = on(BatchNormalization(momentum=0.9), backend, dtype, **weights)
    views = dict(layer.params)
    mean, var = weights["mean"], weights["var"]
    for step in (0, 1):
        x = draw(*shape, seed=step) * 2 + 1
        run(layer, backend.asarray(x, dtype))
        of_batch = naive.statistics(x, axis)
        mean, var = (0.9 * old + 0.1 * new for old, new in zip((mean, var), of_batch, strict=True))
    assert all(layer.params[name] is views[name] for name in FOUR)
    close(backend, layer.params["mean"], mean, "elementwise")
    close(backend, layer.params["var"], var, "elementwise")
    for name in ("gamma", "beta"):
        np.testing.assert_array_equal(backend.to_numpy(layer.params[name]), weights[name].astype(dtype))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_at_its_ends(backend, momentum):
    layer = on(BatchNormalization(momentum=momentum), backend, gamma=[1.0], beta=[0.0], mean=[5.0], var=[7.0])
    x = draw(8, 1)
    run(layer, backend.asarray(x))
    expected = (5.0, 7.0) if momentum else (x.mean(), x.var())
    got = [backend.to_numpy(layer.params[name])[0] for name in ("mean", "var")]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("how", ["frozen", "inference"])
def test_statistics_stay_when_frozen_and_in_inference(backend, how):
    """Frozen means frozen: in training, too, the layer's own statistics are used and kept."""
    weights = {name: np.abs(draw(3, seed=i)) + 0.1 for i, name in enumerate(FOUR)}
    layer = on(BatchNormalization(trainable=how != "frozen"), backend, **weights)
    x = draw(5, 3, 2, 2, seed=9)
    y, dx, _ = run(layer, backend.asarray(x), backend.asarray(x), train=how == "frozen")
    gamma, beta, mean, var = (weights[name] for name in FOUR)
    close(backend, y, naive.batch_norm(x, 1, gamma, beta, mean, var, 1e-3), "elementwise")
    close(backend, dx, x * (gamma / np.sqrt(var + 1e-3))[:, None, None], "elementwise")
    for name in FOUR:
        np.testing.assert_array_equal(backend.to_numpy(layer.params[name]), weights[name])


def test_inference_after_long_training_is_what_training_was(backend):
    """With the same batch again and again the moving statistics become the batch's."""
    layer = on(
        BatchNormalization(momentum=0.5), backend, gamma=np.ones(3), beta=np.zeros(3), mean=np.zeros(3), var=np.ones(3)
    )
    x = backend.asarray(draw(6, 3, 2, 2) * 3 + 1)
    for _ in range(60):
        trained, _, _ = run(layer, x)
    asked, _, _ = run(layer, x, train=False)
    close(backend, asked, backend.to_numpy(trained), "elementwise")


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_has_no_variance(backend, shape):
    weights = {name: np.ones(3) for name in FOUR}
    layer = on(BatchNormalization(name="bn"), backend, **weights)
    with pytest.raises(DataError) as caught:
        layer.forward(backend.asarray(draw(*shape)), Context(train=True))
    assert str(caught.value) == (
        "bn (BatchNormalization): one value for each channel has no variance to train on; give larger batches, or drop "
        f"the last one where it is a single example. Received: a training batch of shape {shape}"
    )
    layer.forward(backend.asarray(draw(*shape)), Context())
    layer.trainable = False
    layer.forward(backend.asarray(draw(*shape)), Context(train=True))


# ---------------------------------------------------------------------- dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(backend, dtype, rate):
    layer = on(Dropout(rate), backend, dtype)
    x, dy = np.full((40, 500), 3.0), draw(40, 500)
    y, dx, _ = run(layer, backend.asarray(x, dtype), backend.asarray(dy, dtype))
    got = backend.to_numpy(y)
    dropped = got == 0
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(got[~dropped], 3.0 / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(
        backend.to_numpy(dx), np.where(dropped, 0, dy / (1 - rate)), rtol=2e-6 if dtype == "float32" else 1e-14
    )


def test_dropout_draws_by_seed_step_and_node(backend):
    """To the bit as on NumPy, and another mask where any of the three differs."""
    x = np.ones((7, 11, 3, 5))
    masks = []
    for key in ({}, {"seed": 8}, {"step": 3}, {"node": 5}):
        there, _, _ = run(on(Dropout(0.5), backend), backend.asarray(x), **key)
        plain, _, _ = run(on(Dropout(0.5), load("numpy")), x, **key)
        np.testing.assert_array_equal(backend.to_numpy(there), plain)
        masks.append(plain == 0)
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < (mask == other).mean() < 0.6


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_dropout_that_drops_nothing_is_the_identity(backend, rate, train):
    x = backend.asarray(draw(3, 4))
    y, dx, _ = run(on(Dropout(rate), backend), x, train=train)
    assert y is x and dx is y


# ---------------------------------------------------------------------- numbers at their edges


FAR = np.array([-1e4, -100.0, -88.0, -20.0, 0.0, 20.0, 100.0, 1e4])


def test_sigmoid_overflows_nowhere(backend, dtype):
    """And small results are exact to their last digits, not to those of 1."""
    layer = on(Sigmoid(), backend, dtype)
    with np.errstate(over="raise", invalid="raise"):
        y, dx, _ = run(layer, backend.asarray(FAR, dtype), backend.asarray(np.ones(8), dtype))
    exact = np.array([0.0, *(1 / (1 + np.exp(-FAR[1:])))])
    kept = exact > np.finfo(dtype).tiny
    np.testing.assert_allclose(backend.to_numpy(y)[kept], exact[kept], rtol=10 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(backend.to_numpy(y)[[0, 4, 7]], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(backend.to_numpy(dx)[[0, 4, 7]], [0.0, 0.25, 0.0])


def test_tanh_and_softmax_overflow_nowhere(backend, dtype):
    with np.errstate(over="raise", invalid="raise"):
        y, dx, _ = run(on(Tanh(), backend, dtype), backend.asarray(FAR, dtype))
        np.testing.assert_array_equal(backend.to_numpy(y)[[0, 4, 7]], [-1.0, 0.0, 1.0])
        np.testing.assert_array_equal(backend.to_numpy(dx)[[0, 7]], [0.0, 0.0])
        y, _, _ = run(on(Softmax(), backend, dtype), backend.asarray(FAR[None], dtype))
        np.testing.assert_array_equal(backend.to_numpy(y)[0], [0, 0, 0, 0, 0, 0, 0, 1])
        y, _, _ = run(on(Softmax(), backend, dtype), backend.asarray([[1e4, 1e4]], dtype))
        np.testing.assert_array_equal(backend.to_numpy(y), [[0.5, 0.5]])


@pytest.mark.parametrize("layer", [ReLU(), LeakyReLU(), Sigmoid(), Tanh()], ids=lambda layer: type(layer).__name__)
def test_nan_stays(backend, layer):
    y, _, _ = run(on(layer, backend, "float32"), backend.asarray([np.nan, 1.0], "float32"))
    assert np.isnan(backend.to_numpy(y)).tolist() == [True, False]


def test_ties_go_to_the_first(backend):
    x = backend.asarray(np.ones((1, 1, 2, 2)))
    _, dx, _ = run(on(GlobalMaxPooling2D(), backend), x)
    assert backend.to_numpy(dx).ravel().tolist() == [1, 0, 0, 0]
    _, dxs, _ = run(on(Maximum(), backend), (x, x, x))
    assert [backend.to_numpy(dx).sum() for dx in dxs] == [4, 0, 0]
    _, dx, _ = run(on(LeakyReLU(0.25), backend), backend.asarray([0.0]), backend.asarray([8.0]))
    assert backend.to_numpy(dx).tolist() == [2.0]


def test_padding_same_never_counts(backend):
    """A map of one number stays that number under both poolings, whatever the padding; by number it counts as zeros."""
    x = backend.asarray(np.full((1, 1, 5, 4), -3.0))
    for kind in (MaxPool2D, AvgPool2D):
        y, _, _ = run(on(kind(3, 2, "same"), backend), x)
        np.testing.assert_allclose(backend.to_numpy(y), np.full((1, 1, 3, 2), -3.0), rtol=1e-15)
    y, _, _ = run(on(AvgPool2D(3, 2, 1), backend), x)
    np.testing.assert_allclose(backend.to_numpy(y)[0, 0, 0, 0], -3.0 * 4 / 9, rtol=1e-15)


def test_flatten_keeps_the_users_order(backend):
    images = np.arange(24.0).reshape(1, 2, 3, 4)  # [N,H,W,C], as a channels_last model's user has them
    y, _, _ = run(on(Flatten(data_format="channels_last"), backend), backend.asarray(images.transpose(0, 3, 1, 2)))
    assert backend.to_numpy(y).ravel().tolist() == list(range(24))


# ---------------------------------------------------------------------- functions of the user's


def test_lambda_sees_the_users_axes(backend):
    seen = []

    def weigh(xp, x):
        seen.append((x.shape, isinstance(x, backend.array_type), xp is backend.xp))
        return x * xp.arange(3)

    layer = on(Lambda(weigh, lambda xp, dy, x, y: dy * xp.arange(3), data_format="channels_last"), backend, "float32")
    x = draw(2, 3, 4, 5).astype("float32")
    y, dx, _ = run(layer, backend.asarray(x))
    assert seen == [((2, 4, 5, 3), True, True)]
    scale = np.arange(3.0, dtype="float32")[:, None, None]
    assert y.dtype == dx.dtype == np.float32  # though arange(3) makes float64 of them
    np.testing.assert_array_equal(backend.to_numpy(y), x * scale)
    np.testing.assert_array_equal(backend.to_numpy(dx), x * scale * scale)


def test_lambda_without_backward_predicts_and_may_come_first(backend):
    layer = on(Lambda(lambda xp, x: 2 * x, name="double"), backend)
    x = backend.asarray(draw(3, 4))
    y, dx, grads = run(layer, x, need=Need(x=False))
    np.testing.assert_array_equal(backend.to_numpy(y), 2 * backend.to_numpy(x))
    assert dx is None and grads == {}
    with pytest.raises(ConfigError) as caught:
        run(layer, x)
    assert str(caught.value) == (
        "double (Lambda): training what lies before it needs its gradient; give Lambda(function, backward=...) with "
        "backward(xp, dy, x, y) -> dx. Received: no backward"
    )


def test_lambda_of_one_argument(backend):
    """Told from (xp, x) by the arguments that have no default; a ufunc and a builtin tell, too."""
    x = backend.asarray(draw(2, 3))
    host = backend.to_numpy(x)

    def power(x, n=3):
        return x**n

    for function, expected in ((lambda t: t * 2, host * 2), (power, host**3), (abs, abs(host))):
        layer = on(Lambda(function, lambda xp, dy, x, y, *_: 2 * dy), backend)
        assert layer.output_shape((3,)) == (3,)
        y, dx, _ = run(layer, x)
        np.testing.assert_allclose(backend.to_numpy(y), expected, rtol=1e-14)
        np.testing.assert_allclose(backend.to_numpy(dx), 2 * expected, rtol=1e-14)  # run gives y as dy
    y, _ = on(Lambda(lambda xp, t, k=2: xp.exp(k * t)), backend).forward(x, Context())
    np.testing.assert_allclose(backend.to_numpy(y), np.exp(2 * host), rtol=1e-14)
    y, _ = on(Lambda(np.tanh), load("numpy")).forward(host, Context())
    np.testing.assert_array_equal(y, np.tanh(host))


def test_lambda_is_held_to_its_shapes(backend):
    x = backend.asarray(draw(3, 4))
    with pytest.raises(ShapeError, match=r"^Lambda: function must give .* of 3 here. Received: array of shape \(2"):
        run(on(Lambda(lambda xp, x: x[:2]), backend), x)
    with pytest.raises(ShapeError, match=r"^Lambda: backward must give dx in the shape \(3, 4\) of x. Received: None"):
        run(on(Lambda(lambda xp, x: x, lambda xp, dy, x, y: None), backend), x)


# ---------------------------------------------------------------------- fusion


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (2, 6), (3, 4, 6)])
def test_dense_and_relu_in_one_give_what_they_give_one_by_one(backend, dtype, bias, shape):
    weights = {"w": draw(6, 5, seed=1)} | ({"b": draw(5, seed=2)} if bias else {})
    dense, relu = on(Dense(5, use_bias=bias), backend, dtype, **weights), on(ReLU(), backend, dtype)
    fused = DenseReLU(dense)
    fused.backend = backend
    dense.data_format = "channels_last"
    x = draw(4, *shape)
    x = backend.asarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x, dtype)
    with backend.running():
        y, saved = dense.forward(x, Context(train=True))
        y, open_ = relu.forward(y, Context(train=True))
        dy = backend.asarray(draw(*y.shape, seed=3), dtype)
        dx, grads = dense.backward(relu.backward(dy, open_, Need())[0], saved, Need())
    got_y, got_dx, got = run(fused, x, dy)
    close(backend, got_y, backend.to_numpy(y), "sum")
    close(backend, got_dx, backend.to_numpy(dx), "sum")
    assert list(got) == list(grads) == list(weights) and (backend.to_numpy(y) == 0).any()
    for key, gradient in grads.items():
        close(backend, got[key], backend.to_numpy(gradient), "sum", key)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("padding", ["valid", "same", (1, 0, 2, 1)], ids=str)
@pytest.mark.parametrize("pooled", [False, True], ids=["relu", "relu-pool"])
def test_fused_layers_give_what_their_parts_give(backend, dtype, bias, padding, pooled):
    weights = {"w": draw(3, 2, 3, 2, seed=1)} | ({"b": draw(3, seed=2)} if bias else {})
    settings = {} if pooled else {"dilation_rate": (1, 2)}
    conv = on(Conv2D(3, (3, 2), (1, 2), padding, use_bias=bias, **settings), backend, dtype, **weights)
    parts = [conv, on(ReLU(), backend, dtype)]
    if pooled:
        parts.append(on(MaxPool2D(2, 1), backend, dtype))
    fused = ConvReLUMaxPool(conv, parts[2]) if pooled else ConvReLU(conv)
    fused.backend = backend

    x = backend.asarray(draw(4, 2, 6, 7), dtype)
    y, tape = x, []
    with backend.running():
        for part in parts:
            y, saved = part.forward(y, Context(train=True))
            tape.append(saved)
        dy = backend.asarray(draw(*y.shape, seed=3), dtype)
        dx = dy
        for part, saved in zip(reversed(parts), reversed(tape), strict=True):
            dx, grads = part.backward(dx, saved, Need())
    got_y, got_dx, got = run(fused, x, dy)
    close(backend, got_y, backend.to_numpy(y), "sum")
    close(backend, got_dx, backend.to_numpy(dx), "sum")
    assert list(got) == list(grads) == list(weights)
    for key, gradient in grads.items():
        close(backend, got[key], backend.to_numpy(gradient), "sum", key)
