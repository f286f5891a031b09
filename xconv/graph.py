"""A network as nodes in topological order; forward, backward, and the fusion of runs that a backend offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from xconv.backend import Array, Backend, Need
from xconv.errors import ConfigError, described
from xconv.layers import Context, Conv2D, Layer, MaxPool2D, ReLU
from xconv.layers.base import Shape
from xconv.layers.fused import ConvReLUMaxPool
from xconv.parameters import Parameters

INPUT = -1  # the id of the graph's input


@dataclass(frozen=True)
class Node:
    """One use of a layer. `id` is its place in the order, and keys its random streams."""

    id: int
    layer: Layer
    source: int  # the node whose output it reads, or INPUT


@dataclass(frozen=True)
class Run:
    """What is executed: one node, or several that are fused into `layer`. Reads `source`, gives the output of `id`."""

    id: int
    layer: Layer
    source: int


Tape = list[tuple[Run, Any]]  # each run with what its layer saved


class Graph:
    """Nodes in topological order with their shapes. Holds no arrays."""

    def __init__(self, nodes: Sequence[Node], input_shape: Shape) -> None:
        self.nodes = list(nodes)
        self.input_shape = tuple(input_shape)
        self.shapes: dict[int, Shape] = {INPUT: self.input_shape}
        for node in self.nodes:
            self.shapes[node.id] = tuple(node.layer.output_shape(self.shapes[node.source]))
        self.runs = [Run(node.id, node.layer, node.source) for node in self.nodes]

    @classmethod
    def chain(cls, layers: Sequence[Layer], input_shape: Shape) -> Graph:
        """Each layer reads the one before. Layers without a name are called after their kind: conv2d1, relu1, ..."""
        if not layers:
            raise ConfigError("a network needs at least one layer. Received: none")
        counts: Counter[str] = Counter()
        names = set()
        for layer in layers:
            if not isinstance(layer, Layer):
                raise ConfigError(f"expected xconv layers. Received: {described(layer)}")
            kind = type(layer).__name__.lower()
            counts[kind] += 1
            layer.name = layer.name or f"{kind}{counts[kind]}"
            if layer.name in names:
                raise ConfigError(f"layer names must differ. Received: {layer.name!r} twice")
            names.add(layer.name)
        return cls([Node(i, layer, i - 1) for i, layer in enumerate(layers)], input_shape)

    @property
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch axis."""
        return self.shapes[self.nodes[-1].id]

    def plan(self, backend: Backend, fuse: bool) -> None:
        """Decide what is run as one. What a user sees (names, parameters, shapes) does not change."""
        self.runs = []
        readers = Counter(node.source for node in self.nodes)
        i = 0
        while i < len(self.nodes):
            node = self.nodes[i]
            fused = self._conv_pool_at(i, backend, readers) if fuse else None
            if fused is None:
                self.runs.append(Run(node.id, node.layer, node.source))
                i += 1
            else:
                self.runs.append(Run(self.nodes[i + 2].id, fused, node.source))
                i += 3

    def _conv_pool_at(self, i: int, backend: Backend, readers: Counter[int]) -> Layer | None:
        run = self.nodes[i : i + 3]
        layers = [node.layer for node in run]
        if [type(layer) for layer in layers] != [Conv2D, ReLU, MaxPool2D]:
            return None
        if any(b.source != a.id or readers[a.id] != 1 for a, b in pairwise(run)):
            return None
        conv, _, pool = layers
        assert isinstance(conv, Conv2D) and isinstance(pool, MaxPool2D)
        weights = conv.param_specs(self.shapes[run[0].source])["w"].shape
        if any(pool.pads) or not backend.fuses_conv_pool(weights, conv.stride, pool.kernel):
            return None
        return ConvReLUMaxPool(conv, pool)

    def forward(self, x: Array, ctx: Context, tape: Tape | None = None) -> Array:
        """x[N, *input_shape] -> y[N, *output_shape]; what backward needs goes onto `tape` where one is given."""
        readers = Counter(run.source for run in self.runs)
        values = {INPUT: x}
        for run in self.runs:
            y, saved = run.layer.forward(values[run.source], ctx)
            if tape is not None:
                tape.append((run, saved))
            readers[run.source] -= 1
            if not readers[run.source]:
                del values[run.source]  # memory goes back as soon as nobody will read it
            values[run.id] = y
        return values[self.runs[-1].id]

    def backward(self, dy: Array, tape: Tape, grads: Parameters, *, need_x: bool = False) -> Array | None:
        """Gradients of all parameters into `grads`, and dx[N, *input_shape] if needed. Empties the tape.

        Where an output is read twice its gradients are summed, and so are those of a layer that is used twice.
        """
        pending = {self.runs[-1].id: dy}
        written: set[str] = set()
        while tape:
            run, saved = tape.pop()
            need = Need(x=need_x or run.source != INPUT)
            dx, dparams = run.layer.backward(pending.pop(run.id), saved, need)
            for name, gradient in dparams.items():
                key = f"{run.layer.name}.{name}"
                if key in written:
                    view = grads[key]
                    view += gradient
                else:
                    grads[key][...] = gradient
                    written.add(key)
            if need.x:
                pending[run.source] = pending[run.source] + dx if run.source in pending else dx
        return pending.get(INPUT)
