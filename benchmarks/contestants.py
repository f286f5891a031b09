"""Networks of the zoo several times over, each ready to take training steps and to predict: who competes in peers.py.

All start from xconv's initial weights of one seed and see the same batches in the same order. SimpleConvNet is trained
with the book's optimizer on a network that lives: He initialisation and AdaGrad 0.01. (With the book's own, 0.01 and
0.06, some seeds die, and a dead network is another amount of work for kernels that skip shut ReLUs.) The others are
trained by their recipes; dropout masks are each library's own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from book_algorithm import AdaGrad as BookAdaGrad
from book_algorithm import BookConvNet

import xconv
from xconv import layers, zoo

LR = 0.01
BATCHES = 20  # different ones, taken in turn
BOOK = "simple-convnet"


def network(model: str, backend: str, dtype: str = "float32") -> xconv.Model:
    """The network, compiled with the optimizer that all contestants use."""
    net = zoo.entry(model).build(zoo.recipe(model), backend=backend, dtype=dtype)
    if model == BOOK:
        net.compile(xconv.AdaGrad(LR))
    return net


class Contestant:
    """`train()` takes one step and `infer()` gives the logits of one batch; both return when the work is done."""

    train: Callable[[], None]
    infer: Callable[[], Any]
    about: dict[str, Any]

    def loss(self) -> float:
        """The mean loss of the first batch now: shows that the network is alive, and the same for all."""
        raise NotImplementedError


def batches(batch_size: int, model: str = BOOK) -> tuple[np.ndarray, np.ndarray]:
    """Images float32[BATCHES, batch_size, C, H, W] and labels of them: MNIST's sample, or noise of another shape."""
    net = zoo.entry(model).build(zoo.recipe(model), backend="numpy")
    shape = net.input_shape if net.data_format == "channels_first" else (net.input_shape[2], *net.input_shape[:2])
    if shape == (1, 28, 28):
        x, t, _, _ = xconv.data.load("mnist-sample").arrays()
    else:
        rng = np.random.default_rng(0)
        x, t = rng.random((4 * batch_size, *shape), np.float32), rng.integers(0, net.classes, 4 * batch_size)
    chosen = np.arange(BATCHES * batch_size) % len(x)
    return x[chosen].reshape(BATCHES, batch_size, *x.shape[1:]), t[chosen].reshape(BATCHES, batch_size)


def cross_entropy(logits: np.ndarray, t: np.ndarray) -> float:
    """Mean of -log softmax at the label, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(t)), t]))


def first_weights() -> dict[str, np.ndarray]:
    """What all start from."""
    return xconv.SimpleConvNet(weight_init_std="he", backend="numpy", dtype="float64").params.to_numpy()


class Book(Contestant):
    """The book's algorithm."""

    def __init__(self, batch_size: int, dtype: str) -> None:
        x, t = batches(batch_size)
        x = x.astype(dtype)
        net, optimizer, turn = BookConvNet(first_weights(), dtype), BookAdaGrad(LR), cycle(range(BATCHES))

        def train() -> None:
            i = next(turn)
            optimizer.update(net.params, net.gradient(x[i], t[i])[1])

        self.train = train
        self.infer = lambda: net.predict(x[next(turn)])
        self.loss = lambda: cross_entropy(net.predict(x[0]), t[0])
        self.about = xconv.get_backend("numpy").describe()


class Xconv(Contestant):
    """This library. Batches lie on the backend before the clock starts, as PyTorch's do.

    With `wait` each step ends when the device is done with it.
    """

    def __init__(self, batch_size: int, backend: str, dtype: str, wait: bool = True, model: str = BOOK) -> None:
        x, t = batches(batch_size, model)
        net = network(model, backend, dtype)
        net.warm_up()
        x = x.astype(dtype)
        if net.data_format == "channels_last":
            x = np.ascontiguousarray(x.transpose(0, 1, 3, 4, 2))
        here, turn = net.backend, cycle(range(BATCHES))
        placed = [(here.asarray(x[i]), here.asarray(t[i])) for i in range(BATCHES)]

        def train() -> None:
            net.train_step(*placed[next(turn)])
            if wait:
                here.synchronize()

        self.train = train
        self.infer = lambda: net.predict(x[next(turn)], batch_size=batch_size)
        self.loss = lambda: net.loss(x[0], t[0])
        self.about = here.describe()


