"""A network as nodes in the order in which they run. Holds no arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xconv.errors import ConfigError, ShapeError, described
from xconv.layers.base import Layer, ParamSpec, Shape
from xconv.layers.symbolic import Tensor


@dataclass(frozen=True)
class Node:
    """One use of a layer. `id` is its place in the order, and keys its random streams; inputs are -1, -2, ..."""

    id: int
    layer: Layer
    sources: tuple[int, ...]  # the nodes or inputs that it reads
    hidden: bool  # the activation of the layer before it, which has no line of its own in a summary


class Graph:
    """Nodes with their shapes. `shapes` maps a node, or an input, to the shape of one example, images as (C, H, W).

    `specs` describes every parameter; `layers` are all layers, each
    once, without the activations inside others, and `owners` those that have parameters.
    """

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for role, tensors in (("inputs", inputs), ("outputs", outputs)):
            if not tensors:
                raise ConfigError(f"a network needs {role}. Received: none")
            for tensor in tensors:
                if not isinstance(tensor, Tensor):
                    raise ConfigError(f"{role}: expected tensors from Input and layers. Received: {described(tensor)}")
        self.data_format = inputs[0].data_format
        order = _reachable(outputs)
        _check_ends(inputs, outputs, order)
        ids = {id(tensor): -1 - i for i, tensor in enumerate(inputs)}
        ids |= {id(tensor): i for i, tensor in enumerate(t for t in order if t.layer is not None)}
        self.nodes = [
            Node(ids[id(t)], t.layer, tuple(ids[id(s)] for s in t.sources), t.hidden) for t in order if t.layer
        ]
        self.shapes: dict[int, Shape] = {ids[id(tensor)]: tensor.inside for tensor in [*inputs, *order]}
        self.inputs = [-1 - i for i in range(len(inputs))]
        self.input_names = [tensor.name or f"input{i}" for i, tensor in enumerate(inputs, 1)]
        self.outputs = [ids[id(tensor)] for tensor in outputs]
        _name(self.nodes)
        self.specs = self._specs()
        self.layers: list[Layer] = list(dict.fromkeys(node.layer for node in self.nodes if not node.hidden))
        self.owners = list(dict.fromkeys(self.nodes[place].layer for place, _, _ in self.specs.values()))

    def in_shape(self, node: Node) -> Any:
        """What the node's layer is given: a shape, or a tuple of shapes where it merges."""
        shapes = tuple(self.shapes[source] for source in node.sources)
        return shapes if node.layer.many_inputs else shapes[0]

    def is_trained(self, node: Node) -> bool:
        """Whether the node's layer is trained, and the layer whose activation it is."""
        return node.layer.trainable and self.owner(node.id).trainable

    def owner(self, node_id: int) -> Layer:
        """The layer that a node belongs to: its own, or the one whose activation it is."""
        node = self.nodes[node_id]
        return self.nodes[node.sources[0]].layer if node.hidden else node.layer

    def _specs(self) -> dict[str, tuple[int, int, ParamSpec]]:
        """Full parameter name -> (node of the layer's first use, index in the layer, spec), in order."""
        specs: dict[str, tuple[int, int, ParamSpec]] = {}
        for node in self.nodes:
            for index, (name, spec) in enumerate(node.layer.param_specs(self.in_shape(node)).items()):
                key = f"{node.layer.name}.{name}"
                first = specs.setdefault(key, (node.id, index, spec))[2]
                if tuple(first.shape) != tuple(spec.shape):
                    raise ShapeError(
                        f"{node.layer.label}: it is used more than once, so each use must need parameters of the same "
                        f"shape: {name} {tuple(first.shape)}. Received: {tuple(spec.shape)}"
                    )
        return specs


def _reachable(outputs: Sequence[Tensor]) -> list[Tensor]:
    """All tensors that the outputs are made from, in the order in which they were made."""
    found: dict[int, Tensor] = {}
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.number not in found:
            found[tensor.number] = tensor
            waiting.extend(tensor.sources)
    return [found[number] for number in sorted(found)]


def _check_ends(inputs: Sequence[Tensor], outputs: Sequence[Tensor], order: Sequence[Tensor]) -> None:
    if len({id(tensor) for tensor in inputs}) != len(inputs):
        raise ConfigError(f"inputs: each only once. Received: {list(inputs)}")
    for tensor in inputs:
        if tensor.layer is not None:
            raise ConfigError(f"inputs: expected tensors from xconv.Input. Received: {tensor!r}")
        if not any(tensor is other for other in order):
            raise ConfigError(f"the graph is not connected: no output is made from an input. Received: {tensor!r}")
    for tensor in outputs:
        if tensor.layer is None:
            raise ConfigError(f"outputs: expected what a layer gives. Received: {tensor!r}")
    for tensor in order:
        if tensor.layer is None and not any(tensor is other for other in inputs):
            reader = next(t for t in order if any(tensor is source for source in t.sources))
            assert reader.layer is not None
            raise ConfigError(
                f"the graph is not connected: {reader.layer.label} reads an input that is not among the model's "
                f"inputs. Received: {tensor!r}"
            )


def _name(nodes: Sequence[Node]) -> None:
    """Layers without a name are called after their kind: conv2d1, relu1, ..."""
    layers = list(dict.fromkeys(node.layer for node in nodes))
    hidden = {node.layer for node in nodes if node.hidden}
    taken = Counter(layer.name for layer in layers if layer.name is not None and layer not in hidden)
    twice = [name for name, times in taken.items() if times > 1]
    if twice:
        raise ConfigError(
            "layer names must differ; give name= to layers that meet in one model. "
            f"Received: {twice[0]!r} for {taken[twice[0]]} layers"
        )
    counts: Counter[str] = Counter()
    for node in nodes:
        layer, kind = node.layer, type(node.layer).__name__.lower()
        if node.hidden:
            layer.name = f"{nodes[node.sources[0]].layer.name}.{kind}"
        elif layer.name is None:
            counts[kind] += 1
            while f"{kind}{counts[kind]}" in taken:
                counts[kind] += 1
            layer.name = f"{kind}{counts[kind]}"
            taken[layer.name] = 1
