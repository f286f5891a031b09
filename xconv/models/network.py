"""A graph of layers bound to a backend: its parameters, and what it says of an input."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from xconv import checks, streams
from xconv.backend import Backend, get_backend
from xconv.errors import ConfigError, ShapeError, described
from xconv.graph import Graph
from xconv.layers import Layer
from xconv.layers.symbolic import Tensor
from xconv.models.store import Store, store_of
from xconv.parameters import Parameters
from xconv.plan import Plan
from xconv.shapes import as_given

_MAKING = threading.RLock()


class Network:
    """A graph of layers with parameters. `Model` is one that can be asked and trained too.

    `backend` is "numpy", "numba", "cupy", "auto" or None ($XCONV_BACKEND, else "auto"). The same `seed` gives the same
    initial weights, shuffles and dropout masks on every backend. `fuse=False` runs every layer by itself. Arrays that
    come and go have the batch axis first and the axis order of the inputs' data format.
    """

    aliases: Mapping[str, str] = {}  # public parameter name -> "layer.parameter"

    def __init__(
        self,
        inputs: Tensor | Sequence[Tensor],
        outputs: Tensor | Sequence[Tensor],
        *,
        name: str | None = None,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        self._settings(name, backend, seed, dtype, fuse)
        self._set_graph(listed(inputs), listed(outputs))

    def __repr__(self) -> str:
        shapes = "not built yet"
        if self._graph is not None:
            shapes = f"{self.input_shape} -> {self.output_shape}, {self.count_params():,} parameters"
        return f"<{type(self).__name__} {self.name!r}: {shapes}, {self.backend.address}>"

    def _settings(self, name: str | None, backend: Any, seed: int, dtype: str, fuse: bool) -> None:
        self.name = name or type(self).__name__.lower()
        self.dtype = checks.dtype_name(dtype)
        self.seed = streams.check_seed(seed)
        self.fuse = fuse
        self._backend, self._named = get_backend(backend), backend is not None
        self._graph: Graph | None = None
        self._store: Store | None = None
        self._steps = self._backend.asarray(np.zeros(1, np.uint64))  # training steps done, for random streams

    def _set_graph(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._graph = Graph(inputs, outputs)
        self._forget()

    def _forget(self) -> None:
        """What depends on the store or on what is trained is made anew."""
        self._plans: dict[tuple[int, ...] | None, Plan] = {}
        self._params: Parameters | None = None
        self._whole: Parameters | None = None  # the store's, when this was made
        self._public: Parameters | None = None
        self._gradients: Parameters | None = None
        self._trained: tuple[bool, ...] = ()
        self._unchanged = -1  # Layer.changes when this was last seen to be current

    # ------------------------------------------------------------------ what it is made of

    @property
    def graph(self) -> Graph:
        """The nodes; ConfigError where the input's shape is not known yet."""
        if self._graph is None:
            raise ConfigError(
                f"{self.name}: not built yet: give the first layer input_shape, or the Sequential. "
                "Received: no shape of the input"
            )
        return self._graph

    @property
    def layers(self) -> list[Layer]:
        """Each layer once, in order."""
        return self.graph.layers

    @property
    def input(self) -> Any:
        """The tensor that comes in, or the list of them."""
        return self.inputs[0] if len(self.graph.inputs) == 1 else self.inputs

    @property
    def output(self) -> Any:
        """The tensor that goes out, or the list of them."""
        return self.outputs[0] if len(self.graph.outputs) == 1 else self.outputs

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that place."""
        layers = self.layers
        if name is None and isinstance(index, int) and -len(layers) <= index < len(layers):
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in layers]
        given = name if index is None else index
        raise ConfigError(f"{self.name}: expected a layer among {names}. Received: {described(given)}")

    @property
    def data_format(self) -> str:
        """Axis order of the images that come and go: "channels_last" or "channels_first"."""
        return self.graph.data_format

    def _given_shape(self, node: int) -> tuple[int, ...]:
        """Shape of one example at a node or input, as the user sees it."""
        return as_given(self.graph.shapes[node], self.data_format)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example of the first input, as it is given."""
        return self._given_shape(self.graph.inputs[0])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one example of the first output, as it comes."""
        return self._given_shape(self.graph.outputs[0])

    @property
    def classes(self) -> int:
        """Size of the last axis of the first output."""
        return self.output_shape[-1]

    def count_params(self) -> int:
        """How many numbers all parameters are, moving statistics included. Allocates nothing."""
        return sum(math.prod(spec.shape) for _, _, spec in self.graph.specs.values())

    def __call__(self, inputs: Tensor | Sequence[Tensor], training: Any = None) -> Any:
        """This network's layers, with their weights, applied to other tensors: part of a larger network."""
        if training is not None:
            raise ConfigError(
                f"{self.name}: whether it trains is not said at the call; model.trainable = False also keeps "
                f"moving statistics. Received: training={described(training)}"
            )
        graph, given = self.graph, listed(inputs)
        if len(given) != len(graph.inputs):
            raise ShapeError(f"{self.name}: expected {len(graph.inputs)} tensors. Received: {len(given)}")
        values = dict(zip(graph.inputs, given, strict=True))
        for i, tensor in values.items():
            if isinstance(tensor, Tensor) and tensor.inside != graph.shapes[i]:
                expected = None, *self._given_shape(i)
                raise ShapeError(f"{self.name}: expected a tensor of shape {expected}. Received: {tensor!r}")
        for node in graph.nodes:
            sources = [values[i] for i in node.sources]
            if node.hidden:  # its layer's call included it
                values[node.id] = sources[0]
            else:
                values[node.id] = node.layer(sources if node.layer.many_inputs else sources[0])
        outs = [values[i] for i in graph.outputs]
        return outs if len(outs) > 1 else outs[0]

    @property
    def trainable(self) -> bool:
        """Whether any layer is trained; assigning freezes or unfreezes all."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = bool(value)

    def freeze(self, *names: str) -> None:
        """Keep the layers of these names, or all, as they are: no gradient, no moving statistics, not one bit."""
        for layer in [self.get_layer(name) for name in names] or self.layers:
            layer.trainable = False

    def unfreeze(self, *names: str) -> None:
        """Train the layers of these names, or all, again."""
        for layer in [self.get_layer(name) for name in names] or self.layers:
            layer.trainable = True

    # ------------------------------------------------------------------ parameters and backends

    def _ready(self) -> Store:
        """The store of the layers, made on first use and followed where another model took it along."""
        if not self._is_current():
            with _MAKING:  # two threads may ask a new model at the same time
                if not self._is_current():
                    self._renew()
        assert self._store is not None
        return self._store

    def _is_current(self) -> bool:
        """Whether nothing has changed since `_renew`: not the store, nor where it is, nor what is trained."""
        store, changes = self._store, Layer.changes
        if store is None or self._whole is not store.parameters:
            return False
        if self._graph is None or self._unchanged != changes:  # some layer is not what it was: perhaps one of these
            layers = self.graph.layers
            if any(layer.store is not store for layer in layers):
                return False
            if self._trained != tuple(layer.trainable for layer in layers):
                return False
            self._unchanged = changes
        return True

    def _renew(self) -> None:
        graph = self.graph
        store = self._store
        if store is None or any(layer.store is not store for layer in graph.layers):
            used = [layer.store for layer in graph.owners if layer.store is not None]
            follows = store is None and not self._named and used  # nobody said where: there, where its layers are
            where = used[0].backend if follows else self.backend
            first, store = store is None, store_of(graph, where, self.dtype, self.seed)
            if first and self._named:
                store.to(where)  # and takes the other models along, as `to` does
        self._forget()
        self._steps = store.backend.asarray(self._backend.to_numpy(self._steps))
        self._store, self._backend = store, store.backend
        self._trained = tuple(layer.trainable for layer in graph.layers)
        whole = self._whole = store.parameters
        mine = whole if set(whole) == set(graph.specs) else whole.renamed({n: n for n in graph.specs})
        mine.fixed = frozenset(n for n in graph.specs if not self._is_trained(n))
        self._params = mine

    def _is_trained(self, name: str) -> bool:
        node, _, spec = self.graph.specs[name]
        return spec.trainable and self.graph.is_trained(self.graph.nodes[node])

    @property
    def backend(self) -> Backend:
        """What computes; where another model took a layer along, that one's."""
        if self._store is None:
            return self._backend
        if self._unchanged == Layer.changes:
            return self._store.backend
        for layer in self.graph.owners:
            if layer.store is not None and layer.store is not self._store:
                return layer.store.backend
        return self._store.backend

    def to(self, backend: str | Backend) -> Self:
        """Move to another backend, in place, with the weights as they are; returns the model."""
        target = get_backend(backend)
        used = self._graph is not None and any(layer.store is not None for layer in self._graph.owners)
        if self._store is None and not used:
            self._steps = target.asarray(self._backend.to_numpy(self._steps))
            self._backend = target
        else:
            self._ready().to(target)
        return self

    @property
    def _parameters(self) -> Parameters:
        self._ready()
        assert self._params is not None
        return self._params

    @property
    def params(self) -> Parameters:
        """Name -> array, live: changing one in place, or assigning to it, changes the model."""
        parameters = self._parameters
        if self._public is None:  # kept, so that the same object comes each time
            self._public = self._public_of(parameters)
        return self._public

    def _public_of(self, parameters: Parameters) -> Parameters:
        return parameters.renamed(self.aliases) if self.aliases else parameters

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all parameters, on the host, in the order of `params`."""
        return list(self._parameters.to_numpy().values())

    def set_weights(self, weights: Sequence[Any]) -> None:
        """What `get_weights` gave, written back."""
        parameters = self._parameters
        if len(weights) != len(parameters):
            raise ConfigError(f"set_weights: expected {len(parameters)} arrays. Received: {len(weights)}")
        given = dict(zip(parameters, weights, strict=True))
        scratch = parameters.like()  # all are tried before any is written
        for name, array in given.items():
            scratch[name] = array
        for name in given:
            parameters[name] = scratch[name]

    def _plan(self, outputs: Sequence[int] | None = None) -> Plan:
        self._ready()
        key = None if outputs is None else tuple(outputs)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = Plan(self.graph, self.backend, outputs=outputs, fuse=self.fuse)
        return plan


def listed(value: Any) -> list[Any]:
    """A list or tuple as a list, and anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]
