"""PyTorch on the CPU as a contestant: the same network with the same weights, optimizer and batches.

Written as somebody who knows PyTorch would: ReLU in place, fused optimizers, no gradients kept between steps, images in
tensors that are ready, `inference_mode`.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import numpy as np

from xconv import layers, streams, zoo
from xconv.backend.threads import default_threads
from xconv.errors import ConfigError
from xconv.measure.contestants import BOOK, Data, Entrant, Network, Run, Steps, batches, blas, recipe_of
from xconv.models import Model
from xconv.schedules import Schedule

CURE = 'pip install "xconv[bench]", or pip install torch'
EVALUATED_AT_ONCE = 1000  # test images in a batch


def check_installed() -> None:
    """ConfigError where PyTorch is not."""
    if find_spec("torch") is None:
        raise ConfigError(f"to compare with PyTorch it must be installed: {CURE}. Received: no module named torch")


def entrants(
    network: Network, batch_size: int, compiled: bool = False, *, data: Data | None = None, evaluated: bool = False
) -> dict[str, Entrant]:
    """Both layouts, eager, and where asked through torch.compile, too; for steps, or with `data` for whole epochs."""
    make: Any = PyTorch if data is None else PyTorchRun
    more = {"network": network} if data is None else {"network": network, "data": data, "evaluated": evaluated}
    return {
        f"PyTorch {way} {layout} float32": Entrant(make, batch_size, {"channels_last": last, "compiled": slow, **more})
        for way, slow in (("eager", False), ("compiled", True))
        if compiled or not slow
        for layout, last in (("NCHW", False), ("channels_last", True))
    }


class _Built:
    """Network, optimizer and loss, in one of PyTorch's memory formats."""

    def __init__(self, network: Network, channels_last: bool, compiled: bool) -> None:
        import torch

        if compiled and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
            raise ConfigError("torch.compile needs a C++ compiler (g++ or clang++). Received: none on PATH")
        torch.set_num_threads(default_threads())
        self.torch = torch
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.source = network.build("numpy")
        self.net = torch_net(torch, self.source).to(memory_format=self.layout)
        self.rule = lambda: torch_optimizer(torch, self.net, network.recipe)
        self.optimizer = self.rule()
        self.run = torch.compile(self.net) if compiled else self.net
        self.loss_of = torch.nn.CrossEntropyLoss()
        products = [name for name in ("mkl", "mkldnn") if getattr(torch.backends, name).is_available()]
        self.about = {"threads": torch.get_num_threads(), "blas": f"PyTorch's own: {', '.join(products)}"}

    def place(self, x: np.ndarray) -> Any:
        """Images as a tensor of the memory format."""
        return self.torch.from_numpy(x).contiguous(memory_format=self.layout)


class PyTorch(Steps):
    """Float32, in either memory format, eager or through its compiler."""

    def __init__(
        self, batch_size: int, channels_last: bool = False, compiled: bool = False, network: Network | None = None
    ) -> None:
        built = _Built(network or Network(BOOK, recipe_of(BOOK)), channels_last, compiled)
        self.built, self.compiled = built, compiled
        net, run, torch = built.net, built.run, built.torch
        placed = [
            (built.place(x), torch.from_numpy(t)) for x, t in zip(*batches(batch_size, built.source), strict=True)
        ]
        turn = cycle(range(len(placed)))

        def train() -> None:
            net.train()
            x, t = placed[next(turn)]
            built.optimizer.zero_grad()
            built.loss_of(run(x), t).backward()
            built.optimizer.step()

        @torch.inference_mode()
        def infer() -> Any:
            net.eval()
            return run(placed[next(turn)][0])

        @torch.inference_mode()
        def loss() -> float:
            net.eval()
            x, t = placed[0]
            return float(built.loss_of(net(x), t))

        self.train, self.infer, self.loss, self.about = train, infer, loss, built.about

    def forget_training(self) -> None:
        if self.compiled:  # for this very network and batch, so that no compilation is measured
            self.train()
            self.built.optimizer.zero_grad()
            self.built.optimizer = self.built.rule()


