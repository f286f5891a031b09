"""Whether backends agree: one network trained on each from the same bits, and how far apart they are, layer by layer.

What `xconv compare` runs. The first backend is the reference. All networks start from the same weights and see the same
batches and dropout masks, which is checked to the bit. They take their steps in turns, and after given numbers of steps
every parameter and moving statistic is compared: the largest difference over the reference's largest entry of that
tensor. In float32 a twin of the reference trains along in float64, from the same numbers: how far the reference is from
it is what rounding alone does to this network, and tells a backend's mistake from a network that multiplies rounding.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xconv import data, streams
from xconv.backend import Backend
from xconv.errors import BackendError, ConfigError, NonFiniteError
from xconv.layers import Dropout
from xconv.layers.base import Context
from xconv.measure import tolerances
from xconv.measure.contestants import WARM_STEPS
from xconv.measure.gaps import Gap, gap, gaps, parts
from xconv.measure.referee import DISTURBED, Say, busy_seconds
from xconv.models import Model
from xconv.models.summary import facts
from xconv.optimizers import SGD
from xconv.parameters import Parameters

STEPS = (1, 10, 100)
TURN = 10  # steps that a backend takes before the next one's turn
Build = Callable[[Backend, str], Model]  # (backend, dtype) -> a compiled network
Watch = Callable[[str, int], None]  # told who has taken how many steps: when a turn begins, and after each step


class Batches:
    """The batches of `fit`, whole ones alone, by step from 1: x[B, *shape] in `dtype`, bytes as 0 to 1, and labels."""

    def __init__(self, x: np.ndarray, t: np.ndarray, batch_size: int, seed: int, dtype: str) -> None:
        if not 1 <= batch_size <= len(x):
            raise ConfigError(
                f"compare: expected a batch of 1 to {len(x)}, the examples there are. Received: {batch_size}"
            )
        self._x, self._t, self._batch_size, self._seed, self._dtype = x, t, batch_size, seed, dtype
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, at = divmod(step - 1, len(self._x) // self._batch_size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, streams.permutation(self._seed, epoch + 1, len(self._x))
        chosen = self._order[at * self._batch_size : (at + 1) * self._batch_size]
        x = self._x[chosen]
        x = data.pixels(x, self._dtype) if x.dtype == np.uint8 else x.astype(self._dtype, copy=False)
        return np.ascontiguousarray(x), self._t[chosen]


class Trainee:
    """A network on its backend, with what is noted of its training."""

    def __init__(self, net: Model, name: str) -> None:
        self.net, self.name = net, name
        self.compile_seconds = net.warm_up()
        self.turns: list[tuple[int, float]] = []  # steps timed, and seconds of one
        self.loss = math.nan  # of the batch of the last step, before it
        self.stopped: str | None = None
        self.disturbed = 0

    def turn(self, batches: Sequence[tuple[np.ndarray, np.ndarray]], first: int, watch: Watch) -> None:
        """Steps `first`, `first` + 1, ...; the first few of a turn, in which threads wake, are not timed."""
        net, backend = self.net, self.net.backend
        placed = [(backend.asarray(x, net.dtype), backend.asarray(t)) for x, t in batches]
        for (x, _), (there, _) in zip(batches, placed, strict=True):
            _same(x.astype(net.dtype, copy=False), backend.to_numpy(there), self.name, "the images of a batch")
        untimed = min(WARM_STEPS, len(batches) - 1)
        watch(self.name, first - 1)
        busy, used, began = busy_seconds(), time.process_time(), time.perf_counter()
        for i, (x, t) in enumerate(placed):
            if i == untimed:
                backend.synchronize()
                recording, start = net.recording_seconds, time.perf_counter()
            values = net.train_step(x, t)
            watch(self.name, first + i)
        backend.synchronize()
        now = time.perf_counter()
        recorded = net.recording_seconds - recording
        self.compile_seconds += recorded
        self.turns.append((len(placed) - untimed, (now - start - recorded) / (len(placed) - untimed)))
        after = busy_seconds()
        if busy is not None and after is not None:
            others = after - busy - (time.process_time() - used)
            self.disturbed += others / (now - began) / (os.cpu_count() or 1) > DISTURBED
        self.loss = float(backend.to_numpy(values[0]).reshape(-1)[0])
        summed = float(backend.to_numpy(net.totals)[0])  # of all losses so far: no step between is overlooked
        if not math.isfinite(summed) or not math.isfinite(self.loss):
            last = first + len(placed) - 1
            when = f"in step {first}" if first == last else f"between steps {first} and {last}"
            self.stopped = f"the loss became {self.loss if not math.isfinite(self.loss) else summed} {when}"

    @property
    def step_seconds(self) -> float:
        """The median over the turns; a single step after a pause is no measure where there are longer turns."""
        longer = [seconds for steps, seconds in self.turns if steps > 1]
        return statistics.median(longer or [seconds for _, seconds in self.turns])

    def told(self, batch_size: int) -> dict[str, Any]:
        """What there is to be told of it, as JSON has it."""
        rows = facts(self.net, batch_size)["layers"]
        return {
            "about": self.net.backend.describe(),
            "dtype": self.net.dtype,
            "compile_seconds": self.compile_seconds,
            "seconds_by_turn": [seconds for _, seconds in self.turns],
            "timed_steps": sum(steps for steps, _ in self.turns),
            "step_seconds": self.step_seconds,
            "images_per_second": batch_size / self.step_seconds,
            "recording": self.net.recording,
            "algorithms": {row["name"]: row["algorithm"] for row in rows if row["algorithm"]},
            "stopped": self.stopped,
        }


def _same(expected: np.ndarray, got: np.ndarray, name: str, what: str) -> None:
    """BackendError unless these are the same bits: what comes after would say nothing of a backend's arithmetic."""
    if got.dtype != expected.dtype or got.tobytes() != expected.tobytes():
        far = gap(got, expected).ratio if got.size == expected.size else math.inf
        raise BackendError(
            f"backend {name!r} was given other bits than the reference: {what}: expected {expected.dtype} "
            f"{expected.shape}, the same to the bit. Received: {got.dtype} {got.shape}, {far:.3g} of the largest away",
            reason="it changes what it is given",
        )


