"""The memory that a training step will take, told from shapes alone: nothing is allocated to find out."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from xconv.backend.base import ConvMemory
from xconv.backend.hostpool import READY
from xconv.layers.fused import ConvReLUMaxPool, convolution
from xconv.plan import ONE_PRODUCT, Plan, Run

if TYPE_CHECKING:
    from xconv.models.network import Network


class _Pool:
    """Bytes that were touched, and the most that ever were, nearly as in HostPool.

    What comes back waits for the next of its size; beyond `READY` bytes all that waits is joined, and serves any: here
    wherever it lies, there only in one piece, but also where nothing else has room.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self._ready: Counter[int] = Counter()
        self._joined = 0

    def take(self, size: int) -> None:
        if self._ready[size]:
            self._ready[size] -= 1
            return
        old = min(size, self._joined)
        self._joined -= old
        self.now += size - old
        self.most = max(self.most, self.now)

    def give_back(self, size: int) -> None:
        self._ready[size] += 1
        waiting = sum(size * count for size, count in self._ready.items())
        if waiting > READY:
            self._joined += waiting
            self._ready.clear()

    def borrow(self, sizes: list[int], beside: int) -> None:
        """Taken all at once and given back: arrays of the pool to the pool, what is `beside` them to the system."""
        for size in sizes:
            self.take(size)
        self.most = max(self.most, self.now + beside)
        for size in sizes:
            self.give_back(size)


def training_step_bytes(model: Network, batch_size: int) -> int:
    """The most that a training step adds to the built model: gradients, the optimizer's state, activations, scratch.

    The batch itself is counted. What compilation takes is not, nor what the interpreter and BLAS hold by themselves.
    """
    plan = Plan(model.graph, model.backend, fuse=model.fuse)
    size = model.itemsize
    parameters = sum(math.prod(spec.shape) for _, _, spec in model.graph.specs.values()) * size
    optimizer = getattr(model, "optimizer", None)
    slots = len(optimizer.slots) if optimizer is not None else 0
    return parameters * (1 + slots) + _activations(plan, batch_size, size)


def fitting_batch(model: Network, most: int, free: int) -> int:
    """The largest batch of at most `most` examples whose training step fits into `free` bytes; 0 where none does.

    Gradients and optimizer's state that are there already need no room.
    """
    plan, size = Plan(model.graph, model.backend, fuse=model.fuse), model.itemsize
    parameters = sum(math.prod(spec.shape) for _, _, spec in model.graph.specs.values()) * size
    there = 0 if getattr(model, "_gradients", None) is None else parameters
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        there += sum(array.nbytes for name, array in optimizer.state_arrays().items() if name != "hyper")
    fixed = training_step_bytes(model, 0) - there
    low, high = 0, max(0, most)
    while low < high:
        middle = (low + high + 1) // 2
        if fixed + _activations(plan, middle, size) <= free:
            low = middle
        else:
            high = middle - 1
    return low


def _activations(plan: Plan, n: int, itemsize: int) -> int:
    graph, pool = plan.graph, _Pool()

    def full(node: int) -> int:
        return n * math.prod(graph.shapes[node]) * itemsize

    convs = {run.id: _convolution(plan, run, n, itemsize) for run in plan.runs}
    memory: dict[int, tuple[int, int]] = {}  # of each run: y, and what is kept beside x and y
    holders: Counter[int] = Counter()  # who still holds each array, by the node that gave it
    home = {i: i for i in graph.inputs}  # whose memory a node's output lies in
    sizes = {i: full(i) for i in graph.inputs}
    turned = graph.data_format == "channels_last"
    for i in graph.inputs:
        pool.take(sizes[i])
        if turned and len(graph.shapes[i]) == 3 and graph.shapes[i][0] > 1:
            pool.take(sizes[i])  # channels first beside the batch as it came

    def release(node: int) -> None:
        holders[home[node]] -= 1
        if not holders[home[node]]:
            pool.give_back(sizes[home[node]])

    kept: dict[int, list[int]] = {}
    for run in plan.runs:
        y, more = (n * part for part in run.layer.memory(_in_shape(plan, run), graph.shapes[run.id], itemsize))
        keeps, conv = run.layer.keeps, convs[run.id]
        if conv is not None:  # what it keeps depends on the backend's algorithm
            more, keeps = conv.kept, "xy" if conv.keeps_y else "x"
        memory[run.id] = y, more
        pool.take(y)
        pool.take(more)
        if conv is not None:
            pool.borrow(conv.forward, conv.beside[0])
        home[run.id] = run.id if y else home[run.sources[0]]
        sizes[run.id] = y
        kept[run.id] = [*(run.sources if "x" in keeps else ()), *([run.id] if "y" in keeps else ())]
        for node in [*kept[run.id], run.id]:
            holders[home[node]] += 1
        for source in plan.spent[run.id]:
            if source >= 0:  # the batch stays: its owner holds it
                release(source)
    gradients: dict[int, int] = {}
    for output in plan.outputs:
        gradients[output] = full(output)
        pool.take(full(output))
    for run in reversed(plan.runs):
        need = plan.needs[run.id]
        if run.id not in gradients:
            continue
        if need.params:
            written = ("w",) if type(run.layer) in ONE_PRODUCT else ()  # where it belongs, with no copy
            specs = run.layer.param_specs(_in_shape(plan, run))
            owned = sum(math.prod(spec.shape) for name, spec in specs.items() if name not in written) * itemsize
            pool.take(owned)
            pool.give_back(owned)
        conv = convs[run.id]
        if conv is not None:
            pool.borrow(conv.backward, conv.beside[1])
        if need.x:
            for source in run.sources:
                if source not in gradients:
                    gradients[source] = full(source) if memory[run.id][0] else 0
                    pool.take(gradients[source])
        pool.give_back(gradients.pop(run.id))
        pool.give_back(memory[run.id][1])
        for node in kept[run.id]:
            release(node)
    return pool.most


def _in_shape(plan: Plan, run: Run) -> object:
    shapes = tuple(plan.graph.shapes[source] for source in run.sources)
    return shapes if run.layer.many_inputs else shapes[0]


def _convolution(plan: Plan, run: Run, n: int, itemsize: int) -> ConvMemory | None:
    """What a run takes that is a convolution."""
    layer, backend, found = run.layer, plan.backend, convolution(run.layer)
    if found is None:
        return None
    conv, what = found
    in_shape = plan.graph.shapes[run.sources[0]]
    shapes = (n, *in_shape), conv.param_specs(in_shape)["w"].shape, conv.strides, conv.pads(in_shape)
    if isinstance(layer, ConvReLUMaxPool):
        return backend.conv_pool_scratch(*shapes, layer.pool.pool_size, layer.pool.strides, itemsize)
    activation, normalized = what.get("activation"), what.get("normalized", False)
    return backend.conv_scratch(*shapes, conv.dilation_rate, activation, itemsize, normalized)
