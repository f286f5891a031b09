"""A network that can be judged: what is wanted of its outputs, and how near it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from xconv import checks, metrics, optimizers
from xconv.backend import Array, Backend
from xconv.data.sources import Source, on_disk
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers import Context
from xconv.models.batches import Checked, Examples, Late, Stream, is_stream
from xconv.models.guard import Guard
from xconv.models.heads import Head, heads
from xconv.models.inference import BATCH, Inference, no_batch_size, no_steps
from xconv.models.rescue import Rescue
from xconv.models.step import Steps
from xconv.optimizers import Optimizer
from xconv.shapes import positive

EXPECTED = "expected optimizer, loss, metrics, loss_weights or record"
KERAS = {  # what Keras's compile takes besides, and what xconv has instead
    "run_eagerly": "record=False runs training steps operation by operation",
    "steps_per_execution": "steps follow one another without waiting as it is, and are recorded with record=True",
    "jit_compile": "kernels are compiled before the first step as it is",
    "auto_scale_loss": "losses need no scaling, as gradients are float32 or float64 whatever the precision",
    "weighted_metrics": "metrics are not weighted; give them as metrics",
}


class Objective(Inference):
    """A network with losses and metrics. `Model` is one that can be trained too."""

    def _settings(self, *settings: Any) -> None:
        super()._settings(*settings)
        self.optimizer: Optimizer | None = None
        self._recorded, self._rescue, self._guard = Steps(), Rescue(), Guard()
        self._totals: tuple[Backend, Array] | None = None
        self._asked: tuple[Any, Any, Any] = (None, None, None)  # loss, metrics, loss weights

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        super()._set_graph(inputs, outputs)
        self._heads: list[Head] | None = None

    def _forget(self) -> None:
        super()._forget()
        self._recorded.forget()

    # ------------------------------------------------------------------ what is wanted of it

    def compile(
        self,
        optimizer: str | Optimizer = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        *,
        record: bool | None = None,
        **others: Any,
    ) -> None:
        """Say how it is trained. `loss`, `metrics` and `loss_weights` are as in Keras: one for all outputs, a list in
        their order, or a dict by output name. Without a loss, an earlier call's loss and metrics stay.

        `record`: whether training steps are recorded and replayed whole, which on a GPU saves Python's time and
        changes no result. None: where the backend can, unless there is code of your own in the step, such as a Lambda:
        what Python does in a step is done while it is recorded, and never again. True says that it may be, and makes it
        an error where steps are not recorded. `model.recording` tells what became of it.
        """
        for name in others:
            raise ConfigError(f"compile: no such argument: {KERAS.get(name, EXPECTED)}. Received: {name}")
        rule, asked, found = optimizers.get(optimizer), self._asked, None
        if loss is not None:
            asked = loss, metrics, loss_weights
        elif metrics is not None or loss_weights is not None:
            raise ConfigError("compile: metrics and loss_weights need a loss. Received: loss=None")
        if self._graph is not None and asked[0] is not None:
            found = heads(self._graph, *asked)
        self._recorded.ask(self, record)
        self.optimizer, self._asked, self._heads = rule, asked, found  # all or nothing
        self._totals = None

    def _compiled(self, what: str) -> list[Head]:
        if self._asked[0] is None:
            raise ConfigError(
                f"{what}: the model needs a loss: call model.compile(optimizer, loss) first. Received: no loss"
            )
        if self._heads is None:
            self._heads = heads(self.graph, *self._asked)
        return self._heads

    def _optimizer(self, what: str) -> Optimizer:
        if self.optimizer is None:
            raise ConfigError(f"{what}: call model.compile(optimizer, loss) first. Received: no optimizer")
        return self.optimizer

    def log_names(self) -> list[str]:
        """What training and evaluation measure, in Keras's order: "loss", each output's loss, each output's metrics."""
        found = self._compiled("fit")
        if len(found) == 1:
            return ["loss", *(metric.name for metric in found[0].metrics)]
        own = [f"{head.name}_{metric.name}" for head in found for metric in head.metrics]
        return ["loss", *(f"{head.name}_loss" for head in found), *own]

    @property
    def totals(self) -> Array:
        """float64 on the device, one for each of `log_names`: what training steps add their sums to."""
        if self._totals is None:
            self._totals = self.backend, self.backend.asarray(np.zeros(len(self.log_names())))
        elif self._totals[0] is not self.backend:
            self._totals = self.backend, self.backend.asarray(self._totals[0].to_numpy(self._totals[1]))
        return self._totals[1]

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` gives, in its order."""
        return self.log_names()

    def _targets(self, t: Any, n: int, what: str, *, late: bool = False) -> list[Any]:
        """Each head's labels, checked, on the host.

        With `late`, Sources and np.memmap arrays stay Sources, whose labels are checked when they are read.
        """
        found = self._compiled(what.partition(":")[0])
        names = [head.name for head in found]
        if isinstance(t, Mapping):
            if set(t) != set(names):
                raise ConfigError(f"{what}: expected labels for the outputs {names}. Received: {list(t)}")
            t = [t[name] for name in names]
        elif len(found) == 1:
            t = [t]
        if not isinstance(t, list | tuple) or len(t) != len(found):
            raise ConfigError(f"{what}: expected a list of labels for the outputs {names}. Received: {described(t)}")
        given = [on_disk(self._on_host(part)) if late else self._on_host(part) for part in t]
        return [
            _late(head, part, n, what) if late and isinstance(part, Source) else head.targets(part, n, what)
            for head, part in zip(found, given, strict=True)
        ]

    def _weights(self, ts: Sequence[Any], table: np.ndarray | None, given: Any, what: str) -> np.ndarray | None:
        """A weight for each example, from one for each class, one for each example, or both."""
        weights = None if table is None else self._class_weights(ts, table, what)
        if given is None:
            return weights
        given = checks.host_array(given, f"{what}: sample_weight")
        if given.shape != (len(ts[0]),):
            raise ShapeError(
                f"{what}: sample_weight: expected a weight for each of {len(ts[0])} examples. "
                f"Received: {described(given)}"
            )
        checks.finite(given, f"{what}: sample_weight", self.dtype)
        return given.astype(np.float64) if weights is None else weights * given

    def _class_table(self, given: Any, what: str) -> np.ndarray:
        """The weight of each class."""
        found = self._compiled(what)
        classes = found[0].shape[-1]
        if len(found) != 1 or not isinstance(given, Mapping):
            raise ConfigError(
                f"{what}: class_weight is a dict of class and weight, for a network of one output. "
                f"Received: {described(given)}"
            )
        known = range(2) if classes == 1 else range(classes)
        table = np.ones(len(known))
        for label, weight in given.items():
            number = isinstance(weight, int | float | np.number) and 0 <= weight < math.inf
            if isinstance(label, bool) or not isinstance(label, int | np.integer) or label not in known or not number:
                raise ConfigError(
                    f"{what}: class_weight: expected classes from 0 to {known[-1]} with weights >= 0. "
                    f"Received: {described(label)}: {described(weight)}"
                )
            table[label] = weight
        return table

    def _class_weights(self, ts: Sequence[np.ndarray], table: np.ndarray, what: str) -> np.ndarray:
        """The weight of each example, by its class."""
        classes = self._compiled(what.partition(":")[0])[0].shape[-1]
        labels = ts[0] if ts[0].dtype.kind in "iu" else ts[0].argmax(-1) if classes > 1 else ts[0].reshape(len(ts[0]))
        if labels.ndim != 1:
            raise ConfigError(f"{what}: class_weight needs one label for each example. Received: {described(labels)}")
        return table[labels.astype(np.int64)]

    def _labelled(
        self,
        x: Any,
        y: Any,
        what: str,
        role: str = "",
        *,
        sample_weight: Any = None,
        class_weight: Any = None,
        batch_size: Any = None,
        steps: Any = None,
        names: tuple[str, str] = ("batch_size", "steps"),
        rounds: int = 1,
    ) -> Examples | Stream:
        """Examples with labels and weights, or batches of them.

        Messages begin with `what` and call the arguments `role` x and y; `names` are those of batch_size and steps.
        """
        table = None if class_weight is None else self._class_table(class_weight, what)
        if is_stream(x):
            for name, value in (("y", y), ("sample_weight", sample_weight)):
                if value is not None:
                    raise ConfigError(
                        f"{what}: {role}{name} comes with each batch of a generator, iterable or Sequence: leave it "
                        f"out. Received: {described(value)}"
                    )
            no_batch_size(batch_size, what, names[0])

            def weigh(ts: Sequence[np.ndarray], given: Any, where: str) -> np.ndarray | None:
                return self._weights(ts, table, given, where)

            stream = Stream(self, x, what, role, steps=steps, steps_name=names[1], rounds=rounds, weigh=weigh)
            self._shaped_by_first(stream)
            return stream
        no_steps(steps, what, names[1])
        late = Late(f"{what}: {role}x")
        xs = self._images(x, late.what, late=late)
        if y is None:
            raise ConfigError(f"{what}: expected {role}y, the labels. Received: None")
        ts = self._targets(y, len(xs[0]), f"{what}: {role}y", late=True)
        if table is None or not any(isinstance(t, Source) for t in ts):
            return Examples(xs, ts, self._weights(ts, table, sample_weight, what), late=late)
        return Examples(
            xs,
            ts,
            self._weights(ts, None, sample_weight, what),
            lambda ts, given: self._weights(ts, table, given, what),
            late,
        )

    # ------------------------------------------------------------------ asking

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        *,
        verbose: Any = 0,
        sample_weight: Any = None,
        steps: int | None = None,
        return_dict: bool = False,
    ) -> Any:
        """[loss, *metrics] as means over all examples, or the loss alone where there are no metrics.

        x and y are as in `fit`: arrays, np.memmap arrays or Sources, taken `batch_size` (250) at a time; or x gives
        batches, of which the first `steps` are taken. `sample_weight` weights the loss of examples. `verbose` 1 shows a
        bar. With `return_dict` they come by name.
        """
        given = {"sample_weight": sample_weight, "batch_size": batch_size, "steps": steps}
        logs = self._measured(self._labelled(x, y, "evaluate", **given), batch_size, verbose)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    def _measured(self, data: Examples | Stream, batch_size: Any = None, verbose: Any = 0) -> dict[str, float]:
        names, backend = self.log_names(), self.backend
        sums, seen = np.zeros(len(names)), 0
        size = BATCH if batch_size is None else positive(batch_size, "batch_size")
        with closing(self._batches(data, size, self._loss_plan(), verbose)) as batches:
            for part, ys in batches:
                with backend.running():
                    labels = [backend.asarray(t) for t in part.ts]
                    weights = None if part.weights is None else backend.asarray(part.weights, self.dtype)
                    values, _ = self._judged(ys, labels, weights)
                sums += [float(backend.to_numpy(v).reshape(-1)[0]) for v in self.as_sums(values, part.size)]
                seen += part.size
        return dict(zip(names, (sums / seen).tolist(), strict=True))

    def accuracy(self, x: Any, t: Any, batch_size: int = 100) -> float:
        """Fraction of the examples that are classified as `t` says, in bounded memory."""
        late = Late("accuracy: x")
        xs = self._images(x, late.what, late=late)
        (labels, *_) = self._targets(t, len(xs[0]), "accuracy: t", late=True)
        head = self._compiled("accuracy")[0]
        metric = metrics.get("accuracy", head.declared, head.shape)
        right, data = 0.0, Examples(xs, [labels], late=late)
        with closing(self._batches(data, positive(batch_size, "batch_size"), self._plan([head.at]))) as batches:
            for part, ys in batches:
                with self.backend.running():
                    total = metric.total(self.backend, ys[0], self.backend.asarray(part.ts[0]), head.logits)
                right += float(self.backend.to_numpy(total))
        return right / len(data)

    def loss(self, x: Any, t: Any) -> float:
        """The loss of this batch, penalties on weights included."""
        xs = self._images(x, "loss: x")
        ts = self._targets(t, len(xs[0]), "loss: t")
        plan = self._loss_plan()
        with self.backend.running():
            ys = [self._leave(y) for y in plan.forward(self._enter(self._here(xs)), Context(seed=self.seed))]
            values, _ = self._judged(ys, [self.backend.asarray(part) for part in ts], None)
        return float(self.backend.to_numpy(values[0])[0])

    def _loss_plan(self) -> Any:
        return self._plan([head.at for head in self._compiled("fit")])

    def _judged(
        self, ys: Sequence[Array], ts: Sequence[Array], weights: Array | None
    ) -> tuple[list[Array], list[Array]]:
        """([loss[1], each head's own loss[1] where there are several, each metric's sum], the gradient by each y)."""
        found = self._compiled("fit")
        total, losses, measured, dys = None, [], [], []
        for head, y, t in zip(found, ys, ts, strict=True):
            loss, dy = head.loss(self.backend, y, t, weights)
            losses.append(loss)
            measured += [metric.total(self.backend, y, t, head.logits) for metric in head.metrics]
            if head.weight != 1.0:
                loss, dy = loss * head.weight, dy * head.weight
            total = loss if total is None else total + loss
            dys.append(dy)
        for name, regularizer in self._penalties():
            total = total + regularizer.penalty(self.backend.xp, self._parameters[name])
        return [total, *(losses if len(found) > 1 else ()), *measured], dys

    def _penalties(self) -> list[tuple[str, Any]]:
        return [(name, spec.regularizer) for name, (_, _, spec) in self.graph.specs.items() if spec.regularizer]

    def as_sums(self, values: Sequence[Array], count: int) -> list[Array]:
        """What `_judged` gave of a batch of `count`, each as its sum over the batch: losses are means, metrics sums."""
        heads = len(self._compiled("fit"))
        means = 1 + (heads if heads > 1 else 0)
        with self.backend.running():
            return [value * float(count) for value in values[:means]] + list(values[means:])


def _late(head: Head, labels: Source, n: int, what: str) -> Source:
    """Labels that are checked when they are read; the first of them now, so that a wrong kind is told of at once."""
    checks.source(labels, what)
    if len(labels) != n:
        raise ShapeError(
            f"{what}: expected labels for {n} examples, as many as there are inputs. Received: labels for {len(labels)}"
        )
    source = Checked(labels, what, lambda part, where: head.targets(part, len(part), where))
    source.take(np.zeros(1, np.int64))
    return source
