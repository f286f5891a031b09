"""A network that can be judged: what is wanted of its outputs, and how near it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xconv import metrics, optimizers
from xconv.backend import Array, Backend
from xconv.errors import ConfigError, described
from xconv.layers import Context
from xconv.models.guard import Guard
from xconv.models.heads import Head, heads
from xconv.models.network import Network
from xconv.models.rescue import Rescue
from xconv.models.step import Steps
from xconv.optimizers import Optimizer


class Objective(Network):
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
    ) -> None:
        """Say how it is trained. `loss`, `metrics` and `loss_weights` are as in Keras: one for all outputs, a list in
        their order, or a dict by output name. Without a loss, an earlier call's loss and metrics stay.

        `record`: whether training steps are recorded and replayed whole, which on a GPU saves Python's time and
        changes no result. None: where the backend can, unless there is code of your own in the step, such as a Lambda:
        what Python does in a step is done while it is recorded, and never again. True says that it may be, and makes it
        an error where steps are not recorded. `model.recording` tells what became of it.
        """
        rule, asked, found = optimizers.get(optimizer), self._asked, None
        if loss is not None:
            asked = loss, metrics, loss_weights
        elif metrics is not None or loss_weights is not None:
            raise ConfigError("compile: metrics and loss_weights need a loss. Received: loss=None")
        if self._graph is not None and asked[0] is not None:
            found = heads(self._graph, *asked)
        self._recorded.ask(record)
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

    def _targets(self, t: Any, n: int, what: str) -> list[np.ndarray]:
        """Each head's labels, checked, on the host."""
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
        return [head.targets(self._on_host(part), n, what) for head, part in zip(found, t, strict=True)]

    # ------------------------------------------------------------------ asking

    def evaluate(self, x: Any, y: Any, batch_size: int = 250, *, verbose: Any = 0, return_dict: bool = False) -> Any:
        """[loss, *metrics] as means over all examples, or the loss alone where there are no metrics.

        `verbose` 1 shows a bar. With `return_dict` they come by name.
        """
        logs = self.evaluated(x, y, batch_size, verbose=verbose)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    def evaluated(self, x: Any, y: Any, batch_size: int = 250, *, verbose: Any = 0) -> dict[str, float]:
        """What `evaluate` gives, by name."""
        xs = self._images(x, "evaluate: x")
        return self._measured(xs, self._targets(y, len(xs[0]), "evaluate: y"), batch_size, verbose)

    def _measured(
        self, xs: list[np.ndarray], ts: list[np.ndarray], batch_size: int = 250, verbose: Any = 0
    ) -> dict[str, float]:
        names = self.log_names()
        sums = np.zeros(len(names))
        for first, count, ys in self._batches(xs, batch_size, self._loss_plan(), verbose):
            with self.backend.running():
                labels = [self.backend.asarray(t[first : first + count]) for t in ts]
                values, _ = self._judged(ys, labels, None)
            sums += [float(self.backend.to_numpy(v).reshape(-1)[0]) for v in self.as_sums(values, count)]
        return dict(zip(names, (sums / len(xs[0])).tolist(), strict=True))

    def accuracy(self, x: Any, t: Any, batch_size: int = 100) -> float:
        """Fraction of the examples that are classified as `t` says, in bounded memory."""
        xs = self._images(x, "accuracy: x")
        (labels, *_) = self._targets(t, len(xs[0]), "accuracy: t")
        head = self._compiled("accuracy")[0]
        metric = metrics.get("accuracy", head.declared, head.shape)
        right = 0.0
        for first, count, ys in self._batches(xs, batch_size, self._plan([head.at])):
            with self.backend.running():
                here = self.backend.asarray(labels[first : first + count])
                total = metric.total(self.backend, ys[0], here, head.logits)
            right += float(self.backend.to_numpy(total))
        return right / len(xs[0])

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