class PyTorch(Contestant):
    """PyTorch on the CPU, float32, in either memory format, eager or through its compiler."""

    def __init__(
        self, batch_size: int, threads: int, channels_last: bool, model: str = BOOK, compiled: bool = False
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        net = torch_net(torch, model).to(memory_format=layout)
        optimizer = torch_optimizer(torch, net, model)
        run = torch.compile(net) if compiled else net
        loss_of = torch.nn.CrossEntropyLoss()
        turn = cycle(range(BATCHES))
        placed = [
            (torch.from_numpy(x).contiguous(memory_format=layout), torch.from_numpy(t))
            for x, t in zip(*batches(batch_size, model), strict=True)
        ]

        def train() -> None:
            net.train()
            x, t = placed[next(turn)]
            optimizer.zero_grad()
            loss_of(run(x), t).backward()
            optimizer.step()

        @torch.inference_mode()
        def infer() -> Any:
            net.eval()
            return run(placed[next(turn)][0])

        @torch.inference_mode()
        def loss() -> float:
            net.eval()
            x, t = placed[0]
            return float(loss_of(net(x), t))

        self.train, self.infer, self.loss = train, infer, loss
        products = [name for name in ("mkl", "mkldnn") if getattr(torch.backends, name).is_available()]
        self.about = {"threads": torch.get_num_threads(), "blas": f"PyTorch's own: {', '.join(products)}"}


def torch_optimizer(torch: Any, net: Any, model: str) -> Any:
    """The same rule with the same settings."""
    if model == BOOK:
        return torch.optim.Adagrad(net.parameters(), lr=LR, eps=1e-7)
    recipe = zoo.recipe(model)
    rules = {
        "adam": lambda p: torch.optim.Adam(p, recipe.lr, eps=1e-7),
        "rmsprop": lambda p: torch.optim.RMSprop(p, recipe.lr, alpha=0.9, eps=1e-7),
    }
    return rules[recipe.optimizer](net.parameters())


def torch_net(torch: Any, model: str = BOOK) -> Any:
    """The network in PyTorch's own layers, with the same weights; a final softmax is left to the loss."""
    nn, net = torch.nn, network(model, "numpy")
    own = {net.aliases.get(name, name): array for name, array in net.params.to_numpy().items()}
    modules: list[Any] = []
    turned: tuple[int, ...] | None = None  # (C, H, W) of what was flattened as H, W, C

    def put(module: Any, **values: np.ndarray) -> None:
        with torch.no_grad():
            for name, value in values.items():
                getattr(module, name).copy_(torch.from_numpy(np.array(value)))
        modules.append(module)

    for node in net.graph.nodes:
        layer, shape = node.layer, net.graph.in_shape(node)
        if isinstance(layer, layers.Conv2D):
            top, _, left, _ = layer.pads(shape)
            conv = nn.Conv2d(shape[0], layer.filters, layer.kernel_size, layer.strides, (top, left))
            put(conv, weight=own[f"{layer.name}.w"], bias=own[f"{layer.name}.b"])
        elif isinstance(layer, layers.BatchNormalization):
            put(nn.BatchNorm2d(shape[0], layer.epsilon, 1 - layer.momentum))
        elif isinstance(layer, layers.Dense):
            w = own[f"{layer.name}.w"]
            if turned is not None:
                channels, height, width = turned
                w = w.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(w.shape)
                turned = None
            put(nn.Linear(*w.shape), weight=w.T, bias=own[f"{layer.name}.b"])
        elif isinstance(layer, layers.Flatten):
            turned = shape if net.data_format == "channels_last" else None
            put(nn.Flatten())
        elif not isinstance(layer, layers.Softmax):
            put(_plain(nn, layer))
    return nn.Sequential(*modules)


def _plain(nn: Any, layer: layers.Layer) -> Any:
    """A layer without weights."""
    if isinstance(layer, layers.MaxPool2D):
        return nn.MaxPool2d(layer.pool_size, layer.strides)
    return nn.Dropout(layer.rate) if isinstance(layer, layers.Dropout) else nn.ReLU()


def entrants(
    batch_size: int, threads: int, model: str = BOOK, compiled: bool = False
) -> dict[str, Callable[[], Contestant]]:
    """Name -> how to make it, in the order of the table."""
    found: dict[str, Callable[[], Contestant]] = {}
    for dtype in ("float64", "float32") if model == BOOK else ():
        found[f"book {dtype}"] = lambda dtype=dtype: Book(batch_size, dtype)  # type: ignore[misc]
    for backend in ("numpy", "numba"):
        for dtype in ("float64", "float32") if model == BOOK else ("float32",):
            found[f"xconv {backend} {dtype}"] = lambda b=backend, d=dtype: Xconv(batch_size, b, d, model=model)  # type: ignore[misc]
    for layout in ("NCHW", "channels_last"):
        last = layout == "channels_last"
        found[f"PyTorch eager {layout} float32"] = lambda last=last: PyTorch(batch_size, threads, last, model)  # type: ignore[misc]
    if compiled:
        found["PyTorch compiled float32"] = lambda: PyTorch(batch_size, threads, False, model, compiled=True)
    return found
