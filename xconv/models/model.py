"""A network bound to a backend: its parameters, what it says of an input, and how it is trained."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xconv import checkpoint, checks, metrics, streams
from xconv.backend import Array, Backend, get_backend
from xconv.callbacks import Callback, History
from xconv.errors import ConfigError, DeadNetworkWarning, NonFiniteError, ShapeError, described
from xconv.graph import INPUT, Graph, Tape
from xconv.layers import Context, Layer
from xconv.layers.base import ParamSpec
from xconv.losses import SoftmaxCrossEntropy
from xconv.optimizers import Optimizer
from xconv.parameters import Parameters
from xconv.shapes import positive

READ_EVERY = 0.1  # seconds between the moments when fit reads loss and accuracy from the device


class Model:
    """A chain of layers that classifies: logits[N,K] from x[N, *input_shape].

    `backend` is "numpy", "numba", "cupy", "auto" or None ($XCONV_BACKEND, else "auto"). The same `seed` gives the same
    initial weights and shuffles on every backend. `fuse=False` runs every layer by itself.
    """

    aliases: Mapping[str, str] = {}  # public parameter name -> "layer.parameter"

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: tuple[int, ...],
        *,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        fuse: bool = True,
    ) -> None:
        self.dtype = checks.dtype_name(dtype)
        self.seed = streams.check_seed(seed)
        self.fuse = fuse
        if not isinstance(input_shape, Sequence):
            raise ConfigError(f"input_shape: expected sizes, as (1, 28, 28). Received: {described(input_shape)}")
        self.input_shape = tuple(positive(n, "input_shape: each size") for n in input_shape)
        self.graph = Graph.chain(layers, self.input_shape)
        self.loss_function = SoftmaxCrossEntropy()
        self.history: History | None = None
        self.backend = get_backend(backend)
        self._bind(self._initial_parameters())

    # ------------------------------------------------------------------ parameters and backends

    def _specs(self) -> dict[str, tuple[int, int, ParamSpec]]:
        """Full name -> (node, index in the node, spec), in order."""
        return {
            f"{node.layer.name}.{name}": (node.id, index, spec)
            for node in self.graph.nodes
            for index, (name, spec) in enumerate(node.layer.param_specs(self.graph.shapes[node.source]).items())
        }

    def _initial_parameters(self) -> Parameters:
        specs = self._specs()
        parameters = Parameters(self.backend, {name: spec.shape for name, (_, _, spec) in specs.items()}, self.dtype)
        for name, (node, index, spec) in specs.items():
            parameters[name] = spec.initializer(streams.weights(self.seed, node, index), spec.shape).astype(self.dtype)
        return parameters

    def _bind(self, parameters: Parameters) -> None:
        """Point every layer at this backend and its views of the one flat buffer."""
        self._parameters = parameters
        self.__dict__.pop("params", None)
        self.__dict__.pop("_grads", None)
        for node in self.graph.nodes:
            layer = node.layer
            layer.backend = self.backend
            layer.params = {
                name: parameters[f"{layer.name}.{name}"] for name in layer.param_specs(self.graph.shapes[node.source])
            }
        self.graph.plan(self.backend, self.fuse)

    @cached_property
    def params(self) -> Parameters:
        """Name -> array, live: changing one in place, or assigning to it, changes the model."""
        return self._public(self._parameters)

    def _public(self, parameters: Parameters) -> Parameters:
        return parameters.renamed(self.aliases) if self.aliases else parameters

    @cached_property
    def _grads(self) -> Parameters:
        return self._parameters.like()

    def to(self, backend: str | Backend) -> Model:
        """Move to another backend, in place, with the weights as they are; returns the model."""
        target = get_backend(backend)
        if target is not self.backend:
            parameters = self._parameters.to(target)
            self.backend = target
            self._bind(parameters)
        return self

    @property
    def classes(self) -> int:
        """K, the number of logits."""
        return self.graph.output_shape[-1]

    def _here(self, x: np.ndarray) -> Array:
        return self.backend.asarray(x, self.dtype)

    def _images(self, x: Any, what: str, *, empty_ok: bool = False) -> np.ndarray:
        return checks.images(self._on_host(x), self.input_shape, what, empty_ok=empty_ok)

    def _labels(self, t: Any, n: int, what: str) -> np.ndarray:
        if len(self.graph.output_shape) != 1:
            raise ShapeError(
                f"{what}: labels need logits (N, classes); end the network with Flatten and Dense. "
                f"Received: a network whose output is (N, {', '.join(map(str, self.graph.output_shape))})"
            )
        return checks.labels(self._on_host(t), n, self.classes, what)

    def _on_host(self, a: Any) -> Any:
        """Arrays of this model's own backend come to the host, where all input is checked."""
        return self.backend.to_numpy(a) if isinstance(a, self.backend.array_type) else a

    # ------------------------------------------------------------------ asking

    def predict(self, x: Any, batch_size: int = 250) -> np.ndarray:
        """Logits float[N,K] as a NumPy array, for x[N, *input_shape]; computed `batch_size` examples at a time."""
        x = self._images(x, "predict: x", empty_ok=True)
        out = np.empty((x.shape[0], *self.graph.output_shape), self.dtype)
        for start, batch in self._batches(x, batch_size):
            out[start : start + len(batch)] = self.backend.to_numpy(batch)
        return out

    def _batches(self, x: np.ndarray, batch_size: int) -> Iterator[tuple[int, Array]]:
        """(start, logits) for each batch of x in turn."""
        batch_size = positive(batch_size, "batch_size")
        for start in range(0, x.shape[0], batch_size):
            with self.backend.running():
                logits = self.graph.forward(self._here(x[start : start + batch_size]), Context())
            yield start, logits

    def evaluate(self, x: Any, t: Any, batch_size: int = 250) -> tuple[float, float]:
        """(mean loss, accuracy as a fraction) over x[N, *input_shape] and labels t, in bounded memory."""
        x = self._images(x, "evaluate: x")
        t = self._labels(t, len(x), "evaluate: t")
        loss, correct = 0.0, 0
        for start, logits in self._batches(x, batch_size):
            labels = self.backend.asarray(t[start : start + len(logits)])
            value, _ = self.loss_function(self.backend, logits, labels)
            loss += float(self.backend.to_numpy(value)[0]) * len(logits)
            correct += int(self.backend.to_numpy(metrics.correct(logits, labels)))
        return loss / len(x), correct / len(x)

    def accuracy(self, x: Any, t: Any, batch_size: int = 100) -> float:
        """Fraction of x[N, *input_shape] whose largest logit is at its label, in bounded memory."""
        return self.evaluate(x, t, batch_size)[1]

    def loss(self, x: Any, t: Any) -> float:
        """Mean cross-entropy of the batch."""
        x, t = self._checked(x, t, "loss")
        with self.backend.running():
            value, _ = self.loss_function(self.backend, self.graph.forward(x, Context()), t)
        return float(self.backend.to_numpy(value)[0])

    def gradient(self, x: Any, t: Any) -> Parameters:
        """The gradient of the loss of this batch by every parameter, under the names of `params`."""
        x, t = self._checked(x, t, "gradient")
        grads = self._parameters.like()
        with self.backend.running():
            self._forward_backward(x, t, grads)
        return self._public(grads)

    def _checked(self, x: Any, t: Any, what: str) -> tuple[Array, Array]:
        x = self._images(x, f"{what}: x")
        t = self._labels(t, len(x), f"{what}: t")
        return self._here(x), self.backend.asarray(t)

    # ------------------------------------------------------------------ training

    def _forward_backward(self, x: Array, t: Array, grads: Parameters) -> tuple[Array, Array]:
        tape: Tape = []
        logits = self.graph.forward(x, Context(train=True), tape)
        loss, dlogits = self.loss_function(self.backend, logits, t)
        self.graph.backward(dlogits, tape, grads)
        return loss, logits

    def train_step(self, x: Array, t: Array, optimizer: Optimizer) -> tuple[Array, Array]:
        """One step on a batch that is already on the device: x[N, *input_shape], labels t int64[N].

        Gives (loss array[1], number correct) on the device. Nothing in it waits for the host or moves data there, so a
        backend may record it and replay it.
        """
        with self.backend.running():
            loss, logits = self._forward_backward(x, t, self._grads)
            optimizer.update(self._parameters, self._grads)
            return loss, metrics.correct(logits, t)

    def warm_up(self, optimizer: Optimizer | None = None) -> float:
        """Compile every kernel that training and prediction will use; returns the seconds it took."""
        start = time.perf_counter()
        x = np.zeros((2, *self.input_shape), self.dtype)
        self.gradient(x, np.zeros(2, np.int64))
        self.predict(x)
        if optimizer is not None:
            scratch = Parameters(self.backend, {"w": (1,)}, self.dtype)
            with self.backend.running():
                optimizer.fresh().update(scratch, scratch.like())
        self.backend.synchronize()
        return time.perf_counter() - start

    def fit(
        self,
        x: Any,
        t: Any,
        *,
        optimizer: Optimizer,
        epochs: int = 10,
        batch_size: int = 100,
        validation: tuple[Any, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train on x[N, *input_shape] and labels t (integers or one-hot), shuffled anew each epoch.

        After each epoch the history gains loss and accuracy (means over the epoch's training batches, as they were
        seen), val_loss and val_accuracy (of `validation`), seconds and images_per_second (training steps alone).
        NonFiniteError stops a run whose loss became NaN or infinite; a network that died is warned of.
        """
        epochs, batch_size = positive(epochs, "epochs"), positive(batch_size, "batch_size")
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"fit: expected an xconv optimizer. Received: {described(optimizer)}")
        x = self._images(x, "fit: x")
        t = self._labels(t, len(x), "fit: t")
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) != 2:
                raise ConfigError(f"fit: expected validation=(x, t). Received: {described(validation)}")
            vx = self._images(validation[0], "fit: validation x")
            validation = vx, self._labels(validation[1], len(vx), "fit: validation t")
        self.history = history = History()
        history.compile_seconds = self.warm_up(optimizer)
        with _watched([history, *callbacks]) as watchers:
            for watcher in watchers:
                watcher.on_train_begin(epochs, -(-len(x) // batch_size))
            for epoch in range(1, epochs + 1):
                for watcher in watchers:
                    watcher.on_epoch_begin(epoch, len(x))
                logs = self._epoch(x, t, optimizer, epoch, batch_size, history, watchers)
                if validation is not None:
                    logs["val_loss"], logs["val_accuracy"] = self.evaluate(*validation)
                for watcher in watchers:
                    watcher.on_epoch_end(epoch, logs)
        return history

    def _epoch(
        self,
        x: np.ndarray,
        t: np.ndarray,
        optimizer: Optimizer,
        epoch: int,
        batch_size: int,
        history: History,
        watchers: Sequence[Callback],
    ) -> dict[str, float]:
        order = streams.permutation(self.seed, epoch, len(x))
        totals = self.backend.asarray(np.zeros(2))  # on the device: sum of losses, number correct
        start = last_read = time.perf_counter()
        unread = 1
        logs: dict[str, float] = {}
        for step, first in enumerate(range(0, len(x), batch_size), 1):
            chosen = order[first : first + batch_size]
            loss, correct = self.train_step(self._here(x[chosen]), self.backend.asarray(t[chosen]), optimizer)
            totals[:1] += loss * float(len(chosen))
            totals[1:] += correct
            history.steps += 1
            shown: dict[str, float] = {}
            seen = first + len(chosen)
            if seen == len(x) or time.perf_counter() - last_read > READ_EVERY:
                loss_sum, right = self.backend.to_numpy(totals).tolist()
                shown = logs = {"loss": loss_sum / seen, "accuracy": right / seen}
                if not math.isfinite(loss_sum):
                    raise NonFiniteError(
                        f"the loss became {loss_sum} in epoch {epoch}, between steps {unread} and {step} of batches of "
                        f"{batch_size}; try a smaller learning rate. Received: {optimizer!r}"
                    )
                last_read, unread = time.perf_counter(), step + 1
            for watcher in watchers:
                watcher.on_step_end(step, len(chosen), shown)
        seconds = time.perf_counter() - start
        history.train_seconds += seconds
        history.images += len(x)
        self.warn_if_dead(self._grads, float(self.backend.to_numpy(loss)[0]))
        return {**logs, "seconds": seconds, "images_per_second": len(x) / seconds}

    def warn_if_dead(self, grads: Parameters, loss: float) -> None:
        """DeadNetworkWarning where a batch's gradients say that every ReLU of some layer is shut.

        A shut ReLU passes no gradient: where all are, nothing reaches the first layer, and only the last bias learns.
        """
        names = list(grads)
        first, last = grads[names[0]], grads[names[-1]]
        if not bool(self.backend.to_numpy((first != 0).any())) and bool(self.backend.to_numpy((last != 0).any())):
            warnings.warn(
                f"the network is dead: the loss is {loss:.3f}, where guessing among {self.classes} classes gives "
                f"ln({self.classes}) = {math.log(self.classes):.3f}, and the gradients of {names[0]} are all zero. "
                "Some layer's ReLUs are shut for every image, and training cannot open them again. "
                "Cure: a smaller learning rate, He initialisation, or another seed.",
                DeadNetworkWarning,
                stacklevel=4,
            )

    # ------------------------------------------------------------------ files

    def architecture(self) -> dict[str, Any]:
        """What is needed to build the model again, as plain JSON values."""
        return {
            "model": type(self).__name__,
            "input_shape": list(self.input_shape),
            "dtype": self.dtype,
            "layers": [
                {
                    "kind": type(node.layer).__name__,
                    "name": node.layer.name,
                    "input": None if node.source == INPUT else self.graph.nodes[node.source].layer.name,
                    **node.layer.config(),
                }
                for node in self.graph.nodes
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write parameters and architecture to one safetensors file, atomically."""
        checkpoint.save(path, self._parameters.to_numpy(), {"architecture": self.architecture()})

    def load_weights(self, path: str | Path) -> None:
        """Read parameters that `save` wrote, on any backend; names and shapes must be this model's."""
        tensors, _ = checkpoint.load(path)
        if {n: a.shape for n, a in tensors.items()} != self._parameters.shapes:
            raise ConfigError(
                f"{path}: expected parameters {self._parameters.shapes}. "
                f"Received: { {n: a.shape for n, a in tensors.items()} }"
            )
        for name, array in tensors.items():
            self._parameters[name] = array


@contextmanager
def _watched(callbacks: Sequence[Callback]) -> Iterator[Sequence[Callback]]:
    """on_train_end for each callback, whatever happens to the others or to the training."""
    with ExitStack() as stack:
        for callback in reversed(callbacks):
            stack.callback(callback.on_train_end)
        yield callbacks
