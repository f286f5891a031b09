"""Random networks in xconv."""

from __future__ import annotations

from typing import Any

import numpy as np

import xconv
from tests.random_networks.description import Network, Node, Results
from xconv import layers, losses
from xconv.backend import Backend
from xconv.layers import Context
from xconv.plan import Tape


class Linear(losses.Loss):
    """sum y t: its gradient is whatever is given as t."""

    name = "linear"

    def __call__(self, backend: Backend, y: Any, t: Any, weights: Any = None) -> tuple[Any, Any]:
        t = t.astype(y.dtype, copy=False)
        return (y * t).reshape(-1).sum(keepdims=True), t


LOSSES = {
    "linear": Linear(),
    "mse": "mean_squared_error",
    "categorical": "categorical_crossentropy",
    "soft": losses.CategoricalCrossentropy(),
    "smoothed": losses.CategoricalCrossentropy(label_smoothing=0.1),
    "sparse": "sparse_categorical_crossentropy",
    "sparse of logits": losses.SparseCategoricalCrossentropy(from_logits=True),
    "binary": "binary_crossentropy",
}
# Name -> y, dx.
LAMBDAS: dict[str, tuple[Any, Any]] = {
    "square": (lambda xp, x: x * x, lambda xp, dy, x, y: 2.0 * x * dy),
    "bell": (lambda xp, x: xp.exp(-x * x), lambda xp, dy, x, y: -2.0 * x * y * dy),
    "centre": (
        lambda xp, x: x - x.mean(axis=-1, keepdims=True),
        lambda xp, dy, x, y: dy - dy.mean(axis=-1, keepdims=True),
    ),
    "flip": (lambda xp, x: x[:, ::-1], lambda xp, dy, x, y: dy[:, ::-1]),
    "total": (lambda xp, x: x.sum(axis=-1, keepdims=True), lambda xp, dy, x, y: xp.broadcast_to(dy, x.shape)),
}


def layer_of(node: Node) -> layers.Layer:
    """The layer that a node asks for."""
    if node.kind == "Lambda":
        function, backward = LAMBDAS[node.arguments["function"]]
        return layers.Lambda(function, backward, name=node.layer)
    return getattr(layers, node.kind)(**node.arguments, name=node.layer)


def build(network: Network, backend: str | Backend, dtype: str, *, fuse: bool = True) -> xconv.Model:
    """The network with its weights, ready to be asked for gradients."""
    inputs = [xconv.Input(shape, data_format=network.data_format) for shape in network.inputs]
    values: list[Any] = list(inputs)
    made: dict[str, layers.Layer] = {}
    for node in network.nodes:
        layer = made.setdefault(node.layer, layer_of(node))
        sources = [values[source] for source in node.sources]
        values.append(layer(sources if layer.many_inputs else sources[0]))
        assert values[-1].shape == (None, *node.shape), f"{network}: {node}: xconv has the shape {values[-1].shape}"
    outputs = [values[out.value] for out in network.outputs]
    model = xconv.Model(inputs, outputs, backend=backend, dtype=dtype, seed=network.dropout_seed, fuse=fuse)
    for name, values_of in network.weights(model.params.shapes).items():
        model.params[name] = values_of
    model.compile(
        "sgd", [LOSSES[out.loss] for out in network.outputs], loss_weights=[out.weight for out in network.outputs]
    )
    return model


def run(network: Network, model: xconv.Model) -> Results:
    """Everything the network gives, on the host. The gradients of weights are those of the public `model.gradient`."""
    backend, (xs, ts) = model.backend, network.examples()
    predicted = model.predict(xs)
    public = model.gradient(xs, ts if len(ts) > 1 else ts[0])
    with backend.running():
        here = model._enter(model._here(xs))
        ctx = Context(train=True, seed=model.seed, step=model._steps)
        trained = [model._leave(y) for y in model._plan().forward(here, ctx)]
        tape: Tape = []
        plan, grads = model._loss_plan(), model.params.like()
        ys = [model._leave(y) for y in plan.forward(here, ctx, tape)]
        labels = [backend.asarray(t) for t in model._targets(ts if len(ts) > 1 else ts[0], network.batch, "test")]
        values, dys = model._judged(ys, labels, None)
        dxs = plan.backward([model._leave(dy, back=True) for dy in dys], tape, grads, need_inputs=True)
        dxs = [model._leave(dx) for dx in dxs]
    for name in grads.fixed:
        assert not backend.to_numpy(public[name]).any(), f"{network}: {name} is fixed and has a gradient"
    return Results(
        predicted if isinstance(predicted, list) else [predicted],
        [backend.to_numpy(y) for y in trained],
        float(backend.to_numpy(values[0])[0]),
        {name: g for name, g in public.to_numpy().items() if name not in grads.fixed},
        [backend.to_numpy(dx) for dx in dxs],
    )


def weights_of(model: xconv.Model) -> tuple[dict[str, np.ndarray], frozenset[str]]:
    """(all parameters, the names of those that no gradient changes), for another library."""
    return model.params.to_numpy(), model.params.fixed
