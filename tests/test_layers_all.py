"""Every layer against naive references and numerical gradients, on every backend, in both data formats."""

from __future__ import annotations

import numpy as np
import pytest

from tests import standin
from tests.conftest import load
from tests.layer_cases import CASES, name
from xconv import layers
from xconv.backend import Need
from xconv.layers import Context, Layer
from xconv.testing import bind, check_layer

every_case = pytest.mark.parametrize("case", CASES, ids=name)


def inputs(layer, shape, backend, batch=3, dtype="float32"):
    """x as forward takes it, and the parameters as they start."""
    rng = np.random.default_rng(1)
    shapes = [tuple(s) for s in shape] if layer.many_inputs else [tuple(shape)]
    xs = tuple(backend.asarray(rng.standard_normal((batch, *s)), dtype) for s in shapes)
    specs = layer.param_specs(tuple(shapes) if layer.many_inputs else shapes[0])
    weights = {key: spec.initializer(rng, spec.shape) for key, spec in specs.items()}
    return (xs if layer.many_inputs else xs[0]), bind(layer, backend, weights, dtype)


def context(backend, train=True):
    return Context(train, 7, backend.asarray(np.array([2], np.uint64)), 4)


@every_case
def test_layer(case, backend):
    layer, shape, reference = case
    check_layer(layer, shape, reference=reference, backends=("numpy", backend))


def test_every_layer_is_among_the_cases():
    checked = {type(layer) for layer, _, _ in CASES}
    assert checked == {*layers.REGISTRY.values(), layers.Lambda}


def test_the_table_of_kinds_is_whole():
    kinds = {
        value for key in layers.__all__
        if isinstance(value := getattr(layers, key), type) and issubclass(value, Layer) and value is not Layer
    }  # fmt: skip
    assert {*layers.REGISTRY.values(), layers.Lambda} == kinds
    assert all(kind.__name__ == key for key, kind in layers.REGISTRY.items())
    assert layers.MaxPooling2D is layers.MaxPool2D and layers.AveragePooling2D is layers.AvgPool2D


@every_case
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
def test_nothing_is_computed_that_is_not_needed(case, train, backend):
    layer, shape, _ = case
    x, bound = inputs(layer, shape, backend)
    with backend.running():
        y, saved = bound.forward(x, context(backend, train))
        dx, _ = bound.backward(y, saved, Need(x=False))
        assert dx is None
        _, grads = bound.backward(y, saved, Need(params=False))
    assert all(gradient is None for gradient in grads.values())


@every_case
def test_results_are_contiguous(case, backend):
    layer, shape, _ = case
    x, bound = inputs(layer, shape, backend)
    with backend.running():
        y, saved = bound.forward(x, context(backend))
        dx, _ = bound.backward(y, saved, Need())
    for array in (y, *(dx if layer.many_inputs else (dx,))):
        assert array.flags.c_contiguous


@every_case
def test_a_step_can_be_recorded(case):
    """Forward, update and backward touch nothing of the host, and a replay reads what is in memory then."""
    layer, shape, _ = case
    backend = load("cupy")
    x, bound = inputs(layer, shape, backend)
    first = x[0] if layer.many_inputs else x
    given = context(backend)

    def step():
        with backend.running():
            y, saved = bound.forward(x, given)
            bound.update(bound.learnt(saved))
            return y, *_flat(bound.backward(y, saved, Need()))

    launch, results = standin.record(backend, step)
    first *= -0.5
    state = {key: np.array(backend.to_numpy(a)) for key, a in bound.params.items()}
    launch()
    replayed = [np.array(backend.to_numpy(a)) for a in results]
    for key, array in state.items():
        bound.params[key][...] = backend.asarray(array)
    for got, expected in zip(replayed, step(), strict=True):
        np.testing.assert_array_equal(got, backend.to_numpy(expected))


def _flat(gradients):
    dx, params = gradients
    return [*(dx if isinstance(dx, tuple) else (dx,)), *params.values()]
