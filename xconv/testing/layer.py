"""Checks of layers: numerical gradients in float64, naive references, equality across backends."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xconv import streams
from xconv.backend import Array, Backend, Need, get_backend
from xconv.layers import Context, Layer
from xconv.layers.base import backward_pair, forward_pair
from xconv.shapes import DATA_FORMATS
from xconv.testing.compare import TOLERANCES, check, close, numerical_gradient
from xconv.testing.in_model import check_in_models

GRADIENT_TOLERANCE = 1e-6  # analytical against numerical gradient, in float64
Reference = Callable[[Any, dict[str, np.ndarray], bool], np.ndarray]


def check_layer(
    layer: Layer,
    in_shape: Any,
    *,
    reference: Reference | None = None,
    backends: Sequence[str | Backend] = ("numpy", "numba"),
    batch: int = 3,
    seed: int = 0,
) -> None:
    """Everything xconv relies on in a layer with inputs x[N, *in_shape], in training and in inference.

    Output shape as declared; y equal to `reference(x, params, train)` where given, a naive program of yours in float64;
    gradients of x and of every trainable parameter equal to numerical ones in float64; the same results, and the same
    state after `update`, on all `backends` in float64 and float32; no x, dy, parameter or saved value written; the same
    bits when asked again, whatever else is needed, of a layer made again from its `config`, and of a model saved and
    loaded; the gradients of a layer that is used twice add up; one example alone gives in inference what it gives in a
    batch.

    Shapes and images are as layers see them, (C, H, W). A layer that merges is given a list of shapes, its reference a
    tuple of arrays. A layer without a `data_format` must do the same to images in both; check one that depends on it,
    as Flatten does, with each of data_format="channels_first" and "channels_last".
    """
    shapes = [tuple(shape) for shape in (in_shape if layer.many_inputs else [in_shape])]
    if layer.data_format is not None:
        _check(_Trial.of(layer, layer.data_format, shapes, batch, seed), reference, backends)
        return
    trials = [_Trial.of(layer, data_format, shapes, batch, seed) for data_format in DATA_FORMATS]
    _check(trials[1], reference, backends)
    if any(len(shape) == 3 for shape in [*shapes, trials[1].out_shape]):
        _check_formats(trials, get_backend(backends[0]))


def bind(layer: Layer, backend: Backend, weights: dict[str, np.ndarray], dtype: str) -> Layer:
    """A copy of the layer on a backend, with copies of the given parameters."""
    bound = copy.copy(layer)
    bound.backend = backend
    bound.params = {name: backend.asarray(np.array(array), dtype) for name, array in weights.items()}
    return bound


@dataclass(frozen=True)
class _Trial:
    """A layer in a model of one data format, with the numbers it is tried on."""

    layer: Layer
    label: str
    xs: list[np.ndarray]
    dy: np.ndarray
    out_shape: tuple[int, ...]
    weights: dict[str, np.ndarray]
    trained: list[str]
    seed: int

    @classmethod
    def of(cls, layer: Layer, data_format: str, shapes: list[tuple[int, ...]], batch: int, seed: int) -> _Trial:
        layer = copy.copy(layer)
        layer.data_format = data_format
        rng = np.random.default_rng(seed)
        xs = [rng.standard_normal((batch, *shape)) for shape in shapes]
        given = tuple(shapes) if layer.many_inputs else shapes[0]
        out_shape = tuple(layer.output_shape(given))
        specs = layer.param_specs(given)
        # Not the layer's own first values, of which some are zero. What is not trained may be a variance: above zero.
        weights = {}
        for index, (name, spec) in enumerate(specs.items()):
            drawn = 0.5 * streams.weights(seed, 0, index).standard_normal(spec.shape)
            weights[name] = drawn if spec.trainable else np.abs(drawn) + 0.5
        trained = [name for name, spec in specs.items() if spec.trainable]
        dy = rng.standard_normal((batch, *out_shape))
        return cls(layer, type(layer).__name__, xs, dy, out_shape, weights, trained, seed)

    def given(self, arrays: Sequence[Array]) -> Any:
        """As forward takes them."""
        return tuple(arrays) if self.layer.many_inputs else arrays[0]

    def context(self, backend: Backend, train: bool) -> Context:
        return Context(train, self.seed, backend.asarray(np.array([5], np.uint64)), 3)

    def forward(self, backend: Backend, xs: Sequence[np.ndarray], weights: dict[str, np.ndarray], train: bool) -> Any:
        """y in float64."""
        bound = bind(self.layer, backend, weights, "float64")
        with backend.running():
            y, _ = bound.forward(self.given([backend.asarray(x) for x in xs]), self.context(backend, train))
        return backend.to_numpy(y)


def _check(trial: _Trial, reference: Reference | None, backends: Sequence[str | Backend]) -> None:
    first = get_backend(backends[0])
    for train in (True, False):
        label = f"{trial.label}, {'training' if train else 'inference'}"
        expected = _results(trial, first, train, "float64", label)
        check(
            expected["y"].shape == trial.dy.shape,
            f"{label}: y has shape {expected['y'].shape}, declared {trial.dy.shape}",
        )
        if reference is not None:
            right = reference(trial.given(trial.xs), dict(trial.weights), train)
            close(expected["y"], np.asarray(right), TOLERANCES["float64"], f"{label}: y against the reference")
        _check_gradients(trial, first, train, expected, label)
        _check_config(trial, first, train, expected["y"], label)
        for dtype, tolerance in reversed(TOLERANCES.items()):
            for backend in map(get_backend, backends):
                what = f"{label}, on {backend.name}, {dtype}"
                got = _results(trial, backend, train, dtype, what)
                for name, array in expected.items():
                    close(got[name], array, tolerance, f"{what}: {name}")
    _check_single(trial, first)
    formatted = str(trial.layer.data_format)
    check_in_models(trial.layer, formatted, trial.xs, trial.weights, first, trial.label, trial.seed)


def _results(trial: _Trial, backend: Backend, train: bool, dtype: str, what: str) -> dict[str, np.ndarray]:
    """y, each dx, each gradient and each new state; nothing given may be written, and bits must repeat."""
    bound = bind(trial.layer, backend, trial.weights, dtype)
    xs, dy = [backend.asarray(x, dtype) for x in trial.xs], backend.asarray(trial.dy, dtype)
    names = [f"x{i}" if bound.many_inputs else "x" for i in range(len(xs))]
    given = {**dict(zip(names, xs, strict=True)), "dy": dy, **bound.params}
    before = {name: backend.to_numpy(array).tobytes() for name, array in given.items()}
    context = trial.context(backend, train)

    def backward(saved: Any, need: Need) -> dict[str, np.ndarray]:
        with backend.running():
            dx, dparams = backward_pair(bound, bound.backward(dy, saved, need))
        arrays = {f"d{name}": array for name, array in dparams.items()} if need.params else {}
        if need.x:
            check(dx is not None, f"{what}: backward gives no dx")
            parts = dx if bound.many_inputs else (dx,)
            check(len(parts) == len(xs), f"{what}: {len(parts)} dx for {len(xs)} inputs")
            arrays |= {f"d{name}": part for name, part in zip(names, parts, strict=True)}
        return _on_host(arrays, backend, dtype, what)

    runs = []
    for _ in range(2):
        with backend.running():
            y, saved = forward_pair(bound, bound.forward(trial.given(xs), context))
        run = _on_host({"y": y}, backend, dtype, what)
        run |= backward(saved, Need())
        again = backward(saved, Need())
        check(_same(run, again), f"{what}: backward writes what forward saved, or differs when computed again")
        check(_same(run, _on_host({"y": y}, backend, dtype, what)), f"{what}: backward writes into y")
        runs.append(run)
    named = {name for name in runs[0] if name != "y" and not name.startswith("dx")}
    wanted = {f"d{name}" for name in trial.trained}
    check(named == wanted, f"{what}: expected the gradients {sorted(wanted)}, not {sorted(named)}")
    for name, array in given.items():
        check(backend.to_numpy(array).tobytes() == before[name], f"{what}: {name} was written to")
    check(_same(*runs), f"{what}: y or a gradient differs when computed again")
    for need in (Need(x=False), Need(params=False)):
        check(_same(backward(saved, need), runs[0]), f"{what}: a gradient depends on what else is needed")
    if train:
        with backend.running():
            bound.update(bound.learnt(saved))
        after = _on_host(bound.params, backend, dtype, what)
        for name in trial.trained:
            check(after[name].tobytes() == before[name], f"{what}: update changes {name}, which gradients train")
        runs[0] |= {f"state {name}": array for name, array in after.items() if name not in trial.trained}
    return runs[0]


def _on_host(arrays: dict[str, Array], backend: Backend, dtype: str, what: str) -> dict[str, np.ndarray]:
    for name, array in arrays.items():
        check(isinstance(array, backend.array_type), f"{what}: {name} is {type(array).__name__}")
        check(array.dtype == np.dtype(dtype), f"{what}: {name} is {array.dtype}, expected {dtype}")
    return {name: np.array(backend.to_numpy(array)) for name, array in arrays.items()}


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """The same bits under all names that both have."""
    return all(one[name].tobytes() == other[name].tobytes() for name in one.keys() & other.keys())


def _check_gradients(trial: _Trial, backend: Backend, train: bool, got: dict[str, np.ndarray], label: str) -> None:
    """d sum(y dy) / d each number, by central differences."""

    def value(xs: list[np.ndarray], weights: dict[str, np.ndarray]) -> float:
        return float((trial.forward(backend, xs, weights, train) * trial.dy).sum())

    def agree(name: str, f: Callable[[np.ndarray], float], at: np.ndarray) -> None:
        close(got[name], numerical_gradient(f, at), GRADIENT_TOLERANCE, f"{label}: {name}, numerical")

    for i, x in enumerate(trial.xs):
        name = f"dx{i}" if trial.layer.many_inputs else "dx"
        agree(name, lambda a, i=i: value([*trial.xs[:i], a, *trial.xs[i + 1 :]], trial.weights), x)  # type: ignore[misc]
    for name in trial.trained:
        agree(f"d{name}", lambda a, n=name: value(trial.xs, {**trial.weights, n: a}), trial.weights[name])  # type: ignore[misc]


def _check_config(trial: _Trial, backend: Backend, train: bool, y: np.ndarray, label: str) -> None:
    """A layer that is made again from its config, by way of JSON, gives the same bits."""
    if not getattr(trial.layer, "portable", True):
        return
    config = json.loads(json.dumps(trial.layer.config()))
    try:
        twin = type(trial.layer)(**config)
    except TypeError as error:
        raise AssertionError(f"{label}: its config {config} does not make it again: {error}") from error
    twin.data_format, twin.trainable = trial.layer.data_format, trial.layer.trainable
    check(json.loads(json.dumps(twin.config())) == config, f"{label}: made again, it has another config than {config}")
    bound = bind(twin, backend, trial.weights, "float64")
    with backend.running():
        again, _ = bound.forward(trial.given([backend.asarray(x) for x in trial.xs]), trial.context(backend, train))
    check(_same({"y": backend.to_numpy(again)}, {"y": y}), f"{label}: made again from its config, it gives another y")


def _check_formats(trials: list[_Trial], backend: Backend) -> None:
    """Images are the same inside, whatever the user sees."""
    label = trials[0].label
    meant = "; where that is meant, check it with data_format='channels_last' and with 'channels_first'"
    shapes = [(trial.out_shape, {name: w.shape for name, w in trial.weights.items()}) for trial in trials]
    check(shapes[0] == shapes[1], f"{label}: other shapes in a channels_last model{meant}")
    for train in (True, False):
        last, first = (_results(trial, backend, train, "float64", label) for trial in trials)
        check(_same(last, first), f"{label}: other results in a channels_last model{meant}")


def _check_single(trial: _Trial, backend: Backend) -> None:
    batch = trial.forward(backend, trial.xs, trial.weights, False)
    alone = trial.forward(backend, [x[:1] for x in trial.xs], trial.weights, False)
    close(alone, batch[:1], TOLERANCES["float64"], f"{trial.label}: one example alone")
