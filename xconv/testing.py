"""Checks for layers and backends of your own: `check_layer(MyLayer(), (3, 8, 8))`, `check_backend(MyBackend())`.

Each raises AssertionError with what was measured and what is allowed. Needs no test framework.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xconv import checks, streams
from xconv.backend import Array, Backend, Need, get_backend
from xconv.layers import Context, Layer

# Largest difference over the largest entry of the reference.
TOLERANCES = {"float32": 2e-5, "float64": 1e-11}
GRADIENT_TOLERANCE = 1e-6  # analytical against numerical gradient, in float64
STEP = 1e-5  # of the numerical gradient


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
    _assert(expected["y"].shape == dy.shape, f"{label}: y has shape {expected['y'].shape}, declared {dy.shape}")
    _check_gradients(layer, first, weights, x, dy, expected, label)
    _check_single(layer, first, weights, x, expected["y"], label)
    for dtype, tolerance in (("float64", TOLERANCES["float64"]), ("float32", TOLERANCES["float32"])):
        for backend in map(get_backend, backends):
            got = _run(layer, backend, weights, x, dy, dtype, f"{label} on {backend.name}, {dtype}")
            for name, reference in expected.items():
                _close(got[name], reference, tolerance, f"{label} on {backend.name}, {dtype}: {name}")


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
        _assert(np.array_equal(backend.to_numpy(y), kept, equal_nan=True), f"{what}: backward writes into y")
        _assert(dx is not None, f"{what}: backward gives no dx")
        _assert(set(dparams) == set(weights), f"{what}: gradients of {sorted(dparams)}, parameters {sorted(weights)}")
        arrays = {"y": y, "dx": dx, **{f"d{name}": array for name, array in dparams.items()}}
        for name, array in arrays.items():
            _assert(isinstance(array, backend.array_type), f"{what}: {name} is {type(array).__name__}")
            _assert(array.dtype == np.dtype(dtype), f"{what}: {name} is {array.dtype}, expected {dtype}")
        results.append({name: np.array(backend.to_numpy(array)) for name, array in arrays.items()})
    for name, array in given.items():
        _assert(backend.to_numpy(array).tobytes() == before[name], f"{what}: {name} was written to")
    for name, array in results[0].items():
        _assert(array.tobytes() == results[1][name].tobytes(), f"{what}: {name} differs when computed again")
    with backend.running():
        _, saved = bound.forward(given["x"], Context(train=True))
        _, dparams = bound.backward(given["dy"], saved, Need(x=False))
    for name, array in dparams.items():
        same = np.array_equal(backend.to_numpy(array), results[0][f"d{name}"], equal_nan=True)
        _assert(same, f"{what}: d{name} depends on whether dx is needed")
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

    _close(got["dx"], numerical_gradient(lambda a: value(a, weights), x), GRADIENT_TOLERANCE, f"{label}: dx, numerical")
    for name, w in weights.items():

        def of_parameter(array: np.ndarray, name: str = name) -> float:
            return value(x, {**weights, name: array})

        numerical = numerical_gradient(of_parameter, w)
        _close(got[f"d{name}"], numerical, GRADIENT_TOLERANCE, f"{label}: d{name}, numerical")


def _check_single(
    layer: Layer, backend: Backend, weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, label: str
) -> None:
    bound = bind(layer, backend, weights, "float64")
    with backend.running():
        batch, _ = bound.forward(backend.asarray(x), Context())
        alone, _ = bound.forward(backend.asarray(x[:1]), Context())
    batch, alone = backend.to_numpy(batch), backend.to_numpy(alone)
    _close(alone, batch[:1], TOLERANCES["float64"], f"{label}: one example alone")


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = STEP) -> np.ndarray:
    """(f(x + h) - f(x - h)) / 2h for each entry of x."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        above = f(x)
        x[i] = kept - h
        gradient[i] = (above - f(x)) / (2 * h)
        x[i] = kept
    return gradient


# ---------------------------------------------------------------------- backends

_WINDOWS: list[tuple[tuple[int, ...], Any, Any, Any, Any]] = [  # x shape, kernel, stride, pads, dilation
    ((2, 1, 6, 6), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 3, 5, 8), (2, 3), (2, 1), (1, 0, 1, 2), (1, 1)),
    ((3, 2, 9, 7), (3, 2), (1, 2), (1, 1, 1, 0), (2, 1)),
    ((2, 2, 4, 4), (4, 4), (1, 1), (0, 0, 0, 0), (1, 1)),
]


def check_backend(backend: Backend | str) -> None:
    """Every operation of a backend against the plain definitions, and its methods against theirs.

    The same names, parameters and defaults; results of the same shape and dtype, C-contiguous, on this backend, within
    TOLERANCES of the largest entry; inputs left alone; the same bits when asked again.
    """
    mine, plain = get_backend(backend), Backend()
    _check_signatures(mine)
    for dtype in checks.DTYPES:
        for operation, args in _calls(dtype):
            _check_call(mine, plain, operation, args, dtype)


