"""What is asked of each output in training: its loss, its metrics, and where in the graph the loss is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xconv import losses, metrics
from xconv.errors import ConfigError, XconvError, described
from xconv.graph import Graph
from xconv.layers import Sigmoid, Softmax
from xconv.shapes import as_given

_ABSORBED = {"softmax": Softmax, "sigmoid": Sigmoid}


@dataclass(frozen=True)
class Head:
    """One output with a loss. `shape` is that of one example as the user sees it."""

    output: int  # its place among the model's outputs
    name: str
    at: int  # the node whose values the loss takes: the output's, or the one before its softmax or sigmoid
    shape: tuple[int, ...]
    declared: losses.Loss  # what was asked for; says what labels look like
    loss: losses.Loss  # what is computed
    metrics: tuple[metrics.Metric, ...]
    weight: float

    @property
    def logits(self) -> bool:
        """Whether the values at `at` are logits."""
        return self.loss.logits

    def targets(self, t: Any, n: int, what: str) -> np.ndarray:
        """The labels of n examples as the loss takes them."""
        return self.loss.targets(t, n, self.shape, what)

    def example(self, n: int) -> np.ndarray:
        """Some labels that are allowed, to warm up with."""
        first = np.zeros((n, *self.shape), np.float32)
        first[..., 0] = 1
        try:
            return self.loss.targets(first, n, self.shape, "")
        except XconvError:
            return self.loss.targets(np.zeros((n, *self.shape[:-1]), np.int64), n, self.shape, "")


def heads(graph: Graph, loss: Any, wanted: Any, weights: Any) -> list[Head]:
    """The heads of a graph from what `compile` was given; an output whose loss is None has none."""
    names = [graph.owner(i).name or "" for i in graph.outputs]
    per_loss = _each(loss, names, "loss", whole=(str, losses.Loss, type))
    per_weight = _each(weights, names, "loss_weights", whole=(int, float))
    if len(names) == 1 and not isinstance(wanted, Mapping):
        wanted = [wanted]
    per_metric = _each(wanted, names, "metrics", whole=(str,))
    found = []
    for i, (name, node) in enumerate(zip(names, graph.outputs, strict=True)):
        if per_loss[i] is None:
            continue
        shape = as_given(graph.shapes[node], graph.data_format)
        declared = losses.get(per_loss[i])
        at, computed = node, declared
        final = graph.nodes[node]
        if declared.absorbs:
            kind = _ABSORBED[declared.absorbs]
            if (
                type(final.layer) is kind
                and getattr(final.layer, "axis", -1) in (-1, len(shape))
                and final.sources[0] >= 0
            ):
                at, computed = final.sources[0], declared.from_logits()
        asked = per_metric[i]
        asked = [] if asked is None else list(asked) if isinstance(asked, list | tuple) else [asked]
        found.append(
            Head(
                output=i,
                name=name,
                at=at,
                shape=shape,
                declared=declared,
                loss=computed,
                metrics=tuple(metrics.get(metric, declared, shape) for metric in asked),
                weight=1.0 if per_weight[i] is None else float(per_weight[i]),
            )
        )
    if not found:
        raise ConfigError("compile: expected a loss for at least one output. Received: none")
    return found


def _each(value: Any, names: Sequence[str], what: str, whole: tuple[type, ...]) -> list[Any]:
    """`value` for each output: one for all, a list in the outputs' order, or a dict by output name."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ConfigError(f"compile: {what}: expected outputs among {list(names)}. Received: {unknown[0]!r}")
        return [value.get(name) for name in names]
    if value is None or isinstance(value, whole):
        return [value] * len(names)
    if isinstance(value, Sequence):
        if what == "metrics" and not any(isinstance(entry, list | tuple) for entry in value) and len(names) > 1:
            return [list(value)] * len(names)
        if len(value) != len(names):
            raise ConfigError(
                f"compile: {what}: expected one for each of the outputs {list(names)}. Received: {described(value)}"
            )
        return list(value)
    raise ConfigError(f"compile: {what}: expected one, a list or a dict. Received: {described(value)}")
