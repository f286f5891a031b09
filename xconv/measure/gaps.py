"""How far the tensors of two networks are apart, and which of them belong to which layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xconv.layers import BatchNormalization, Conv2D, Dense
from xconv.models import Model
from xconv.parameters import Parameters

BLOCK = 1 << 20  # entries that are compared at a time: of a large tensor no second copy is made


class Gap(NamedTuple):
    """How far two arrays are apart: max|got - expected|, max|expected|, and the sums of the squares of both."""

    largest: float
    scale: float
    squares: float
    scale_squares: float

    @property
    def ratio(self) -> float:
        """The largest difference over the largest entry; infinite where something is not finite."""
        if not math.isfinite(self.largest + self.scale):
            return math.inf
        return self.largest / self.scale if self.scale else math.inf if self.largest else 0.0


def gap(got: np.ndarray, expected: np.ndarray) -> Gap:
    """Of two arrays of one shape."""
    a, b = got.reshape(-1), expected.reshape(-1)
    parts = [(0.0, 0.0, 0.0, 0.0)]
    with np.errstate(all="ignore"):
        for first in range(0, b.size, BLOCK):
            e = b[first : first + BLOCK].astype(np.float64)
            d = a[first : first + BLOCK] - e
            parts.append((float(np.abs(d).max()), float(np.abs(e).max()), float(d @ d), float(e @ e)))
    table = np.array(parts)
    return Gap(*table[:, :2].max(axis=0).tolist(), *table[:, 2:].sum(axis=0).tolist())


def gaps(got: Parameters, expected: Parameters, names: Iterable[str]) -> dict[str, Gap]:
    """By name, each set of parameters on its own backend."""
    return {name: gap(got.backend.to_numpy(got[name]), expected.backend.to_numpy(expected[name])) for name in names}


@dataclass(frozen=True)
class Part:
    """A layer with parameters: the names of its tensors, as `params` has them.

    Of these `cancelled` are biases that a BatchNormalization behind takes away again. Their true gradient is 0, what
    they have is rounding alone, and a ratio of it says nothing.
    """

    name: str
    kind: str
    tensors: tuple[str, ...]
    cancelled: tuple[str, ...]

    @property
    def judged(self) -> tuple[str, ...]:
        """The others."""
        return tuple(name for name in self.tensors if name not in self.cancelled)


def parts(net: Model) -> list[Part]:
    """The layers of a network that have parameters, in order."""
    public = {inside: name for name, inside in net.aliases.items()}
    readers: dict[int, list[Any]] = {}
    for node in net.graph.nodes:
        for source in node.sources:
            readers.setdefault(source, []).append(node.layer)
    places: dict[Any, list[int]] = {}
    for node in net.graph.nodes:
        places.setdefault(node.layer, []).append(node.id)
    found = []
    for layer in net.graph.owners:
        inside = [key for key in net.graph.specs if key.rpartition(".")[0] == layer.name]
        behind = [reader for place in places[layer] for reader in readers.get(place, [None])]
        normalised = all(isinstance(reader, BatchNormalization) and reader.trainable for reader in behind)
        biases = [f"{layer.name}.b"] if isinstance(layer, Conv2D | Dense) and normalised else []
        tensors, cancelled = (
            tuple(public.get(key, key) for key in keys) for keys in (inside, [b for b in biases if b in inside])
        )
        found.append(Part(str(layer.name), type(layer).__name__, tensors, cancelled))
    return found