class PyTorchRun(Run):
    """The loop that `fit` is, as it is well written in PyTorch: the images in one tensor, batches gathered from it,
    loss and hits summed without waiting. The shuffles are xconv's, so that both networks live the same life.
    """

    def __init__(
        self,
        batch_size: int,
        network: Network,
        data: Data,
        channels_last: bool = False,
        compiled: bool = False,
        evaluated: bool = False,
    ) -> None:
        self.built = _Built(network, channels_last, compiled)
        x, t, x_test, t_test = data.arrays(self.built.source)
        place, tensor = self.built.place, self.built.torch.from_numpy
        self.x, self.t, self.test = place(x), tensor(np.array(t)), (place(x_test), tensor(np.array(t_test)))
        self.batch_size, self.evaluated, self.epochs = batch_size, evaluated, 0
        self.told: dict[str, float] = {}

    def ready(self) -> dict[str, Any]:
        """A step of either batch size, without an update, then an evaluation: all that is compiled, is now."""
        start, net = time.perf_counter(), self.built.net
        kept = {name: value.clone() for name, value in net.state_dict().items()}
        net.train()
        for size in {self.batch_size, len(self.x) % self.batch_size or self.batch_size}:
            for _ in range(2):
                self.built.loss_of(self.built.run(self.x[:size]), self.t[:size]).backward()
        self.built.optimizer.zero_grad()
        if self.evaluated:
            self._evaluate()
        net.load_state_dict(kept)
        return {"pools": blas(), **self.built.about, "compile_seconds": time.perf_counter() - start}

    def epoch(self) -> float:
        torch, built = self.built.torch, self.built
        built.net.train()
        n = len(self.x)
        order = torch.from_numpy(streams.permutation(0, self.epochs + 1, n))
        loss_sum, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for first in range(0, n, self.batch_size):
            chosen = order[first : first + self.batch_size]
            x, t = self.x[chosen].contiguous(memory_format=built.layout), self.t[chosen]
            built.optimizer.zero_grad()
            logits = built.run(x)
            loss = built.loss_of(logits, t)
            loss.backward()
            built.optimizer.step()
            loss_sum += loss.detach() * len(t)
            hits += (logits.detach().argmax(1) == t).sum()
        self.told = {"last_loss": float(loss_sum) / n, "accuracy": float(hits) / n}
        if self.evaluated:
            self.told["accuracy"] = self._evaluate()
        self.epochs += 1
        return 0.0

    def _evaluate(self) -> float:
        """Loss and accuracy on the test images, as `fit` gives them; the accuracy."""
        torch, built = self.built.torch, self.built
        x, t = self.test
        built.net.eval()
        loss, hits = 0.0, 0
        with torch.inference_mode():
            for first in range(0, len(x), EVALUATED_AT_ONCE):
                part = t[first : first + EVALUATED_AT_ONCE]
                logits = built.run(x[first : first + EVALUATED_AT_ONCE])
                loss += float(built.loss_of(logits, part)) * len(part)
                hits += int((logits.argmax(1) == part).sum())
        return hits / len(x)

    def last(self) -> dict[str, Any]:
        return self.told


def torch_optimizer(torch: Any, net: Any, recipe: zoo.Recipe, fused: bool = True) -> Any:
    """The same rule with the same settings; `fused` where PyTorch has it so on the CPU, which is faster."""
    rules: dict[str, tuple[Any, dict[str, Any]]] = {
        "adagrad": (torch.optim.Adagrad, {"eps": 1e-7, "fused": fused}),
        "adam": (torch.optim.Adam, {"eps": 1e-7, "fused": fused}),
        "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-7}),
        "sgd": (torch.optim.SGD, {"fused": fused}),
    }
    make, settings = rules[recipe.optimizer]
    rate = recipe.lr(0) if isinstance(recipe.lr, Schedule) else recipe.lr
    return make(net.parameters(), rate, **settings, **recipe.rule)


