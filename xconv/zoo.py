"""The published networks by name, each with its recipes and its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xconv import optimizers
from xconv.backend import Backend
from xconv.book.network import SimpleConvNet
from xconv.errors import ConfigError, described
from xconv.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Layer, MaxPool2D, ReLU
from xconv.models import Model, Sequential


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; `settings` are arguments of the network itself, such as its initial weights."""

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)


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
        """The network with the recipe's settings, compiled with its optimizer."""
        net = self.make(**recipe.settings, backend=backend, seed=seed, dtype=dtype, **settings)
        net.compile(optimizers.get(recipe.optimizer, lr=recipe.lr))
        return net


def _classifier(name: str, layers: list[Layer], input_shape: tuple[int, ...], settings: dict[str, Any]) -> Sequential:
    net = Sequential(layers, name=name, input_shape=input_shape, **settings)
    net.compile("rmsprop", "sparse_categorical_crossentropy", ["accuracy"])
    return net


def keras_mnist(**settings: Any) -> Sequential:
    """The first convnet of Deep Learning with Python: 93,322 parameters, 55,744 of them in its convolutions."""
    layers = [
        Conv2D(32, 3, activation="relu", name="conv1"),
        MaxPool2D(2, name="pool1"),
        Conv2D(64, 3, activation="relu", name="conv2"),
        MaxPool2D(2, name="pool2"),
        Conv2D(64, 3, activation="relu", name="conv3"),
        Flatten(name="flatten"),
        Dense(64, activation="relu", name="dense1"),
        Dense(10, activation="softmax", name="dense2"),
    ]
    return _classifier("keras-mnist", layers, (28, 28, 1), settings)


def mnist_dropout(**settings: Any) -> Sequential:
    """A small convnet with dropout before its classifier: 56,714 parameters."""
    layers = [
        Conv2D(16, 3, activation="relu", name="conv1"),
        MaxPool2D(2, name="pool1"),
        Conv2D(32, 3, activation="relu", name="conv2"),
        MaxPool2D(2, name="pool2"),
        Flatten(name="flatten"),
        Dense(64, activation="relu", name="dense1"),
        Dropout(0.2, name="dropout"),
        Dense(10, activation="softmax", name="dense2"),
    ]
    return _classifier("mnist-dropout", layers, (28, 28, 1), settings)


def vgg16_bn_cifar10(**settings: Any) -> Sequential:
    """VGG16 (Simonyan and Zisserman 2015, configuration D) with batch normalisation, for 32x32 images in 10 classes."""
    layers: list[Layer] = []
    for block, (filters, convolutions) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for i in range(1, convolutions + 1):
            layers += [
                Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"conv{block}_{i}"),
                BatchNormalization(name=f"norm{block}_{i}"),
                ReLU(name=f"relu{block}_{i}"),
            ]
        layers.append(MaxPool2D(2, name=f"pool{block}"))
    layers += [
        Flatten(name="flatten"),
        Dense(4096, activation="relu", kernel_initializer="he_normal", name="dense1"),
        Dense(4096, activation="relu", kernel_initializer="he_normal", name="dense2"),
        Dense(10, activation="softmax", name="dense3"),
    ]
    return _classifier("vgg16-bn-cifar10", layers, (32, 32, 3), settings)


ZOO: dict[str, Entry] = {
    "simple-convnet": Entry(
        SimpleConvNet,
        {
            "default": Recipe("adam", 1e-3, 100, 10, {"weight_init_std": "he"}),
            "book": Recipe("adagrad", 0.06, 100, 10, {"weight_init_std": 0.01}),
        },
        "Deep Learning from Scratch, section 7.5: conv 30 5x5, ReLU, max-pool 2, dense 100, ReLU, dense 10",
    ),
    "keras-mnist": Entry(
        keras_mnist,
        {"default": Recipe("rmsprop", 1e-3, 64, 5)},
        "Chollet, Deep Learning with Python, section 5.1: published 99.15 %",
    ),
    "mnist-dropout": Entry(
        mnist_dropout,
        {"default": Recipe("adam", 1e-3, 128, 20)},
        "conv 16, pool, conv 32, pool, dense 64, dropout 0.2, dense 10",
    ),
    "vgg16-bn-cifar10": Entry(
        vgg16_bn_cifar10,
        {"default": Recipe("adam", 1e-3, 64, 20)},
        "VGG16 with batch normalisation on CIFAR-10: published 83.5 %",
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
