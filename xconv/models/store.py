"""Where the parameters of a model's layers lie: one flat buffer, which models that share layers share."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

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
        self.layers = weakref.WeakSet(layers)  # those of models that are gone need nothing
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
            if layer_name in views:
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
                store.layers.add(layer)
        return store
    kept = _kept(layers, list(stores.values()))
    shapes = {key: spec.shape for key, (_, _, spec) in graph.specs.items()}
    others = {key: layer for key, layer in kept.items() if key not in shapes}
    shapes |= {key: layer.store.parameters.shapes[key] for key, layer in others.items()}
    parameters = Parameters(backend, shapes, dtype)
    for key, layer in kept.items():
        old = layer.store.parameters[key]
        if old.dtype != parameters.flat.dtype:
            raise ConfigError(
                f"{layer.label}: models that share a layer have one dtype: {old.dtype}. Received: {dtype}"
            )
        parameters[key] = layer.store.backend.to_numpy(old)
    for key, (node, index, spec) in graph.specs.items():
        if key not in kept:
            drawn = spec.initializer(streams.weights(seed, node, index), tuple(spec.shape))
            parameters[key] = drawn.astype(dtype)
    return Store(parameters, dict.fromkeys([*layers, *others.values()]))


def _kept(layers: Sequence[Layer], stores: Sequence[Store | None]) -> dict[str, Layer]:
    """The parameters that keep their values, by full name: those of layers used before, and of all that lay with them,
    so that models which overlap in part end up with one store. Other layers of the same name stay where they are.
    """
    names = {layer.name for layer in layers}
    used = [layer for layer in layers if layer.store is not None]
    beside = [layer for store in stores if store is not None for layer in store.layers if layer.name not in names]
    kept: dict[str, Layer] = {}
    for layer in dict.fromkeys([*used, *sorted(beside, key=lambda layer: str(layer.name))]):
        for name in layer.params:
            kept.setdefault(f"{layer.name}.{name}", layer)
    return kept


def filled_store(graph: Graph, backend: Backend, dtype: str, tensors: Mapping[str, np.ndarray]) -> Store:
    """A new store with these values, whose names and shapes must be the graph's."""
    parameters = Parameters(backend, {key: spec.shape for key, (_, _, spec) in graph.specs.items()}, dtype)
    for key, tensor in tensors.items():
        parameters[key] = tensor
    return Store(parameters, list(dict.fromkeys(node.layer for node in graph.nodes)))
