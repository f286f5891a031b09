"""Parameters and optimizer settings that cannot be are one typed error that says what came, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xconv
from tests.conftest import BACKENDS, load
from tests.mistakes import OnAnotherDevice, message, network, prints
from xconv import Adam, Model, optimizers
from xconv.errors import BackendError, ConfigError, DTypeError, ShapeError, XconvError


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> Model:
    """One network for all mistakes: none may change it."""
    return network(load(request.param))


PARAMETERS: dict[str, tuple[str, Any, type[XconvError], str]] = {
    "shape": (
        "b1",
        np.zeros(3),
        ShapeError,
        "parameter 'b1': expected shape (2,). Received: shape (3,)",
    ),
    "a number": ("b1", 1.0, ShapeError, "parameter 'b1': expected shape (2,). Received: shape ()"),
    "name": (
        "W9",
        np.zeros(2),
        XconvError,
        "no parameter of that name: expected one of ['W1', 'b1', 'W2', 'b2', 'W3', 'b3']. Received: 'W9'",
    ),
    "complex": (
        "b1",
        np.zeros(2, complex),
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: array of shape (2,), dtype complex128",
    ),
    "object": (
        "b1",
        np.array([None, object()]),
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: array of shape (2,), dtype object",
    ),
    "text": (
        "b1",
        ["a", "b"],
        DTypeError,
        "parameter 'b1': expected real numbers (float, int or bool). Received: ['a', 'b'], of which NumPy makes <U1",
    ),
}


@pytest.mark.parametrize("mistake", PARAMETERS)
def test_parameters(model, mistake):
    name, value, kind, text = PARAMETERS[mistake]
    before = prints(model)
    message(kind, text, lambda: model.params.__setitem__(name, value))
    assert prints(model) == before


def test_a_parameter_from_a_gpu_on_the_cpu():
    for name in ("numpy", "numba"):
        model = network(load(name))
        before = prints(model)
        message(
            BackendError,
            "parameter 'b1': expected a NumPy array. Received: array of shape (2,), dtype float32 on a GPU; call its "
            ".get(), or move the model there with model.to('cupy')",
            lambda model=model: model.params.__setitem__("b1", OnAnotherDevice((2,))),
        )
        assert prints(model) == before


def test_parameters_stay(model):
    before = prints(model)
    message(
        XconvError,
        "a model's parameters cannot be deleted. Received: del params['W1']",
        lambda: model.params.__delitem__("W1"),
    )
    with pytest.raises(XconvError, match="cannot be deleted"):
        model.params.clear()
    assert list(model.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert prints(model) == before


OPTIMIZERS: dict[str, tuple[Callable[[], object], str]] = {
    "name": (
        lambda: optimizers.get("lion"),
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw. Received: 'lion'",
    ),
    "no name": (
        lambda: optimizers.get(None),
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw. Received: None",
    ),
    "setting": (
        lambda: optimizers.get("sgd", beta=1),
        "SGD: no such argument: expected lr, momentum, nesterov, clipvalue, clipnorm, global_clipnorm. Received: beta",
    ),
    "lr negative": (lambda: xconv.SGD(-0.1), "SGD: lr must be a number >= 0 or a Schedule. Received: -0.1"),
    "lr NaN": (lambda: xconv.AdaGrad(float("nan")), "AdaGrad: lr must be a number >= 0 or a Schedule. Received: nan"),
    "lr infinite": (lambda: xconv.Adam(float("inf")), "Adam: lr must be a number >= 0 or a Schedule. Received: inf"),
    "lr of text": (lambda: xconv.Adam("1e-3"), "Adam: lr must be a number >= 0 or a Schedule. Received: '1e-3'"),
    "momentum 1": (
        lambda: xconv.Momentum(momentum=1),
        "Momentum: momentum must be a number from 0 to below 1. Received: 1",
    ),
    "beta2": (lambda: xconv.Adam(beta2=1.5), "Adam: beta2 must be a number from 0 to below 1. Received: 1.5"),
}


@pytest.mark.parametrize("mistake", OPTIMIZERS)
def test_optimizers(mistake):
    act, text = OPTIMIZERS[mistake]
    message(ConfigError, text, act)


def test_a_learning_rate_that_cannot_be_leaves_the_one_there_was():
    optimizer = Adam(0.5)
    message(
        ConfigError, "Adam: lr must be a number >= 0 or a Schedule. Received: -1", lambda: setattr(optimizer, "lr", -1)
    )
    assert optimizer.lr == 0.5