def _masks(net: Model, batch_size: int) -> dict[str, np.ndarray]:
    """What the dropout layers keep in the first step, by name: dropout of ones."""
    found, backend = {}, net.backend
    steps = backend.asarray(np.zeros(1, np.uint64))
    for node in net.graph.nodes:
        if isinstance(node.layer, Dropout):
            ones = backend.asarray(np.ones((batch_size, *net.graph.shapes[node.id]), net.dtype))
            with backend.running():
                kept, _ = node.layer.forward(ones, Context(True, net.seed, steps, node.id))
            found[str(node.layer.name)] = backend.to_numpy(kept)
    return found


def same_start(reference: Trainee, others: Sequence[Trainee], batch_size: int) -> dict[str, Any]:
    """Checks that all begin with the same weights and dropout masks, to the bit; what these are."""
    weights, masks = reference.net.params.to_numpy(), _masks(reference.net, batch_size)
    for other in others:
        for name, array in other.net.params.to_numpy().items():
            _same(weights[name], array, other.name, f"initial {name}")
        for name, array in _masks(other.net, batch_size).items():
            _same(masks[name], array, other.name, f"the mask of {name}")
    digest = hashlib.sha256()
    for array in weights.values():
        digest.update(np.ascontiguousarray(array).data)
    count = sum(array.size for array in weights.values())
    return {"numbers": count, "sha256": digest.hexdigest(), "dropout_layers": list(masks)}


def agree(
    build: Build,
    backends: Sequence[Backend],
    x: np.ndarray,
    t: np.ndarray,
    *,
    batch_size: int,
    steps: Sequence[int] = STEPS,
    dtype: str = "float32",
    seed: int = 0,
    rounding: bool = True,
    say: Say = lambda text: None,
    watch: Watch = lambda name, step: None,
) -> dict[str, Any]:
    """Train what `build` makes on every backend, and compare; as JSON has it.

    Args:
        build: called with a backend and a dtype; the networks must be the same but for these, their optimizers too.
        backends: the first is the reference.
        x: images [N, *input_shape], bytes or numbers from 0 to 1.
        t: labels, as the network's loss takes them.
        steps: after how many steps to compare, increasing.
        rounding: whether a twin of a float32 reference trains in float64.

    Raises:
        BackendError: a backend has other weights, images or masks than the reference.
        ConfigError: fewer than two backends, one twice, or `steps` that do not increase from 1 up.
        NonFiniteError: the reference's loss became NaN or infinite. Where only another's does, that is a result.
    """
    names = [backend.address for backend in backends]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"compare: expected at least two backends, each once. Received: {', '.join(names) or 'none'}")
    if not steps or any(b <= a for a, b in zip((0, *steps), steps, strict=False)):
        raise ConfigError(f"compare: expected increasing numbers of steps from 1 up. Received: {list(steps)}")
    batches = Batches(x, t, batch_size, seed, dtype)
    trainees = []
    for name, backend in zip(names, backends, strict=True):
        say(f"{name} on {backend.describe().get('device')}: getting ready")
        trainees.append(Trainee(build(backend, dtype), name))
    reference, *others = trainees
    start = same_start(reference, others, batch_size)
    pairs = [_Pair(other, reference) for other in others]
    twin = None
    if rounding and dtype == "float32":
        twin = Trainee(build(backends[0], "float64"), f"{reference.name} float64")
        for name, array in reference.net.params.to_numpy().items():
            twin.net.params[name] = array
        trainees.append(twin)
        pairs.append(_Pair(reference, twin))
    _first_gradients(pairs, *batches(1))
    for first, last in _turns(steps):
        given = [batches(step) for step in range(first, last + 1)]
        shift = len(reference.turns) % len(trainees)  # nobody always follows the same neighbour
        for trainee in trainees[shift:] + trainees[:shift]:
            if trainee.stopped is None:
                trainee.turn(given, first, watch)
        if reference.stopped is not None:
            others_too = [other.name for other in others if other.stopped is not None]
            raise NonFiniteError(
                f"{reference.name}: {reference.stopped}"
                + (f", and so did that of {', '.join(others_too)}" if others_too else "")
                + f"; try a smaller learning rate. Received: {reference.net.optimizer!r}"
            )
        if last in steps:
            for pair in pairs:
                pair.compare(last)
    return _result(trainees[: len(names)], twin, pairs, start, steps, batches, batch_size)


