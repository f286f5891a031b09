"""The book's algorithm as a contestant beside those of xconv.measure, all from the same weights and batches."""

from __future__ import annotations

from itertools import cycle

import numpy as np
from book_algorithm import AdaGrad, BookConvNet

import xconv
from xconv.measure.contestants import BOOK, Entrant, Network, Steps, batches, recipe_of

DTYPES = ("float64", "float32")


def cross_entropy(logits: np.ndarray, t: np.ndarray) -> float:
    """Mean of -log softmax at the label, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(t)), t]))


class Book(Steps):
    """SimpleConvNet by the book's algorithm."""

    def __init__(self, batch_size: int, dtype: str) -> None:
        recipe = recipe_of(BOOK)
        source = Network(BOOK, recipe).build("numpy", "float64")
        images, t = batches(batch_size, source)
        x = images.astype(dtype)
        net, optimizer, turn = BookConvNet(source.params.to_numpy(), dtype), AdaGrad(recipe.lr), cycle(range(len(x)))

        def train() -> None:
            i = next(turn)
            optimizer.update(net.params, net.gradient(x[i], t[i])[1])

        self.train = train
        self.infer = lambda: net.predict(x[next(turn)])
        self.loss = lambda: cross_entropy(net.predict(x[0]), t[0])
        self.about = xconv.get_backend("numpy").describe()


def book(batch_size: int) -> dict[str, Entrant]:
    """The book in both dtypes."""
    return {f"book {dtype}": Entrant(Book, batch_size, {"dtype": dtype}) for dtype in DTYPES}
