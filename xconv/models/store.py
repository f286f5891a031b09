"""Where the parameters of a model's layers lie: one flat buffer, which models that share layers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from xconv import streams
from xconv.backend import Backend
from xconv.errors import ConfigError
from xconv.graph import Graph
from xconv.layers import Layer
from xconv.parameters import Parameters


class Store:
    """Parameters with the layers whose views they are. Moving it moves every model that uses one of these layers."""

    def __init__(self, parameters: Parameters, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        self._point_at(parameters)

    @property
    def backend(self) -> Backend:
        """Where the parameters are."""
        return self.parameters.backend

    def to(self, backend: Backend) -> None:
        """Move, in place."""
        if backend is not self.backend:
            self._point_at(self.parameters.to(backend))

    def _point_at(self, parameters: Parameters) -> None:
        self.parameters = parameters
        views: dict[str, dict[str, object]] = {layer.name or "": {} for layer in self.layers}
        for key, view in parameters.items():
            layer_name, _, name = key.rpartition(".")
            views[layer_name][name] = view
        for layer in self.layers:
            layer.backend, layer.params, layer.store = parameters.backend, views[layer.name or ""], self


def store_of(graph: Graph, backend: Backend, dtype: str, seed: int) -> Store:
    """The store of the graph's layers: the one they already share, or a new one.

    In a new one, layers that were used in another model keep their values, and take that model along; the others get
    their first ones, drawn by seed and place in the graph, the same on every backend.
    """
    layers = list(dict.fromkeys(node.layer for node in graph.nodes))
    owners = graph.owners
    stores = {id(layer.store): layer.store for layer in owners}
    if owners and len(stores) == 1 and owners[0].store is not None:
        store: Store = owners[0].store
        for layer in layers:
            if layer.store is not store:  # nothing to keep, but it must know where it runs
                layer.backend, layer.store = store.backend, store
                store.layers.append(layer)
        return store
    parameters = Parameters(backend, {key: spec.shape for key, (_, _, spec) in graph.specs.items()}, dtype)
    for key, (node, index, spec) in graph.specs.items():
        layer = graph.nodes[node].layer
        if layer.store is not None and key in layer.store.parameters:  # not another's, where one has such a name, too
            old = layer.store.parameters[key]
            if old.dtype != parameters.flat.dtype:
                raise ConfigError(
                    f"{layer.label}: models that share a layer have one dtype: {old.dtype}. Received: {dtype}"
                )
            parameters[key] = layer.store.backend.to_numpy(old)
        else:
            drawn = spec.initializer(streams.weights(seed, node, index), tuple(spec.shape))
            parameters[key] = drawn.astype(dtype)
    return Store(parameters, layers)


def filled_store(graph: Graph, backend: Backend, dtype: str, tensors: Mapping[str, np.ndarray]) -> Store:
    """A new store with these values, whose names and shapes must be the graph's."""
    parameters = Parameters(backend, {key: spec.shape for key, (_, _, spec) in graph.specs.items()}, dtype)
    for key, tensor in tensors.items():
        parameters[key] = tensor
    return Store(parameters, list(dict.fromkeys(node.layer for node in graph.nodes)))
