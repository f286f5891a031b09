"""The training steps of a model, one after the other: operation by operation, or recorded and replayed."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xconv import losses, metrics, optimizers, regularizers
from xconv.backend import Array
from xconv.backend.recording import NotRecorded, Recorder, Recording
from xconv.errors import ConfigError, RecordingError, RecordingWarning, XconvError, described
from xconv.layers import REGISTRY, Layer

if TYPE_CHECKING:
    from xconv.models.model import Model
    from xconv.models.objective import Objective

MOST = 4  # recordings of one model, each of other shapes and with memory of its own
_PATIENCE = 3  # recordings begun in vain, one after the other
_SOON = 5  # steps: who trains no longer misses nothing
_COUNTERS = frozenset(("steps", "_lr", "_schedule"))  # of an optimizer: told to the device before each step


class Batch(NamedTuple):
    """What a training step takes: inputs and labels, and a weight for each example or None."""

    xs: list[Array]
    ts: list[Array]
    weights: Array | None


class Steps:
    """What a model knows of its recordings.

    Steps of one shape are recorded once it has come twice in a row: not an epoch's last batch, if it is shorter. The
    recording holds fast the arrays that it computes with and every setting that Python reads; these are compared
    before each replay, and where one is another object now, a new recording begins.
    """

    def __init__(self) -> None:
        self.asked: bool | None = None
        self.seconds = 0.0  # spent on recording
        self._warned = False
        self.forget()

    def forget(self) -> None:
        """Drop the recordings, and what stood in their way: the model is another now, or elsewhere."""
        self._recordings: dict[Any, _Shape] = {}
        self._recorder: Recorder | None = None
        self._before: Any = None  # the last step's shapes
        self._held: list[Any] = []  # what the recordings hold fast
        self._settings: list[Any] = []  # of layers, likewise
        self._changes = -1  # of any layer, when these were last compared
        self._layers: list[Layer] = []
        self._others: list[Any] = []  # losses, metrics and regularizers
        self._in_vain = 0
        self._replayed = False
        self._verdict: str | None = None  # why not, "" where nothing is in the way
        self._until_told = 0  # steps until the user hears of it

    def ask(self, model: Objective, record: Any) -> None:
        """The setting `record`; RecordingError where it is True and the model's backend records nothing."""
        if record is not None and not isinstance(record, bool):
            raise ConfigError(f"compile: record must be True, False or None. Received: {described(record)}")
        if record and model.backend.recorder() is None:
            raise _unrecorded(model, f"backend {model.backend.name!r} records no steps")
        self.asked = record
        self.forget()

    def status(self, model: Model) -> str:
        """ "recorded", or why steps are not."""
        why = self._why_not(model)
        if why:
            return f"eager: {why}"
        return "recorded" if self._replayed else "eager until one shape of batch has come a few times in a row"

    def room(self, last: Batch | None, count: int) -> Batch | None:
        """What the recording of the last steps reads, where it is of batches like `last`, but of so many examples."""
        shape = self._recordings.get(self._before)
        if shape is None or last is None or len(shape.given[0]) != count:
            return None
        arrays = _arrays(last.xs, last.ts, last.weights)
        fits = [a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(arrays, shape.given, strict=False)]
        return shape.batch() if all(fits) and len(fits) == len(arrays) == len(shape.given) else None

    def __call__(
        self, model: Model, xs: Sequence[Array], ts: Sequence[Array], weights: Array | None
    ) -> Sequence[Array]:
        """One step: what `model.eager_step` does and gives."""
        if self._why_not(model):
            self._insist(model)
            self._until_told -= 1
            if self._until_told == 0:
                self._warn(self._why_not(model))
            return model.eager_step(xs, ts, weights)
        given = _arrays(xs, ts, weights)
        key = (*((a.shape, a.dtype.char) for a in given), weights is None)
        again, self._before = key == self._before, key
        if self._recordings and not self._is_current(model):
            # This step runs by itself, so that what is made anew, an optimizer's state, is not a recording's memory.
            self._recordings, again = {}, False
            self._in_vain += 1
        shape = self._recordings.get(key)
        if shape is None:
            if not again:
                return model.eager_step(xs, ts, weights)
            if self._in_vain == _PATIENCE:
                self._refuse(model, "arrays or settings of the model or its optimizer are replaced from step to step")
                return model.eager_step(xs, ts, weights)
            shape = self._begin(model, key, given, len(xs), weights is not None)
        return self._recorded(model, shape, given)

    def _begin(self, model: Model, key: Any, given: list[Array], inputs: int, weighted: bool) -> _Shape:
        with model.backend.running():
            if len(self._recordings) == MOST:
                del self._recordings[next(iter(self._recordings))]
            assert self._recorder is not None
            self._layers, self._others = _layers(model), _others(model)
            self._held, self._settings, self._changes = self._taken(model), self._of_layers(), Layer.changes
            made = [model.backend.empty(a.shape, a.dtype) for a in given]
            shape = self._recordings[key] = _Shape(self._recorder.recording(), made, inputs, weighted)
        return shape

    def _recorded(self, model: Model, shape: _Shape, given: list[Array]) -> Sequence[Array]:
        recording, start = shape.recording, time.perf_counter()
        try:
            with model.backend.running():
                for buffer, a in zip(shape.given, given, strict=True):
                    if a is not buffer:
                        buffer[...] = a
                recording(lambda: model.eager_step(*shape.batch()))
        except NotRecorded as error:
            self._refuse(model, str(error))
            return model.eager_step(*shape.batch())
        if recording.recorded:
            if not shape.replays:
                self.seconds += time.perf_counter() - start
            shape.replays += 1
            self._in_vain, self._replayed = 0, True
        shape.steps += 1
        return _Values(shape)

    def _is_current(self, model: Model) -> bool:
        """Whether all that the recordings hold fast is there still."""
        if Layer.changes != self._changes:
            self._changes = Layer.changes
            if not _same(self._settings, self._of_layers()):
                return False
        return _same(self._held, self._taken(model))

    def _taken(self, model: Model) -> list[Any]:
        """What a recorded step takes for given: arrays, and settings that Python read. Compared by identity."""
        optimizer, backend = model.optimizer, model.backend
        assert optimizer is not None
        taken = [model._plans, model._heads, model._parameters.flat, model._grads.flat, model._steps, model.totals]
        taken += model._guard.on(backend), backend, backend.workspace, backend.precision, model.seed, optimizer
        taken += [value for name, value in vars(optimizer).items() if name not in _COUNTERS]
        for layer in self._layers:
            taken += layer.params.values()
        for other in self._others:
            taken += vars(other).values()
        return taken

    def _of_layers(self) -> list[Any]:
        return [value for layer in self._layers for value in vars(layer).values()]

    # ------------------------------------------------------------------ what stands in the way

    def _why_not(self, model: Model) -> str:
        if self._verdict is None:
            self._verdict = self._judged(model)
        return self._verdict

    def _judged(self, model: Model) -> str:
        if self.asked is False:
            return "record=False"
        self._recorder = model.backend.recorder()
        if self._recorder is None:
            return f"backend {model.backend.name!r} records no steps"
        own = ", ".join(own_code(model) if self.asked is None else [])
        if own:
            self._until_told = _SOON
            return f"{own}: code of your own, which is recorded where record=True says that it may be"
        return ""

    def _refuse(self, model: Model, why: str) -> None:
        """Steps run by themselves from now on."""
        self._recordings, self._recorder, self._verdict = {}, None, f"the step cannot be recorded: {why}"
        self._insist(model)
        self._warn(self._verdict)

    def _insist(self, model: Model) -> None:
        if self.asked:
            raise _unrecorded(model, self._why_not(model))

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"training runs operation by operation, which is slower than recorded steps: {why}; "
                "compile(record=False) asks for that",
                RecordingWarning,
                stacklevel=6,
            )


