"""Checks of layers, in float64 against numerical gradients and across backends."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import numpy as np

from xconv import streams
from xconv.backend import Backend, Need, get_backend
from xconv.layers import Context, Layer
from xconv.testing.compare import TOLERANCES, check, close, numerical_gradient

GRADIENT_TOLERANCE = 1e-6  # analytical against numerical gradient, in float64


def check_layer(
    layer: Layer,
    in_shape: tuple[int, ...],
    *,
    backends: Sequence[str | Backend] = ("numpy", "numba"),
    batch: int = 3,
    seed: int = 0,
) -> None:
    """Everything xconv relies on in a layer with inputs x[N, *in_shape].

    Output shape as declared; gradients of x and of every parameter equal to numerical ones in float64; the same results
    on all `backends`, in float64 and float32; no input, dy or saved value written; the same bits when asked again; one
    example alone gives what it gives in a batch; `need` obeyed; `config` plain JSON.
    """
    label = type(layer).__name__
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *in_shape))
    out_shape = tuple(layer.output_shape(tuple(in_shape)))
    dy = rng.standard_normal((batch, *out_shape))
    weights = _weights(layer, in_shape, seed)
    json.dumps(layer.config())

    first = get_backend(backends[0])
    expected = _run(layer, first, weights, x, dy, "float64", label)
    check(expected["y"].shape == dy.shape, f"{label}: y has shape {expected['y'].shape}, declared {dy.shape}")
    _check_gradients(layer, first, weights, x, dy, expected, label)
    _check_single(layer, first, weights, x, expected["y"], label)
    for dtype, tolerance in (("float64", TOLERANCES["float64"]), ("float32", TOLERANCES["float32"])):
        for backend in map(get_backend, backends):
            got = _run(layer, backend, weights, x, dy, dtype, f"{label} on {backend.name}, {dtype}")
            for name, reference in expected.items():
                close(got[name], reference, tolerance, f"{label} on {backend.name}, {dtype}: {name}")


def bind(layer: Layer, backend: Backend, weights: dict[str, np.ndarray], dtype: str) -> Layer:
    """A copy of the layer on a backend, with the given parameters."""
    bound = copy.copy(layer)
    bound.backend = backend
    bound.params = {name: backend.asarray(array, dtype) for name, array in weights.items()}
    return bound


def _weights(layer: Layer, in_shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Random values in place of the layer's own first ones, of which some are zero."""
    specs = layer.param_specs(tuple(in_shape))
    return {
        name: 0.5 * streams.weights(seed, 0, index).standard_normal(spec.shape)
        for index, (name, spec) in enumerate(specs.items())
    }


def _run(
    layer: Layer, backend: Backend, weights: dict[str, np.ndarray], x: np.ndarray, dy: np.ndarray, dtype: str, what: str
) -> dict[str, np.ndarray]:
    """y, dx and the gradient of each parameter, having checked that nothing given was written and bits repeat."""
    bound = bind(layer, backend, weights, dtype)
    given = {"x": backend.asarray(x, dtype), "dy": backend.asarray(dy, dtype), **bound.params}
    before = {name: backend.to_numpy(array).tobytes() for name, array in given.items()}
    results = []
    for _ in range(2):
        with backend.running():
            y, saved = bound.forward(given["x"], Context(train=True))
            kept = np.array(backend.to_numpy(y))
            dx, dparams = bound.backward(given["dy"], saved, Need())
        check(np.array_equal(backend.to_numpy(y), kept, equal_nan=True), f"{what}: backward writes into y")
        check(dx is not None, f"{what}: backward gives no dx")
        check(set(dparams) == set(weights), f"{what}: gradients of {sorted(dparams)}, parameters {sorted(weights)}")
        arrays = {"y": y, "dx": dx, **{f"d{name}": array for name, array in dparams.items()}}
        for name, array in arrays.items():
            check(isinstance(array, backend.array_type), f"{what}: {name} is {type(array).__name__}")
            check(array.dtype == np.dtype(dtype), f"{what}: {name} is {array.dtype}, expected {dtype}")
        results.append({name: np.array(backend.to_numpy(array)) for name, array in arrays.items()})
    for name, array in given.items():
        check(backend.to_numpy(array).tobytes() == before[name], f"{what}: {name} was written to")
    for name, array in results[0].items():
        check(array.tobytes() == results[1][name].tobytes(), f"{what}: {name} differs when computed again")
    with backend.running():
        _, saved = bound.forward(given["x"], Context(train=True))
        _, dparams = bound.backward(given["dy"], saved, Need(x=False))
    for name, array in dparams.items():
        same = np.array_equal(backend.to_numpy(array), results[0][f"d{name}"], equal_nan=True)
        check(same, f"{what}: d{name} depends on whether dx is needed")
    return results[0]


def _check_gradients(
    layer: Layer,
    backend: Backend,
    weights: dict[str, np.ndarray],
    x: np.ndarray,
    dy: np.ndarray,
    got: dict[str, np.ndarray],
    label: str,
) -> None:
    """d sum(y dy) / d each number, by central differences."""

    def value(x: np.ndarray, weights: dict[str, np.ndarray]) -> float:
        bound = bind(layer, backend, weights, "float64")
        with backend.running():
            y, _ = bound.forward(backend.asarray(x), Context(train=True))
        return float((backend.to_numpy(y) * dy).sum())

    close(got["dx"], numerical_gradient(lambda a: value(a, weights), x), GRADIENT_TOLERANCE, f"{label}: dx, numerical")
    for name, w in weights.items():

        def of_parameter(array: np.ndarray, name: str = name) -> float:
            return value(x, {**weights, name: array})

        numerical = numerical_gradient(of_parameter, w)
        close(got[f"d{name}"], numerical, GRADIENT_TOLERANCE, f"{label}: d{name}, numerical")


def _check_single(
    layer: Layer, backend: Backend, weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, label: str
) -> None:
    bound = bind(layer, backend, weights, "float64")
    with backend.running():
        batch, _ = bound.forward(backend.asarray(x), Context())
        alone, _ = bound.forward(backend.asarray(x[:1]), Context())
    batch, alone = backend.to_numpy(batch), backend.to_numpy(alone)
    close(alone, batch[:1], TOLERANCES["float64"], f"{label}: one example alone")
