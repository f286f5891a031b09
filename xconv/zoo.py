"""The published networks by name, each with its recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xconv.backend import Backend
from xconv.book.network import SimpleConvNet
from xconv.errors import ConfigError, described
from xconv.models import Model


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: initial weights, optimizer, learning rate, batch size, epochs."""

    weight_init: str | float
    optimizer: str
    lr: float
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: how it is made, what it is trained with ("default" and others), and where it comes from."""

    make: Callable[..., Model]
    recipes: Mapping[str, Recipe]
    source: str

    def build(
        self,
        recipe: Recipe,
        *,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        **settings: Any,
    ) -> Model:
        """The network with the recipe's initial weights."""
        return self.make(weight_init_std=recipe.weight_init, backend=backend, seed=seed, dtype=dtype, **settings)


ZOO: dict[str, Entry] = {
    "simple-convnet": Entry(
        SimpleConvNet,
        {
            "default": Recipe("he", "adam", 1e-3, 100, 10),
            "book": Recipe(0.01, "adagrad", 0.06, 100, 10),
        },
        "Deep Learning from Scratch, section 7.5: conv 30 5x5, ReLU, max-pool 2, dense 100, ReLU, dense 10",
    ),
}


def entry(name: str) -> Entry:
    """The network called `name`."""
    if name not in ZOO:
        raise ConfigError(f"unknown model: expected one of {', '.join(ZOO)}. Received: {described(name)}")
    return ZOO[name]


def recipe(model: str, name: str = "default") -> Recipe:
    """One of a network's recipes."""
    recipes = entry(model).recipes
    if name not in recipes:
        raise ConfigError(f"{model}: expected a recipe among {', '.join(recipes)}. Received: {described(name)}")
    return recipes[name]