class _Shape:
    """One recording, and the arrays that each batch of its shape is copied into."""

    def __init__(self, recording: Recording, given: list[Array], inputs: int, weighted: bool) -> None:
        self.recording, self.given = recording, given
        self._inputs, self._weighted = inputs, weighted
        self.steps = self.replays = 0

    def batch(self) -> Batch:
        """They themselves."""
        rest = self.given[self._inputs :]
        return Batch(
            self.given[: self._inputs],
            rest[:-1] if self._weighted else rest,
            rest[-1] if self._weighted else None,
        )


class _Values(Sequence[Array]):
    """What a recorded step gave: copied when asked for, since the next step writes over it."""

    def __init__(self, shape: _Shape) -> None:
        self._shape, self._step = shape, shape.steps

    def __len__(self) -> int:
        return len(self._shape.recording.result)

    def __getitem__(self, index: Any) -> Any:
        if self._step != self._shape.steps:
            raise XconvError(
                "train_step: its values must be taken before the next step, which writes over them. "
                f"Received: a look at those of {self._shape.steps - self._step} steps ago"
            )
        found = self._shape.recording.result[index]
        return [value.copy() for value in found] if isinstance(index, slice) else found.copy()


def _unrecorded(model: Objective, why: str) -> RecordingError:
    return RecordingError(
        f"{model.name}: the training step was to be recorded, and is not: {why}; "
        "compile(record=None) records where it can be. Received: record=True"
    )


def _arrays(xs: Sequence[Array], ts: Sequence[Array], weights: Array | None) -> list[Array]:
    return [*xs, *ts, *(() if weights is None else (weights,))]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


def _layers(model: Model) -> list[Layer]:
    return list(dict.fromkeys(node.layer for node in model.graph.nodes))


def _others(model: Model) -> list[Any]:
    judges = [part for head in model._compiled("train_step") for part in (head.loss, *head.metrics)]
    return [*judges, *(regularizer for _, regularizer in model._penalties())]


def own_code(model: Model) -> list[str]:
    """The parts of a step that are not xconv's."""
    found = [
        layer.label
        for layer in _layers(model)
        if REGISTRY.get(type(layer).__name__) is not type(layer) or not getattr(layer, "portable", True)
    ]
    heads = model._compiled("train_step")
    for what, kinds, parts in (
        ("loss", losses.CLASSES, [head.loss for head in heads]),
        ("metric", metrics.NAMED, [metric for head in heads for metric in head.metrics]),
        ("regularizer", regularizers.CLASSES, [regularizer for _, regularizer in model._penalties()]),
        ("optimizer", optimizers.NAMED, [model.optimizer]),
    ):
        names = [getattr(part, "name", type(part).__name__) for part in parts if type(part) not in kinds.values()]
        found += [f"{what} {name}" for name in dict.fromkeys(names)]
    return found
