"""A network that can be trained: gradient, one training step, fit, and its files."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xconv.backend import Array
from xconv.callbacks import Callback, History
from xconv.errors import ConfigError, DeadNetworkWarning, OutOfMemoryError, RecordingError, described
from xconv.layers import Context, Layer
from xconv.models import files, guard, summary
from xconv.models.network import listed
from xconv.models.objective import Objective
from xconv.models.rescue import told, with_room
from xconv.models.step import Batch
from xconv.models.training import Fit
from xconv.parameters import Parameters
from xconv.plan import Tape


class Model(Objective):
    """A graph of layers from `inputs` to `outputs`, each a tensor or a list of them: ``Model(x, y)``.

    `backend` is "numpy", "numba", "cupy", "auto" or None ($XCONV_BACKEND, else "auto"). The same `seed` gives the same
    initial weights, shuffles and dropout masks on every backend. `fuse=False` runs every layer by itself. Arrays that
    come and go have the batch axis first and the axis order of the inputs' data format.
    """

    def _settings(self, *settings: Any) -> None:
        super()._settings(*settings)
        self.history: History | None = None
        self.stop_training = False

    # ------------------------------------------------------------------ one step

    def gradient(self, x: Any, t: Any) -> Parameters:
        """The gradient of the loss of this batch by every parameter, under the names of `params`. Changes nothing."""
        xs = self._images(x, "gradient: x")
        ts = self._targets(t, len(xs[0]), "gradient: t")
        grads = self._parameters.like()
        with self.backend.running():
            self._forward_backward(self._here(xs), [self.backend.asarray(part) for part in ts], None, grads)
        return self._public_of(grads)

    def _forward_backward(
        self,
        xs: Sequence[Array],
        ts: Sequence[Array],
        weights: Array | None,
        grads: Parameters,
        learnt: list[tuple[Layer, Any]] | None = None,
    ) -> list[Array]:
        """Fills `grads`; gives the values of `_judged`. `learnt` gains what layers' `update` takes, at the step's end.

        Changes nothing else, so that a step which fails here can be done again.
        """
        tape: Tape = []
        plan = self._loss_plan()
        ctx = Context(train=True, seed=self.seed, step=self._steps)
        ys = [self._leave(y) for y in plan.forward(self._enter(xs), ctx, tape)]
        values, dys = self._judged(ys, ts, weights)
        if learnt is not None:
            moved = [(run.layer, saved) for run, saved in tape if type(run.layer).update is not Layer.update]
            learnt += [(layer, layer.learnt(saved)) for layer, saved in moved]
            del moved
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

    def train_step(self, x: Any, t: Any, weights: Array | None = None) -> Sequence[Array]:
        """One step of the optimizer on a batch that is on the device: x[N, *input_shape] and labels as losses take them
        (lists where there are several), weights[N] or None.

        Gives the loss[1] and the metrics' sums, on the device, and adds them to `totals`. Where steps are recorded,
        they are those of the recording: to be taken before the next step. A step whose loss is not finite changes
        nothing else, nor does one whose gradients are not, whose loss is NaN: it tells, and the next step goes on from
        there. (Only the place in a schedule counts it until `fit` or `train_on_batch` meet the host.)
        """
        optimizer = self._optimizer("train_step")
        self._ready()
        optimizer.tick()
        try:
            return self._rescue.step(self, listed(x), listed(t), weights)
        except (RecordingError, OutOfMemoryError):
            optimizer.untick()  # the step was not done
            raise

    def eager_step(self, xs: Sequence[Array], ts: Sequence[Array], weights: Array | None) -> Sequence[Array]:
        """What the device does in a step, operation by operation. Once done, it can be recorded and replayed."""
        with self.backend.running():
            learnt: list[tuple[Layer, Any]] = []
            self._optimizer("train_step").ready(self._parameters)
            values = self._forward_backward(xs, ts, weights, self._grads, learnt)
            values[0] = self.judged_by_gradients(values[0])
            self.changed_by(self.as_sums(values, len(xs[0])), learnt)
        return values

    def judged_by_gradients(self, loss: Array) -> Array:
        """The loss of a step; NaN, as which it counts, where it is finite and a gradient is not."""
        for part in self._parameters.trained():
            loss = self.backend.judged_loss(loss, self._grads.flat[part])
        return loss

    def changed_by(self, sums: Sequence[Array], learnt: Sequence[tuple[Layer, Any]] = ()) -> None:
        """What a step does once the gradients are there; `sums` are `as_sums` of its values, the loss first.

        Nothing but `totals` changes where the loss is not finite.
        """
        state, totals = self._guard.on(self.backend), self.totals
        going = state[:1]

        def change() -> None:
            try:
                self._optimizer("train_step").apply(self._parameters, self._grads, going)
                for layer, kept in learnt:
                    layer.update(kept)
            except MemoryError as error:
                raise OutOfMemoryError(
                    f"{self.name}: out of memory while parameters were updated: some may be, and some not; go on from "
                    f"what was saved last. Received: {error}"
                ) from error

        self.backend.guard(state, sums[0])
        self.backend.when(going, change, guard.written(self, learnt))
        self._steps += going
        for i, value in enumerate(sums):
            totals[i : i + 1] += value

    def room(self, last: Batch | None, count: int) -> Batch | None:
        """Where the next batch may be put, one like the last but of `count` examples, to save the copy of it."""
        return self._recorded.room(last, count)

    @property
    def recording(self) -> str:
        """ "recorded", once training steps are replayed from a recording, or "eager: " and why they are not."""
        return self._recorded.status(self)

    @property
    def recording_seconds(self) -> float:
        """Time spent on recording training steps, so far."""
        return self._recorded.seconds

    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None
    ) -> Any:
        """One step on a batch on the host, checked; [loss, *metrics] before the step, or the loss alone.

        A loss that is NaN or infinite says that the step was not done: the model is as it was. Where a gradient is
        NaN or infinite, the loss given is NaN.
        """
        xs = self._images(x, "train_on_batch: x")
        ts = self._targets(y, len(xs[0]), "train_on_batch: y")
        table = None if class_weight is None else self._class_table(class_weight, "train_on_batch")
        weights = self._weights(ts, table, sample_weight, "train_on_batch")
        here = None if weights is None else self.backend.asarray(weights, self.dtype)
        values = self.train_step(self._here(xs), [self.backend.asarray(t) for t in ts], here)
        sums = [float(self.backend.to_numpy(v).reshape(-1)[0]) for v in self.as_sums(values, len(xs[0]))]
        if not math.isfinite(sums[0]):
            self._guard.settle(self)
        return [value / len(xs[0]) for value in sums] if len(sums) > 1 else sums[0] / len(xs[0])

    def test_on_batch(self, x: Any, y: Any) -> Any:
        """[loss, *metrics] of one batch, or the loss alone."""
        return self.evaluate(x, y, batch_size=1 << 62)

    # ------------------------------------------------------------------ training

    def warm_up(self) -> float:
        """Compile every kernel that training and prediction will use, on two examples; gives the seconds it took."""
        start = time.perf_counter()
        cure = 'take a smaller network, free memory that others hold, or take backend="numba"'
        with_room(self, self._warmed_up, "a training step of 2 examples, from which kernels are compiled,", cure)
        return time.perf_counter() - start

    def _warmed_up(self) -> None:
        graph, _, _ = self.graph, self.totals, self._guard.on(self.backend)  # what the first step would make
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

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        *,
        callbacks: Sequence[Callback] = (),
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
        augmentation: Any = None,
    ) -> History:
        """Train on x[N, *input_shape] and labels y, `batch_size` (32) at a time, shuffled anew each epoch.

        Arrays may be np.memmap, which stay on disk, or `xconv.data.Source`: these are checked as they are read. Or x
        gives batches (x, y) or (x, y, sample_weight), of any size: an `xconv.utils.Sequence`, whose batches are
        shuffled; a generator, `steps_per_epoch` of which make an epoch; any other iterable, gone through anew each
        epoch, to its end or for so many steps. What is read so late is prepared by a thread, two batches ahead at most.

        After each epoch the history gains loss and metrics (means over the epoch's training batches, as they were
        seen), val_loss and so on, of `validation_data`, (x, y) or (x, y, sample_weight) or what gives batches
        (`validation_steps` of them), or of the last `validation_split` of the examples. `validation_freq` n does so
        after each n-th epoch, or after those of a list, which counts from 1; `validation_batch_size` is 250.

        `augmentation`, an `xconv.data.Augmentation`, changes the images of training batches. `class_weight` (a dict)
        and `sample_weight` (an array) weight the loss of examples. `verbose`: 0 nothing, 1 a bar an epoch, 2 a line an
        epoch, "auto" a bar in a terminal or notebook and else lines. NonFiniteError stops a run whose loss became NaN
        or infinite (it counts as NaN where a gradient is): neither that step nor any after it changed the model, so
        that training can go on with a smaller learning rate. A network that died is warned of.
        """
        run = Fit(
            self,
            self._optimizer("fit"),
            epochs=epochs,
            initial_epoch=initial_epoch,
            shuffle=shuffle,
            callbacks=callbacks,
            verbose=verbose,
            validation_freq=validation_freq,
        )
        run.training_on(
            x,
            y,
            batch_size,
            steps_per_epoch,
            {"class_weight": class_weight, "sample_weight": sample_weight},
            augmentation,
        )
        run.validating_on(validation_data, validation_split, validation_batch_size, validation_steps)
        with told(self, "fit"):
            return run()

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

    def summary(self, *, batch_size: int = 32, verbose: int = 1, print_fn: Any = print) -> None:
        """Print the layers with output shapes and parameters, as Keras does. Allocates no parameters.

        With `verbose` 2 also the algorithm that the backend takes for each convolution, and what it does in one go.
        """
        if verbose not in (1, 2):
            raise ConfigError(f"summary: verbose must be 1 or 2. Received: {described(verbose)}")
        print_fn(summary.text(self, batch_size, verbose))

    def save(self, path: str | Path) -> None:
        """Write architecture, parameters, training settings and the optimizer's state to one safetensors file,
        atomically. `xconv.load` makes the model again, on any backend, and its training goes on where this one is.
        """
        files.save(self, path)

    def save_weights(self, path: str | Path) -> None:
        """Write architecture and parameters, without what training would need to go on."""
        files.save(self, path, training=False)

    def load_weights(self, path: str | Path) -> None:
        """Read parameters that `save` wrote, on any backend; names and shapes must be this model's."""
        files.load_weights(self, path)