def _check_signatures(backend: Backend) -> None:
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if name.startswith("_"):
            continue
        mine = [(p.name, p.default) for p in inspect.signature(getattr(type(backend), name)).parameters.values()]
        base = [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
        _assert(mine == base, f"{backend.name}.{name} takes {mine}, the interface says {base}")


def _calls(dtype: str) -> list[tuple[str, tuple[Any, ...]]]:
    """(operation, arguments), host arrays standing for the backend's."""
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    calls: list[tuple[str, tuple[Any, ...]]] = []
    for shape, kernel, stride, pads, dilation in _WINDOWS:
        x = draw(*shape)
        calls.append(("im2col", (x, kernel, stride, pads, dilation)))
        col = Backend().im2col(x, kernel, stride, pads, dilation)
        calls.append(("col2im", (draw(*col.shape), shape, kernel, stride, pads, dilation)))
        for activation in (None, "relu"):
            weights = draw(4, shape[1], *kernel), draw(4)
            calls.append(("conv2d", (x, *weights, stride, pads, dilation, activation)))
        if max(pads) < min(kernel):
            ties = np.round(2 * x)
            ties.flat[::17] = np.nan
            for values in (x, ties):
                calls.append(("max_pool", (values, kernel, stride, pads)))
            y, argmax = Backend().max_pool(x, kernel, stride, pads)
            calls.append(("max_pool_backward", (draw(*y.shape), argmax, shape, kernel, stride, pads)))
            calls.append(("avg_pool", (x, kernel, stride, pads)))
            calls.append(("avg_pool_backward", (draw(*y.shape), shape, kernel, stride, pads)))
        if dilation == (1, 1) and kernel != (4, 4):
            args = x, draw(4, shape[1], *kernel), draw(4), stride, pads, (2, 2), (2, 2)
            calls.append(("conv2d_relu_max_pool", args))
    x, w, b = draw(5, 7), draw(7, 3), draw(3)
    calls += [("matmul", (x, w)), ("dense", (x, w, b)), ("dense_backward", (draw(5, 3), x, w))]
    calls += [("relu", (x,)), ("relu_backward", (draw(5, 7), x))]
    calls += [("softmax_cross_entropy", (draw(6, 4), np.array([0, 3, 1, 2, 2, 0])))]
    hyper, p, g, s = np.array([0.1, 3.0]), draw(1000), draw(1000), np.abs(draw(1000))
    calls += [("sgd", (p, g, hyper)), ("momentum", (p, g, s, hyper, 0.9, False))]
    calls += [("momentum", (p, g, s, hyper, 0.9, True)), ("adagrad", (p, g, s, hyper, 1e-7))]
    calls += [("rmsprop", (p, g, s, hyper, 0.9, 1e-7)), ("adam", (p, g, draw(1000), s, hyper, 0.9, 0.999, 1e-7))]
    return calls


def _check_call(mine: Backend, plain: Backend, operation: str, args: tuple[Any, ...], dtype: str) -> None:
    what = f"{operation} on {mine.name}, {dtype}"
    tolerance = TOLERANCES[dtype]
    runs = []
    for backend in (plain, mine, mine):
        given = [backend.asarray(np.array(a)) if isinstance(a, np.ndarray) else a for a in args]
        before = [np.array(backend.to_numpy(a)) for a in given if isinstance(a, backend.array_type)]
        with backend.running(), np.errstate(all="ignore"):
            result = getattr(backend, operation)(*given)
            arrays = _arrays(result, backend)
            if operation in ("conv2d", "conv2d_relu_max_pool"):
                y, saved = result
                dy = backend.asarray(np.cos(np.arange(y.size)).reshape(y.shape), dtype)
                arrays = [y, *getattr(backend, f"{operation}_backward")(dy, saved, Need())]
        after = [np.array(backend.to_numpy(a)) for a in given if isinstance(a, backend.array_type)]
        if result is None:  # an optimizer: its first arrays are what changes
            arrays = [a for a in given if isinstance(a, backend.array_type)]
        else:
            for old, new in zip(before, after, strict=True):
                _assert(old.tobytes() == new.tobytes(), f"{what}: an input was written to")
        for array in arrays:
            _assert(bool(array.flags.c_contiguous), f"{what}: a result is not C-contiguous")
        runs.append([np.array(backend.to_numpy(a)) for a in arrays])
    _assert(len(runs[0]) == len(runs[1]), f"{what}: {len(runs[1])} results, expected {len(runs[0])}")
    for reference, got, again in zip(*runs, strict=True):
        _assert(got.dtype == reference.dtype, f"{what}: dtype {got.dtype}, expected {reference.dtype}")
        _assert(got.tobytes() == again.tobytes(), f"{what}: differs when computed again")
        _close(got, reference, tolerance, what)


def _arrays(result: Any, backend: Backend) -> list[Array]:
    results = result if isinstance(result, tuple) else (result,)
    return [a for a in results if isinstance(a, backend.array_type)]


def _close(got: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    _assert(got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}")
    _assert(np.array_equal(np.isnan(got), np.isnan(expected)), f"{what}: NaN in other places")
    there = ~np.isnan(expected)
    scale = max(np.abs(expected[there]).max(initial=0.0), 1e-30)
    far = np.abs(got[there].astype(np.float64) - expected[there]).max(initial=0.0) / scale
    _assert(far <= tolerance, f"{what}: off by {far:.3g} of the largest entry, allowed {tolerance:g}")


def _assert(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