def torch_net(torch: Any, net: Model) -> Any:
    """The network in PyTorch's own layers, in its dtype, with the same weights; a final softmax is left to the loss."""
    nn, kind = torch.nn, getattr(torch, net.dtype)
    own = {net.aliases.get(name, name): array for name, array in net.params.to_numpy().items()}
    found: list[tuple[int, tuple[int, ...], Any]] = []  # (node, its sources, module)
    turned: tuple[int, ...] | None = None  # (C, H, W) of what was flattened as H, W, C

    def filled(module: Any, **values: np.ndarray) -> Any:
        module.to(kind)
        with torch.no_grad():
            for name, value in values.items():
                getattr(module, name).copy_(torch.from_numpy(np.array(value)))
        return module

    def own_of(layer: layers.Layer, turn: Any = np.asarray) -> dict[str, np.ndarray]:
        weight = {"weight": turn(own[f"{layer.name}.w"])}
        return {**weight, "bias": own[f"{layer.name}.b"]} if f"{layer.name}.b" in own else weight

    for node in net.graph.nodes:
        layer, shape = node.layer, net.graph.in_shape(node)
        if isinstance(layer, layers.Conv2D):
            top, _, left, _ = layer.pads(shape)
            values = own_of(layer)
            kernel = layer.filters, layer.kernel_size, layer.strides, (top, left)
            module = filled(nn.Conv2d(shape[0], *kernel, bias="bias" in values), **values)
        elif isinstance(layer, layers.BatchNormalization):
            names = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
            values = {name: own[f"{layer.name}.{other}"] for name, other in names.items()}
            module = filled(nn.BatchNorm2d(shape[0], layer.epsilon, 1 - layer.momentum), **values)
        elif isinstance(layer, layers.Dense):
            w = own[f"{layer.name}.w"]
            if turned is not None:
                channels, height, width = turned
                w = w.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(w.shape)
                turned = None
            module = filled(nn.Linear(*w.shape), **own_of(layer, lambda _, w=w: w.T))
        elif isinstance(layer, layers.Flatten):
            turned = shape if net.data_format == "channels_last" else None
            module = nn.Flatten()
        elif isinstance(layer, layers.Normalization):
            module = _normalized(torch, own[f"{layer.name}.mean"], own[f"{layer.name}.var"])
        elif isinstance(layer, layers.Softmax):
            module = nn.Identity()
        else:
            module = _plain(torch, layer)
        found.append((node.id, tuple(node.sources), module))
    if all(sources == (node - 1,) for node, sources, _ in found if node):
        return nn.Sequential(*(module for _, _, module in found))
    return _branched(nn, net.graph.inputs[0], found)


def _branched(nn: Any, start: int, found: list[tuple[int, tuple[int, ...], Any]]) -> Any:
    """Modules, and functions of several tensors, each on what its sources gave; the last one's result."""

    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.ModuleList(module for _, _, module in found if isinstance(module, nn.Module))

        def forward(self, x: Any) -> Any:
            values = {start: x}
            for node, sources, module in found:
                values[node] = x = module(*(values[source] for source in sources))
            return x

    return Branched()


def _normalized(torch: Any, mean: np.ndarray, variance: np.ndarray) -> Any:
    """(x - mean) / sqrt(variance), for each channel."""

    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, values in (("mean", mean), ("scale", variance**-0.5)):
                self.register_buffer(name, torch.from_numpy(np.array(values))[:, None, None])

        def forward(self, x: Any) -> Any:
            return (x - self.mean) * self.scale

    return Normalized()


def _plain(torch: Any, layer: layers.Layer) -> Any:
    """A layer without weights. ReLU in place, as torchvision's networks have it: faster, and takes less memory."""
    nn = torch.nn
    if isinstance(layer, layers.MaxPool2D):
        return nn.MaxPool2d(layer.pool_size, layer.strides)
    if isinstance(layer, layers.Dropout):
        return nn.Dropout(layer.rate)
    if isinstance(layer, layers.ReLU):
        return nn.ReLU(inplace=True)
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(layer, layers.ChannelPadding):
        return nn.ZeroPad3d((0, 0, 0, 0, layer.before, layer.behind))
    if isinstance(layer, layers.Add):
        return torch.add
    raise ConfigError(f"no PyTorch layer is known for {layer.label}. Received: {type(layer).__name__}")
