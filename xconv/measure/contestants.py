"""Networks of the zoo, ready to take training steps and to predict, or to train for whole epochs: who competes.

All start from xconv's initial weights of one seed and see the same batches in the same order. SimpleConvNet is trained
with the book's optimizer on a network that lives: He initialisation and AdaGrad 0.01. (With the book's own, 0.01 and
0.06, some seeds die, and a dead network is another amount of work for kernels that skip shut ReLUs.) The others are
trained by their recipes; dropout masks are each library's own.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np

from xconv import data as datasets
from xconv import losses, zoo
from xconv.backend import Backend, backends, get_backend
from xconv.errors import ConfigError
from xconv.layers import Conv2D, Dense
from xconv.measure.machine import blas
from xconv.models import Model, Sequential

BOOK = "simple-convnet"
WARM_STEPS = 3  # at the start of each turn, not timed: threads wake, caches fill
LEAST_STEPS = 5
BATCHES = 20  # different ones, taken in turn
MOST_BYTES = 1 << 26  # of those batches: fewer where they are large


def recipe_of(model: str, task: str = "step") -> zoo.Recipe:
    """How all contestants train a network."""
    if model != BOOK:
        return zoo.recipe(model)
    if task == "book":
        return zoo.recipe(model, "book")
    return zoo.Recipe("adagrad", 0.01, 100, 10, {"weight_init_std": "he"})


@dataclass(frozen=True)
class Network:
    """A network of the zoo as it competes; where asked with another width, or for images of another size.

    `filters` is that of the first convolution, and all the others grow with it; `image` is height and width.
    """

    model: str
    recipe: zoo.Recipe
    filters: int | None = None
    image: int | None = None

    def build(self, backend: str | Backend, dtype: str = "float32") -> Model:
        """The network, compiled with the optimizer that all contestants use."""
        entry = zoo.entry(self.model)
        height, width = (self.image or side for side in entry.input_shape[:2])
        shape = height, width, entry.input_shape[2]
        net = entry.build(self.recipe, backend=backend, dtype=dtype, input_shape=shape)
        return net if self.filters is None else self._widened(net, self.filters)

    def _widened(self, net: Model, filters: int) -> Model:
        if not isinstance(net, Sequential):
            raise ConfigError(f"{self.model}: only a sequence of layers is made wider. Received: filters {filters}")
        first = next(layer.filters for layer in net.layers if isinstance(layer, Conv2D))
        layers = []
        for layer in net.layers:
            config = {key: tuple(v) if isinstance(v, list) else v for key, v in layer.config().items()}
            if isinstance(layer, Conv2D):
                config["filters"] = max(1, round(layer.filters * filters / first))
            kind: Any = type(layer)
            layers.append(kind(**config, name=layer.name))
        settings: dict[str, Any] = {"data_format": net.data_format, "backend": net.backend, "dtype": net.dtype}
        made = Sequential(layers, input_shape=net.input_shape, **settings)
        logits = layers[-1].config().get("activation") is None
        assert net.optimizer is not None
        made.compile(net.optimizer, losses.SparseCategoricalCrossentropy(from_logits=logits), ["accuracy"])
        return made


def chw(net: Model) -> tuple[int, int, int]:
    """(C, H, W) of the images that the network takes, in whatever order the user sees them."""
    one, two, three = net.input_shape
    return (one, two, three) if net.data_format == "channels_first" else (three, one, two)


def arithmetic(net: Model) -> int:
    """Multiply-adds of the convolutions and dense layers for one image, forward."""
    total = 0
    for node in net.graph.nodes:
        if isinstance(node.layer, Conv2D | Dense):
            weights = math.prod(node.layer.param_specs(net.graph.in_shape(node))["w"].shape)
            total += weights * math.prod(net.graph.shapes[node.id][1:])
    return total


def batches(batch_size: int, net: Model) -> tuple[np.ndarray, np.ndarray]:
    """Images float32[B, batch_size, C, H, W] and labels of them: MNIST's sample, or noise of another shape."""
    shape = chw(net)
    count = max(2, min(BATCHES, MOST_BYTES // (4 * batch_size * math.prod(shape))))
    if shape == (1, 28, 28):
        x, t, _, _ = datasets.load("mnist-sample").arrays()
    else:
        x, t = noise(min(4, count) * batch_size, net)
    chosen = np.arange(count * batch_size) % len(x)
    return x[chosen].reshape(count, batch_size, *shape), t[chosen].reshape(count, batch_size)


def noise(n: int, net: Model) -> tuple[np.ndarray, np.ndarray]:
    """Random images float32[n, C, H, W] and labels."""
    rng = np.random.default_rng(0)
    return rng.random((n, *chw(net)), np.float32), rng.integers(0, net.classes, n)


def seen(x: np.ndarray, net: Model) -> np.ndarray:
    """Images [..., C, H, W] in the axis order that the network takes."""
    return x if net.data_format == "channels_first" else np.ascontiguousarray(np.moveaxis(x, -3, -1))


class Contestant(ABC):
    """Lives in a process of its own and answers for its tasks."""

    about: dict[str, Any]

    @abstractmethod
    def ready(self) -> dict[str, Any]:
        """Compile and warm up; what is to be told of it."""

    @abstractmethod
    def turn(self, task: str, seconds: float) -> tuple[float, float]:
        """(seconds of the task, processor seconds that the whole turn took)."""

    @abstractmethod
    def last(self) -> dict[str, Any]:
        """What came of all the training: shows that the network is alive, and the same for all."""


class Steps(Contestant):
    """`train()` takes one step and `infer()` gives the logits of one batch; both return when the work is done."""

    train: Callable[[], None]
    infer: Callable[[], Any]
    loss: Callable[[], float]  # the mean loss of the first batch now
    alone: Mapping[str, Any] = {}  # settings with which its memory is measured
    compile_seconds = 0.0  # taken before the first step
    on_host = True  # whether its arrays are in this process's memory

    def ready(self) -> dict[str, Any]:
        start = time.perf_counter()
        self.train()
        first_step = self.compile_seconds + time.perf_counter() - start
        for _ in range(WARM_STEPS + LEAST_STEPS - 1):
            self.train()
        first = self.loss()
        self.infer()
        return {"pools": blas(), **self.about, "first_step_seconds": first_step, "first_loss": first}

    def turn(self, task: str, seconds: float) -> tuple[float, float]:
        """As many steps as fit into `seconds`; the median of their times."""
        step, used = getattr(self, task), time.process_time()
        for _ in range(WARM_STEPS):
            step()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < LEAST_STEPS or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return statistics.median(times), time.process_time() - used

    def last(self) -> dict[str, Any]:
        return {"last_loss": self.loss()}

    def forget_training(self) -> None:
        """Called before the memory of a step is measured: give back what only earlier steps left."""


class Xconv(Steps):
    """This library. Batches lie on the backend before the clock starts, as PyTorch's do.

    With `wait` each step ends when the device is done with it. `alone` gives it a backend of its own, whose pool of
    memory is empty: blocks that another network has left there would be used again unseen.
    """

    alone = {"alone": True}  # noqa: RUF012

    def __init__(
        self,
        batch_size: int,
        backend: str,
        dtype: str = "float32",
        network: Network | None = None,
        wait: bool = True,
        alone: bool = False,
    ) -> None:
        here = type(get_backend(backend))() if alone else get_backend(backend)
        net = (network or Network(BOOK, recipe_of(BOOK))).build(here, dtype)
        images, t = batches(batch_size, net)
        x = seen(images.astype(dtype, copy=False), net)
        if alone:
            net.params  # noqa: B018  built, and no kernel run yet
        else:
            self.compile_seconds = net.warm_up()
        turn = cycle(range(len(x)))
        placed = [(here.asarray(x[i]), here.asarray(t[i])) for i in range(len(x))]

        def train() -> None:
            net.train_step(*placed[next(turn)])
            if wait:
                here.synchronize()

        self.train = train
        self.infer = lambda: net.predict(x[next(turn)], batch_size=batch_size)
        self.loss = lambda: net.loss(x[0], t[0])
        self.about = here.describe()
        self.on_host = here.xp is np


@dataclass(frozen=True)
class Data:
    """What a run trains on. `name` is a data set, or "noise" of `count` images for networks that have none here."""

    name: str
    count: int = 0

    def arrays(self, net: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x, t, x_test, t_test), images float32[N, C, H, W]."""
        if self.name != "noise":
            return datasets.load(self.name).arrays()
        x, t = noise(self.count, net)
        return x, t, x[: len(x) // 4], t[: len(t) // 4]


class Run(Contestant):
    """Whole epochs: in each turn the next one, `evaluated` on the test images after it where asked."""

    @abstractmethod
    def epoch(self) -> float:
        """Train for an epoch; the seconds of it that are not to be counted."""

    def turn(self, task: str, seconds: float) -> tuple[float, float]:
        """One epoch."""
        used, start = time.process_time(), time.perf_counter()
        left_out = self.epoch()
        return time.perf_counter() - start - left_out, time.process_time() - used


class XconvRun(Run):
    """`fit` of this library without callbacks. It warms up at each call; that is not counted, but told."""

    def __init__(self, batch_size: int, backend: str, network: Network, data: Data, evaluated: bool = False) -> None:
        self.net = network.build(backend)
        x, t, x_test, t_test = data.arrays(self.net)
        self.x, self.t, self.test = seen(x, self.net), t, (seen(x_test, self.net), t_test)
        self.batch_size, self.evaluated, self.epochs = batch_size, evaluated, 0
        self.history: Mapping[str, list[float]] = {}

    def ready(self) -> dict[str, Any]:
        seconds = self.net.warm_up()
        return {"pools": blas(), **self.net.backend.describe(), "compile_seconds": seconds}

    def epoch(self) -> float:
        told = self.net.fit(
            self.x,
            self.t,
            self.batch_size,
            epochs=self.epochs + 1,
            initial_epoch=self.epochs,
            validation_data=self.test if self.evaluated else None,
            verbose=0,
        )
        self.epochs += 1
        self.history = told.history
        return told.compile_seconds

    def last(self) -> dict[str, Any]:
        return {
            "last_loss": self.history["loss"][-1],
            "accuracy": self.history["val_accuracy" if self.evaluated else "accuracy"][-1],
        }


@dataclass(frozen=True)
class Entrant:
    """How to make a contestant in another process: `make(batch_size, **settings)`."""

    make: Callable[..., Contestant]
    batch_size: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None  # where it is not as many as all the others have

    def __call__(self, batch_size: int | None = None, **more: Any) -> Contestant:
        return self.make(batch_size or self.batch_size, **self.settings, **more)


def ours(backend: str = "auto") -> list[str]:
    """Names of the backends that compete: the one that was named, or all that are usable."""
    if backend != "auto":
        return [get_backend(backend).name]
    return [row.name for row in reversed(backends()) if row.usable]


def entrants(
    network: Network, batch_size: int, names: list[str], *, data: Data | None = None, evaluated: bool = False
) -> dict[str, Entrant]:
    """xconv on each backend, for steps, or with `data` for whole epochs."""
    make: Any = Xconv if data is None else XconvRun
    more = {"network": network} if data is None else {"network": network, "data": data, "evaluated": evaluated}
    return {f"xconv {name} float32": Entrant(make, batch_size, {"backend": name, **more}) for name in names}
