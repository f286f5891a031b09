"""SimpleConvNet several times over, each ready to take training steps and to predict: who competes in peers.py.

All start from xconv's initial weights of one seed and see the same batches in the same order. The recipe is the book's
optimizer on a network that lives: He initialisation and AdaGrad 0.01. (With the book's own, 0.01 and 0.06, some seeds
die, and a dead network is another amount of work for kernels that skip shut ReLUs.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from book_algorithm import AdaGrad as BookAdaGrad
from book_algorithm import BookConvNet

import xconv

LR = 0.01
BATCHES = 20  # different ones, taken in turn


class Contestant:
    """`train()` takes one step and `infer()` gives the logits of one batch; both return when the work is done."""

    train: Callable[[], None]
    infer: Callable[[], Any]
    about: dict[str, Any]

    def loss(self) -> float:
        """The mean loss of the first batch now: shows that the network is alive, and the same for all."""
        raise NotImplementedError


def batches(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """x float32[BATCHES, batch_size, 1, 28, 28] and labels of it, from the sample of MNIST that xconv carries."""
    x, t, _, _ = xconv.data.load("mnist-sample").arrays()
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

    def __init__(self, batch_size: int, backend: str, dtype: str, wait: bool = True) -> None:
        x, t = batches(batch_size)
        x = x.astype(dtype)
        model = xconv.SimpleConvNet(weight_init_std="he", backend=backend, dtype=dtype)
        model.compile(xconv.AdaGrad(LR))
        model.warm_up()
        here, turn = model.backend, cycle(range(BATCHES))
        placed = [(here.asarray(x[i]), here.asarray(t[i])) for i in range(BATCHES)]

        def train() -> None:
            model.train_step(*placed[next(turn)])
            if wait:
                here.synchronize()

        self.train = train
        self.infer = lambda: model.predict(x[next(turn)], batch_size=batch_size)
        self.loss = lambda: model.loss(x[0], t[0])
        self.about = here.describe()


class PyTorch(Contestant):
    """PyTorch eager on the CPU, float32, in either memory format."""

    def __init__(self, batch_size: int, threads: int, channels_last: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        net = torch_net(torch).to(memory_format=layout)
        optimizer = torch.optim.Adagrad(net.parameters(), lr=LR, eps=1e-7)
        loss_of = torch.nn.CrossEntropyLoss()
        turn = cycle(range(BATCHES))
        placed = [
            (torch.from_numpy(x).contiguous(memory_format=layout), torch.from_numpy(t))
            for x, t in zip(*batches(batch_size), strict=True)
        ]

        def train() -> None:
            x, t = placed[next(turn)]
            optimizer.zero_grad()
            loss_of(net(x), t).backward()
            optimizer.step()

        @torch.inference_mode()
        def infer() -> Any:
            return net(placed[next(turn)][0])

        @torch.inference_mode()
        def loss() -> float:
            x, t = placed[0]
            return float(loss_of(net(x), t))

        self.train, self.infer, self.loss = train, infer, loss
        products = [name for name in ("mkl", "mkldnn") if getattr(torch.backends, name).is_available()]
        self.about = {"threads": torch.get_num_threads(), "blas": f"PyTorch's own: {', '.join(products)}"}


def torch_net(torch: Any) -> Any:
    """SimpleConvNet in PyTorch's own layers, with `first_weights`."""
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 30, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4320, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    with torch.no_grad():
        for number, layer in {"1": net[0], "2": net[4], "3": net[6]}.items():
            w, b = (torch.from_numpy(first_weights()[f"{kind}{number}"]) for kind in "Wb")
            layer.weight.copy_(w if w.ndim == 4 else w.T)
            layer.bias.copy_(b)
    return net


def entrants(batch_size: int, threads: int) -> dict[str, Callable[[], Contestant]]:
    """Name -> how to make it, in the order of the table."""
    return {
        "book float64": lambda: Book(batch_size, "float64"),
        "book float32": lambda: Book(batch_size, "float32"),
        "xconv numpy float64": lambda: Xconv(batch_size, "numpy", "float64"),
        "xconv numpy float32": lambda: Xconv(batch_size, "numpy", "float32"),
        "xconv numba float64": lambda: Xconv(batch_size, "numba", "float64"),
        "xconv numba float32": lambda: Xconv(batch_size, "numba", "float32"),
        "PyTorch eager NCHW float32": lambda: PyTorch(batch_size, threads, channels_last=False),
        "PyTorch eager channels_last float32": lambda: PyTorch(batch_size, threads, channels_last=True),
    }