def _turns(steps: Sequence[int]) -> list[tuple[int, int]]:
    """First and last step of each turn: as many as TURN at once, and no turn goes beyond a number of `steps`."""
    ends = sorted({*steps, *(n for a, b in zip((0, *steps), steps, strict=False) for n in range(a + TURN, b, TURN))})
    return [(a + 1, b) for a, b in zip([0, *ends], ends, strict=False)]


class _Pair:
    """A network beside another, whose numbers count as the true ones."""

    def __init__(self, one: Trainee, true: Trainee) -> None:
        self.one, self.true, self.parts = one, true, parts(true.net)
        self.gradient: dict[str, Any] = {}
        self.after: list[dict[str, Any]] = []

    def first_gradient(self, got: Parameters, expected: Parameters) -> None:
        found = gaps(got, expected, [name for name in expected if name not in expected.fixed])
        largest = max(each.scale for each in found.values())
        self.gradient = self._by_layer(found)
        self.gradient["of_largest"] = {
            name: _known(each.largest / largest if largest else each.ratio) for name, each in found.items()
        }

    def compare(self, steps: int) -> None:
        if self.one.stopped is not None or self.true.stopped is not None:
            return
        found = gaps(self.one.net.params, self.true.net.params, self.true.net.params)
        counted = [found[name] for part in self.parts for name in part.judged]
        far, size = (math.sqrt(sum(getattr(each, key) for each in counted)) for key in ("squares", "scale_squares"))
        loss = gap(np.array([self.one.loss]), np.array([self.true.loss])).ratio
        row = {"steps": steps, **self._by_layer(found), "norm": _known(far / size), "loss": _known(loss)}
        self.after.append(row)

    def _by_layer(self, found: Mapping[str, Gap]) -> dict[str, Any]:
        layers = {}
        for part in self.parts:
            ratios = [found[name].ratio for name in part.judged if name in found]
            if ratios:
                layers[part.name] = _known(max(ratios))
        return {"layers": layers, "tensors": {name: _known(each.ratio) for name, each in found.items()}}

    def told(self) -> dict[str, Any]:
        return {"backend": self.one.name, "beside": self.true.name, "gradient": self.gradient, "after": self.after}


def _known(value: float) -> float | None:
    """None for what is not finite, which JSON has no word for."""
    return value if math.isfinite(value) else None


def _first_gradients(pairs: Sequence[_Pair], x: np.ndarray, t: np.ndarray) -> None:
    """Each network's gradient of the first batch, asked for once."""
    trainees = {id(each): each for pair in pairs for each in (pair.one, pair.true)}
    found = {key: each.net.gradient(x, t) for key, each in trainees.items()}
    for pair in pairs:
        pair.first_gradient(found[id(pair.one)], found[id(pair.true)])


def _result(
    trainees: Sequence[Trainee],
    twin: Trainee | None,
    pairs: Sequence[_Pair],
    start: Mapping[str, Any],
    steps: Sequence[int],
    batches: Batches,
    batch_size: int,
) -> dict[str, Any]:
    reference = trainees[0]
    net, optimizer = reference.net, reference.net.optimizer
    with net.backend.running():
        net.warn_if_dead(net.gradient(*batches(steps[-1])), reference.loss)
    told = {each.name: each.told(batch_size) for each in trainees}
    compared = [pair.told() for pair in pairs]
    rounding = compared.pop() if twin is not None else None
    adaptive = not isinstance(optimizer, SGD)
    cancelled = [name for part in pairs[0].parts for name in part.cancelled]
    for row in compared:
        about = told[row["backend"]]
        row["verdict"] = tolerances.judge(row, rounding, net.dtype, adaptive, cancelled, about)
    return {
        "reference": reference.name,
        "batch_size": batch_size,
        "dtype": net.dtype,
        "seed": net.seed,
        "optimizer": repr(optimizer),
        "steps": list(steps),
        "epsilon": float(np.finfo(net.dtype).eps),
        "start": dict(start),
        "layers": [
            {"name": part.name, "kind": part.kind, "tensors": list(part.tensors), "cancelled": list(part.cancelled)}
            for part in pairs[0].parts
        ],
        "tolerance": tolerances.published(net.dtype, adaptive),
        "backends": told,
        "comparisons": compared,
        "rounding": rounding,
        "twin": None if twin is None else twin.told(batch_size),
        "turns": sum(len(each.turns) for each in trainees),
        "disturbed_turns": sum(each.disturbed for each in trainees),
    }
