"""What a layer must do as a part of models: gradients that add up, and a file that makes it again."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xconv.backend import Backend
from xconv.layers import Context, Input, Layer
from xconv.models import Model, load
from xconv.plan import Plan, Tape
from xconv.shapes import as_given
from xconv.testing.compare import TOLERANCES, check, close


def check_in_models(
    layer: Layer,
    data_format: str,
    xs: Sequence[np.ndarray],
    weights: dict[str, np.ndarray],
    backend: Backend,
    label: str,
    seed: int,
) -> None:
    """A layer that is used twice, on other numbers each time, and one that was saved and loaded."""
    _check_accumulation(_model(layer, data_format, xs, weights, backend, 2), xs, backend, f"{label}: used twice", seed)
    model = _model(layer, data_format, xs, weights, backend, 1)
    if not model.graph.specs and not getattr(layer, "portable", True):
        return  # nothing of it is in a file
    images = [x.transpose(0, 2, 3, 1) if data_format == "channels_last" and x.ndim == 4 else x for x in xs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        (mine,) = model.layers
        loaded = load(path, backend=backend, custom_layers={str(mine.name): type(mine)})
    same = np.asarray(loaded.predict(images)).tobytes() == np.asarray(model.predict(images)).tobytes()
    check(same, f"{label}: saved and loaded, it predicts other bits")


def _model(
    layer: Layer,
    data_format: str,
    xs: Sequence[np.ndarray],
    weights: dict[str, np.ndarray],
    backend: Backend,
    times: int,
) -> Model:
    layer = copy.copy(layer)
    layer.store, layer.name, layer.data_format = None, "layer", None
    uses = [[Input(as_given(x.shape[1:], data_format), data_format=data_format) for x in xs] for _ in range(times)]
    outputs = [layer(inputs if layer.many_inputs else inputs[0]) for inputs in uses]
    model = Model([tensor for inputs in uses for tensor in inputs], outputs, backend=backend, dtype="float64")
    for name, array in weights.items():
        model.params[f"layer.{name}"] = array
    return model


def _check_accumulation(model: Model, xs: Sequence[np.ndarray], backend: Backend, label: str, seed: int) -> None:
    """Two uses: the gradients are the sums of those of each use by itself."""
    graph = model.graph
    rng = np.random.default_rng(seed)
    dys = [rng.standard_normal((len(xs[0]), *graph.shapes[i])) for i in graph.outputs]
    xs = [*xs, *(rng.standard_normal(x.shape) for x in xs)]

    def gradients(outputs: Sequence[int], dys: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        plan, grads = Plan(graph, backend, outputs=outputs), model._parameters.like()
        tape: Tape = []
        context = Context(True, seed, backend.asarray(np.zeros(1, np.uint64)))
        with backend.running():
            plan.forward([backend.asarray(x) for x in xs], context, tape)
            dxs = plan.backward([backend.asarray(dy) for dy in dys], tape, grads, need_inputs=True)
        found: dict[str, Any] = {f"dx{i}": dx for i, dx in enumerate(dxs)} | dict(grads)
        return {name: np.array(backend.to_numpy(array)) for name, array in found.items() if array is not None}

    alone = [gradients([output], [dy]) for output, dy in zip(graph.outputs, dys, strict=True)]
    for name, both in gradients(graph.outputs, dys).items():
        expected = np.sum([part[name] for part in alone if name in part], axis=0)
        close(both, expected, TOLERANCES["float64"], f"{label}: the sum of {name}")
