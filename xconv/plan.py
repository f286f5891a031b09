"""How a graph is run on a backend: what is fused, what backward must compute, forward and backward themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xconv.backend import Array, Backend, Need
from xconv.errors import ConfigError, DTypeError, ShapeError, described
from xconv.graph import Graph, Node
from xconv.layers import BatchNormalization, Context, Conv2D, Dense, Layer, MaxPool2D, ReLU
from xconv.layers.base import backward_pair, forward_pair
from xconv.layers.fused import ConvReLU, ConvReLUMaxPool, DenseReLU, NormalizedConv, NormReLU
from xconv.parameters import Parameters

# Layers whose backward hands `need` to one operation, which may write the gradient of w where it belongs. Theirs alone:
# in a layer of one's own two operations could write there.
ONE_PRODUCT = (Conv2D, Dense, ConvReLU, ConvReLUMaxPool, DenseReLU, NormalizedConv)


@dataclass(frozen=True)
class Run:
    """What is executed: one node, or several that are fused into `layer`. Gives the output of node `id`."""

    id: int
    layer: Layer
    sources: tuple[int, ...]
    nodes: tuple[int, ...]  # those it stands for


Tape = list[tuple[Run, Any]]  # each run with what its layer saved


class Plan:
    """The runs that are needed for some outputs of a graph (all of its own, or others), on one backend.

    What a user sees (names, parameters, shapes) does not depend on what is fused.
    """

    def __init__(
        self, graph: Graph, backend: Backend, *, outputs: Sequence[int] | None = None, fuse: bool = True
    ) -> None:
        self.graph, self.backend = graph, backend
        self.outputs = list(graph.outputs if outputs is None else outputs)
        self.nodes = _needed(graph, self.outputs)
        self.runs = self._fused() if fuse else [_run(node) for node in self.nodes]
        self.spent = self._spent()
        self.trained: dict[int, set[str]] = {}  # of each run, the names of the parameters that need a gradient
        self.needs = self._needs()

    def _needs(self) -> dict[int, Need]:
        """Which gradients each run must give: none where nothing before it, nor itself, is trained."""
        trained: set[int] = set()
        needs = {}
        for run in self.runs:
            members = [self.graph.nodes[i] for i in run.nodes]
            names = {
                name
                for node in members
                for name, spec in node.layer.param_specs(self.graph.in_shape(node)).items()
                if spec.trainable and self.graph.is_trained(node)
            }
            self.trained[run.id] = names
            params = bool(names)
            x = any(source in trained for source in run.sources)
            needs[run.id] = Need(x=x, params=params)
            if x or params:
                trained.add(run.id)
        return needs

    def _spent(self) -> dict[int, tuple[int, ...]]:
        """Which sources of each run nobody reads after it: their memory goes back then."""
        read = set(self.outputs)
        spent = {}
        for run in reversed(self.runs):
            spent[run.id] = tuple(set(run.sources) - read)
            read.update(run.sources)
        return spent

    # ------------------------------------------------------------------ fusion

    def _fused(self) -> list[Run]:
        readers = Counter(source for node in self.nodes for source in node.sources)
        readers.update(self.outputs)
        follower = {node.sources[0]: node for node in self.nodes if len(node.sources) == 1}
        runs: list[Run] = []
        done: set[int] = set()
        for node in self.nodes:
            if node.id in done:
                continue
            chain = [node]
            while len(chain) < 3 and readers[chain[-1].id] == 1 and chain[-1].id in follower:
                chain.append(follower[chain[-1].id])
            run = (
                self._conv_pool(chain)
                or self._conv_relu(chain[:2])
                or self._conv_norm(chain[:2])
                or self._norm_relu(chain[:2])
                or self._dense_relu(chain[:2])
            )
            run = run or _run(node)
            done.update(run.nodes)
            runs.append(run)
        return sorted(runs, key=lambda run: run.id)

    def _conv_relu(self, chain: list[Node]) -> Run | None:
        if [type(node.layer) for node in chain] != [Conv2D, ReLU]:
            return None
        conv = chain[0].layer
        assert isinstance(conv, Conv2D)
        return None if conv.groups != 1 else _run(*chain, layer=ConvReLU(conv))

    def _conv_norm(self, chain: list[Node]) -> Run | None:
        if [type(node.layer) for node in chain] != [Conv2D, BatchNormalization]:
            return None
        conv = chain[0].layer
        assert isinstance(conv, Conv2D)
        return None if conv.groups != 1 else _run(chain[0], layer=NormalizedConv(conv))

    def _norm_relu(self, chain: list[Node]) -> Run | None:
        if not self.backend.fuses_norm_relu or [type(node.layer) for node in chain] != [BatchNormalization, ReLU]:
            return None
        norm = chain[0].layer
        assert isinstance(norm, BatchNormalization)
        return _run(*chain, layer=NormReLU(norm))

    def _dense_relu(self, chain: list[Node]) -> Run | None:
        if [type(node.layer) for node in chain] != [Dense, ReLU]:
            return None
        dense = chain[0].layer
        assert isinstance(dense, Dense)
        return _run(*chain, layer=DenseReLU(dense))

    def _conv_pool(self, chain: list[Node]) -> Run | None:
        if [type(node.layer) for node in chain] != [Conv2D, ReLU, MaxPool2D]:
            return None
        conv, _, pool = (node.layer for node in chain)
        assert isinstance(conv, Conv2D) and isinstance(pool, MaxPool2D)
        weights = conv.param_specs(self.graph.in_shape(chain[0]))["w"].shape
        pads = pool.pads(self.graph.in_shape(chain[2]))
        plain = conv.groups == 1 and conv.dilation_rate == (1, 1) and not any(pads)
        if not plain or not self.backend.fuses_conv_pool(weights, conv.strides, pool.pool_size):
            return None
        return _run(*chain, layer=ConvReLUMaxPool(conv, pool))

    # ------------------------------------------------------------------ forward and backward

    def forward(self, xs: Sequence[Array], ctx: Context, tape: Tape | None = None) -> list[Array]:
        """Each x[N, *input shape] -> each y[N, *output shape]; what backward needs goes onto `tape` where given."""
        values = dict(zip(self.graph.inputs, xs, strict=True))
        train, seed, step, *_ = ctx
        for run in self.runs:
            layer, x = run.layer, values[run.sources[0]]
            n = len(x)
            if layer.many_inputs:
                x = tuple(values[source] for source in run.sources)
            y, saved = forward_pair(layer, layer.forward(x, Context(train, seed, step, run.id, tape is not None)))
            if tape is not None:
                tape.append((run, saved))
            values[run.id] = self._proper(y, (n, *self.graph.shapes[run.id]), xs[0].dtype, run, "forward")
            for source in self.spent[run.id]:
                del values[source]
        return [values[output] for output in self.outputs]

    def backward(
        self, dys: Sequence[Array], tape: Tape, grads: Parameters, *, need_inputs: bool = False
    ) -> list[Array | None]:
        """Gradients of all trained parameters into `grads`; dx of each input, None if not needed. Empties the tape.

        Where an output is read twice its gradients are summed, and so are those of a layer that is used twice.
        """
        pending: dict[int, Array] = {}
        for output, dy in zip(self.outputs, dys, strict=True):
            pending[output] = self.backend.add(pending[output], dy) if output in pending else dy
        written: set[str] = set()
        while tape:
            run, saved = tape.pop()
            dy, need = pending.pop(run.id, None), self.needs[run.id]
            if need_inputs:
                need = need._replace(x=True)
            key = f"{run.layer.name}.w"
            if type(run.layer) in ONE_PRODUCT and "w" in self.trained[run.id] and key not in written:
                need = need._replace(dw=grads[key])
            if dy is None or not (need.x or need.params):
                continue
            dx, dparams = backward_pair(run.layer, run.layer.backward(dy, saved, need))
            if need.params and dparams.keys() != self.trained[run.id]:
                raise ConfigError(
                    f"{run.layer.label}: backward must give a gradient for each of {sorted(self.trained[run.id])}. "
                    f"Received: gradients of {sorted(dparams)}"
                )
            for name, gradient in dparams.items() if need.params else ():
                _add(grads, f"{run.layer.name}.{name}", gradient, written)
            if need.x:
                for source, part in zip(run.sources, dx if run.layer.many_inputs else (dx,), strict=True):
                    if part is not None:
                        part = self._proper(part, (dy.shape[0], *self.graph.shapes[source]), dy.dtype, run, "backward")
                        pending[source] = self.backend.add(pending[source], part) if source in pending else part
        return [pending.get(i) for i in self.graph.inputs]

    def _proper(self, a: Array, shape: tuple[int, ...], dtype: Any, run: Run, what: str) -> Array:
        """What a layer gave, C-contiguous; a layer that breaks its word is named here, not three layers later."""
        if a.shape != shape:
            raise ShapeError(
                f"{run.layer.label}: {what} must give shape {shape}, as output_shape says. Received: {described(a)}"
            )
        if a.dtype != dtype:
            raise DTypeError(f"{run.layer.label}: {what} must give {dtype}, as it was given. Received: {described(a)}")
        return a if a.flags.c_contiguous else self.backend.contiguous(a)


def _run(*nodes: Node, layer: Layer | None = None) -> Run:
    return Run(nodes[-1].id, layer or nodes[0].layer, nodes[0].sources, tuple(node.id for node in nodes))


def _needed(graph: Graph, outputs: Sequence[int]) -> list[Node]:
    """The nodes that these outputs are made from, in order."""
    wanted = set(outputs)
    for node in reversed(graph.nodes):
        if node.id in wanted:
            wanted.update(node.sources)
    return [node for node in graph.nodes if node.id in wanted]


def _add(grads: Parameters, key: str, gradient: Array, written: set[str]) -> None:
    view = grads[key]
    if gradient.shape != view.shape:
        raise ShapeError(f"the gradient of {key} must have its shape {view.shape}. Received: {described(gradient)}")
    if key in written:
        view += gradient
    elif gradient is view:
        written.add(key)
    else:
        view[...] = gradient
        written.add(key)
