"""A network that can be trained: loss, gradient, one training step, fit, and its files."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xconv import metrics, optimizers
from xconv.backend import Array
from xconv.callbacks import Callback, History
from xconv.errors import ConfigError, DeadNetworkWarning, described
from xconv.layers import Context
from xconv.models import files, summary
from xconv.models.heads import Head, heads
from xconv.models.network import Network, listed
from xconv.models.training import Fit
from xconv.optimizers import Optimizer
from xconv.parameters import Parameters
from xconv.plan import Tape


class Model(Network):
    """A graph of layers from `inputs` to `outputs`, each a tensor or a list of them: ``Model(x, y)``.

    `backend` is "numpy", "numba", "cupy", "auto" or None ($XCONV_BACKEND, else "auto"). The same `seed` gives the same
    initial weights, shuffles and dropout masks on every backend. `fuse=False` runs every layer by itself. Arrays that
    come and go have the batch axis first and the axis order of the inputs' data format.
    """

    def _settings(self, *settings: Any) -> None:
        super()._settings(*settings)
        self.optimizer: Optimizer | None = None
        self._asked: tuple[Any, Any, Any] = (None, None, None)  # loss, metrics, loss weights
        self.history: History | None = None
        self.stop_training = False

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        super()._set_graph(inputs, outputs)
        self._heads: list[Head] | None = None

    # ------------------------------------------------------------------ what is wanted of it

    def compile(
        self,
        optimizer: str | Optimizer = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
    ) -> None:
        """Say how it is trained. `loss`, `metrics` and `loss_weights` are as in Keras: one for all outputs, a list in
        their order, or a dict by output name. Without a loss, an earlier call's loss and metrics stay.
        """
        self.optimizer = optimizers.get(optimizer)
        if loss is not None:
            self._asked = loss, metrics, loss_weights
        elif metrics is not None or loss_weights is not None:
            raise ConfigError("compile: metrics and loss_weights need a loss. Received: loss=None")
        self._heads = None
        if self._graph is not None and self._asked[0] is not None:
            self._compiled("compile")

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
        """What training and evaluation measure, in order: "loss", then each output's own."""
        found = self._compiled("fit")
        if len(found) == 1:
            return ["loss", *(metric.name for metric in found[0].metrics)]
        own = [[f"{h.name}_loss", *(f"{h.name}_{metric.name}" for metric in h.metrics)] for h in found]
        return ["loss", *(name for names in own for name in names)]

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

    def gradient(self, x: Any, t: Any) -> Parameters:
        """The gradient of the loss of this batch by every parameter, under the names of `params`. Changes nothing."""
        xs = self._images(x, "gradient: x")
        ts = self._targets(t, len(xs[0]), "gradient: t")
        grads = self._parameters.like()
        with self.backend.running():
            self._forward_backward(self._here(xs), [self.backend.asarray(part) for part in ts], None, grads)
        return self._public_of(grads)

    # ------------------------------------------------------------------ one step

    def _loss_plan(self) -> Any:
        return self._plan([head.at for head in self._compiled("fit")])

    def _judged(
        self, ys: Sequence[Array], ts: Sequence[Array], weights: Array | None
    ) -> tuple[list[Array], list[Array]]:
        """([loss[1], then each head's own loss[1] and metric sums], the loss's gradient by each y)."""
        found = self._compiled("fit")
        total, values, dys = None, [], []
        for head, y, t in zip(found, ys, ts, strict=True):
            loss, dy = head.loss(self.backend, y, t, weights)
            if len(found) > 1:
                values.append(loss)
            values += [metric.total(self.backend, y, t, head.logits) for metric in head.metrics]
            if head.weight != 1.0:
                loss, dy = loss * head.weight, dy * head.weight
            total = loss if total is None else total + loss
            dys.append(dy)
        for name, regularizer in self._penalties():
            total = total + regularizer.penalty(self.backend.xp, self._parameters[name])
        return [total, *values], dys

    def _penalties(self) -> list[tuple[str, Any]]:
        return [(name, spec.regularizer) for name, (_, _, spec) in self.graph.specs.items() if spec.regularizer]

    def as_sums(self, values: Sequence[Array], count: int) -> list[Array]:
        """What `_judged` gave of a batch of `count`, each as its sum over the batch: losses are means, metrics sums."""
        sums = [values[0] * float(count)]
        rest = iter(values[1:])
        for head in self._compiled("fit"):
            if len(self._compiled("fit")) > 1:
                sums.append(next(rest) * float(count))
            sums += [next(rest) for _ in head.metrics]
        return sums

    def _forward_backward(
        self,
        xs: Sequence[Array],
        ts: Sequence[Array],
        weights: Array | None,
        grads: Parameters,
        *,
        update: bool = False,
    ) -> list[Array]:
        """Fills `grads`; gives the values of `_judged`. `update` moves moving statistics, as a training step does."""
        tape: Tape = []
        plan = self._loss_plan()
        ctx = Context(train=True, seed=self.seed, step=self._steps)
        ys = [self._leave(y) for y in plan.forward(self._enter(xs), ctx, tape)]
        values, dys = self._judged(ys, ts, weights)
        if update:
            for run, saved in tape:
                run.layer.update(saved)
        plan.backward([self._leave(dy, back=True) for dy in dys], tape, grads)
        for name, regularizer in self._penalties():
            if name not in grads.fixed:
                view = grads[name]
                view += regularizer.gradient(self.backend.xp, self._parameters[name])
        return values

    @property
    def _grads(self) -> Parameters:
        parameters = self._parameters
        if self._gradients is None:
            self._gradients = parameters.like()
        return self._gradients

    def train_step(self, x: Any, t: Any, weights: Array | None = None) -> list[Array]:
        """One step of the optimizer on a batch that is on the device: x[N, *input_shape] and labels as losses take them
        (lists where there are several), weights[N] or None.

        Gives the loss[1] and the metrics' sums, on the device. Nothing in it waits for the host or moves data there, so
        a backend may record it and replay it.
        """
        optimizer = self._optimizer("train_step")
        optimizer.tick()
        with self.backend.running():
            values = self._forward_backward(listed(x), listed(t), weights, self._grads, update=True)
            optimizer.apply(self._parameters, self._grads)
            self._steps += 1
        return values

    def train_on_batch(self, x: Any, y: Any, class_weight: Mapping[int, float] | None = None) -> Any:
        """One step on a batch on the host, checked; [loss, *metrics] before the step, or the loss alone."""
        xs = self._images(x, "train_on_batch: x")
        ts = self._targets(y, len(xs[0]), "train_on_batch: y")
        weights = self._example_weights(ts, class_weight, "train_on_batch")
        here = None if weights is None else self.backend.asarray(weights, self.dtype)
        values = self.train_step(self._here(xs), [self.backend.asarray(t) for t in ts], here)
        sums = [float(self.backend.to_numpy(v).reshape(-1)[0]) for v in self.as_sums(values, len(xs[0]))]
        return [value / len(xs[0]) for value in sums] if len(sums) > 1 else sums[0] / len(xs[0])

    def _example_weights(self, ts: Sequence[np.ndarray], given: Any, what: str) -> np.ndarray | None:
        """A weight for each example, from one for each class."""
        if given is None:
            return None
        classes = self._compiled(what)[0].shape[-1]
        if len(ts) != 1 or not isinstance(given, Mapping):
            raise ConfigError(
                f"{what}: class_weight is a dict of class and weight, for a network of one output. "
                f"Received: {described(given)}"
            )
        known = range(2) if classes == 1 else range(classes)
        table = np.ones(len(known))
        for label, weight in given.items():
            if label not in known or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ConfigError(
                    f"{what}: class_weight: expected classes from 0 to {known[-1]} with weights >= 0. "
                    f"Received: {described(label)}: {described(weight)}"
                )
            table[label] = weight
        labels = ts[0] if ts[0].dtype.kind in "iu" else ts[0].argmax(-1) if classes > 1 else ts[0].reshape(len(ts[0]))
        if labels.ndim != 1:
            raise ConfigError(f"{what}: class_weight needs one label for each example. Received: {described(labels)}")
        return table[labels.astype(np.int64)]

    # ------------------------------------------------------------------ training

    def warm_up(self) -> float:
        """Compile every kernel that training and prediction will use; returns the seconds it took."""
        start = time.perf_counter()
        graph = self.graph
        xs = self._here([np.zeros((2, *self._given_shape(i)), self.dtype) for i in graph.inputs])
        ts = [self.backend.asarray(head.example(2)) for head in self._compiled("warm_up")]
        with self.backend.running():
            self._forward_backward(xs, ts, None, self._parameters.like())
        self.predict([self.backend.to_numpy(x) for x in xs])
        if self.optimizer is not None:
            scratch = Parameters(self.backend, {"w": (1,)}, self.dtype)
            with self.backend.running():
                self.optimizer.fresh().update(scratch, scratch.like())
        self.backend.synchronize()
        return time.perf_counter() - start

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 32,
        epochs: int = 1,
        verbose: Any = "auto",
        *,
        callbacks: Sequence[Callback] = (),
        validation_split: float = 0.0,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        initial_epoch: int = 0,
    ) -> History:
        """Train on x[N, *input_shape] and labels y, shuffled anew each epoch.

        After each epoch the history gains loss and metrics (means over the epoch's training batches, as they were
        seen), val_loss and so on (of `validation_data`, or of the last `validation_split` of the examples), seconds and
        images_per_second (training steps alone). `verbose`: 0 nothing, 1 a bar an epoch, 2 a line an epoch, "auto" a
        bar in a terminal or notebook and else lines. NonFiniteError stops a run whose loss became NaN or infinite; a
        network that died is warned of.
        """
        run = Fit(
            self,
            self._optimizer("fit"),
            batch_size=batch_size,
            epochs=epochs,
            initial_epoch=initial_epoch,
            shuffle=shuffle,
            callbacks=callbacks,
            verbose=verbose,
        )
        xs = self._images(x, "fit: x")
        ts = self._targets(y, len(xs[0]), "fit: y")
        weights = self._example_weights(ts, class_weight, "fit")
        return run(xs, ts, weights, validation_split, validation_data)

    def warn_if_dead(self, grads: Parameters, loss: float) -> None:
        """DeadNetworkWarning where a batch's gradients say that every ReLU of some layer is shut.

        A shut ReLU passes no gradient: where all are, nothing reaches the first layer, and only the last bias learns.
        """
        names = [name for name in grads if name not in grads.fixed]
        if not names or len(self._compiled("fit")) != 1 or self.classes < 2 or not math.isfinite(loss):
            return
        first, last = grads[names[0]], grads[names[-1]]
        if not bool(self.backend.to_numpy((first != 0).any())) and bool(self.backend.to_numpy((last != 0).any())):
            warnings.warn(
                f"the network is dead: the loss is {loss:.3f}, where guessing among {self.classes} classes gives "
                f"ln({self.classes}) = {math.log(self.classes):.3f}, and the gradients of {names[0]} are all zero. "
                "Some layer's ReLUs are shut for every image, and training cannot open them again. "
                "Cure: a smaller learning rate, He initialisation, or another seed.",
                DeadNetworkWarning,
                stacklevel=5,
            )

    # ------------------------------------------------------------------ looking and keeping

    def summary(self, *, batch_size: int = 32, print_fn: Any = print) -> None:
        """Print the layers with output shapes and parameters, as Keras does. Allocates no parameters."""
        print_fn(summary.text(self, batch_size))

    def save(self, path: str | Path) -> None:
        """Write architecture and parameters to one safetensors file, atomically; `xconv.load` makes the model again."""
        files.save(self, path)

    def save_weights(self, path: str | Path) -> None:
        """As `save`: one file form for both."""
        files.save(self, path)

    def load_weights(self, path: str | Path) -> None:
        """Read parameters that `save` wrote, on any backend; names and shapes must be this model's."""
        files.load_weights(self, path)
