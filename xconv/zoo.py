"""The published networks by name, each with its recipes and its source.

Every function takes `input_shape` (height, width, channels) and `classes`, for images of one's own, and what all models
take: `backend`, `seed`, `dtype`, `fuse`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xconv import optimizers
from xconv.backend import Backend
from xconv.book.network import DeepConvNet, SimpleConvNet
from xconv.data import Augmentation
from xconv.errors import ConfigError, ShapeError, described
from xconv.layers import (
    Add,
    BatchNormalization,
    ChannelPadding,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Input,
    Layer,
    MaxPool2D,
    Normalization,
    ReLU,
    Tensor,
)
from xconv.models import Model, Sequential
from xconv.regularizers import L2
from xconv.schedules import PiecewiseConstant, Schedule

Shape = tuple[int, int, int]  # of an image: height, width, channels
GREY, TINY, PHOTO = (28, 28, 1), (32, 32, 3), (224, 224, 3)  # MNIST's, CIFAR-10's, ImageNet's
CIFAR10_MEAN, CIFAR10_STD = 0.4734, 0.2516  # of the training images, from 0 to 1
CIFAR10_COLOUR = (125.0, 123.0, 114.0)  # their mean, in bytes
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # filters and convolutions of each block


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    `rule` has further settings of the optimizer, such as its momentum; `settings` are arguments of the network itself,
    such as its initial weights; `augmentation` is what `fit` takes.
    """

    optimizer: str
    lr: float | Schedule
    batch_size: int
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Augmentation | None = None

    def __str__(self) -> str:
        rate = self.lr if isinstance(self.lr, Schedule) else f"{self.lr:g}"
        others = [f"{name} {value}" for name, value in {**self.rule, **self.settings}.items()]
        augmented = [] if self.augmentation is None else [repr(self.augmentation)]
        return ", ".join([f"{self.optimizer} {rate}", f"batch {self.batch_size}", *others, *augmented])

    def update_rule(self) -> optimizers.Optimizer:
        """The optimizer, new."""
        return optimizers.get(self.optimizer, lr=self.lr, **self.rule)


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: how it is made, what it is trained with ("default" and others), and where it comes from.

    `data` names the data set that it was published for, or is None where that is not to be had by name;
    `input_shape` is (height, width, channels) of its images, and `published` the test accuracy that was reached on it.
    """

    make: Callable[..., Model]
    recipes: Mapping[str, Recipe]
    source: str
    data: str | None = "mnist-sample"
    input_shape: Shape = GREY
    published: str = ""

    def build(
        self,
        recipe: str | Recipe = "default",
        *,
        backend: str | Backend | None = None,
        seed: int = 0,
        dtype: str = "float32",
        **settings: Any,
    ) -> Model:
        """The network with the settings of a recipe, given by its name or itself, compiled with its optimizer."""
        if not isinstance(recipe, Recipe):
            recipe = self.recipe(recipe)
        net = self.make(**{**recipe.settings, **settings}, backend=backend, seed=seed, dtype=dtype)
        net.compile(recipe.update_rule())
        return net

    def recipe(self, name: str = "default") -> Recipe:
        """One of its recipes."""
        if not isinstance(name, str) or name not in self.recipes:
            raise ConfigError(f"expected a recipe among {', '.join(self.recipes)}. Received: {described(name)}")
        return self.recipes[name]


def _classifier(net: Model) -> Any:
    """As all are compiled; the recipe's optimizer comes when an entry is built."""
    net.compile("rmsprop", "sparse_categorical_crossentropy", ["accuracy"])
    return net


def _decay(rate: float) -> L2 | None:
    """The penalty rate / 2 w^2, whose gradient is rate w."""
    return L2(rate / 2) if rate else None


def simple_convnet(input_shape: Shape = GREY, classes: int = 10, **settings: Any) -> SimpleConvNet:
    """The book's network of chapter 7, whose images are channels first: 433,890 parameters."""
    height, width, channels = input_shape
    return SimpleConvNet((channels, height, width), output_size=classes, **settings)


def deep_convnet(input_shape: Shape = GREY, classes: int = 10, **settings: Any) -> DeepConvNet:
    """The book's network of chapter 8, whose images are channels first: 123,552 parameters."""
    height, width, channels = input_shape
    return DeepConvNet((channels, height, width), output_size=classes, **settings)


def keras_mnist(input_shape: Shape = GREY, classes: int = 10, **settings: Any) -> Sequential:
    """The first convnet of Deep Learning with Python: 93,322 parameters, 55,744 of them in its convolutions."""
    layers = [
        Conv2D(32, 3, activation="relu", name="conv1"),
        MaxPool2D(2, name="pool1"),
        Conv2D(64, 3, activation="relu", name="conv2"),
        MaxPool2D(2, name="pool2"),
        Conv2D(64, 3, activation="relu", name="conv3"),
        Flatten(name="flatten"),
        Dense(64, activation="relu", name="dense1"),
        Dense(classes, activation="softmax", name="dense2"),
    ]
    return _classifier(Sequential(layers, name="keras-mnist", input_shape=input_shape, **settings))


def mnist_dropout(input_shape: Shape = GREY, classes: int = 10, **settings: Any) -> Sequential:
    """A small convnet with dropout before its classifier: 56,714 parameters."""
    layers = [
        Conv2D(16, 3, activation="relu", name="conv1"),
        MaxPool2D(2, name="pool1"),
        Conv2D(32, 3, activation="relu", name="conv2"),
        MaxPool2D(2, name="pool2"),
        Flatten(name="flatten"),
        Dense(64, activation="relu", name="dense1"),
        Dropout(0.2, name="dropout"),
        Dense(classes, activation="softmax", name="dense2"),
    ]
    return _classifier(Sequential(layers, name="mnist-dropout", input_shape=input_shape, **settings))


def vgg16_bn_cifar10(input_shape: Shape = TINY, classes: int = 10, **settings: Any) -> Sequential:
    """VGG16 (Simonyan and Zisserman 2015, configuration D) with batch normalisation, for 32x32 images in 10 classes."""
    layers: list[Layer] = []
    for block, (filters, convolutions) in enumerate(VGG16, 1):
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
        Dense(classes, activation="softmax", name="dense3"),
    ]
    return _classifier(Sequential(layers, name="vgg16-bn-cifar10", input_shape=input_shape, **settings))


def vgg16(
    input_shape: Shape = PHOTO,
    classes: int = 1000,
    *,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.5,
    weight_decay: float = 0.0,
    **settings: Any,
) -> Sequential:
    """VGG16 as published (Simonyan and Zisserman 2015, configuration D), layers named as Keras names them.

    138,357,544 parameters with 1000 classes. Without its top, the three dense layers, it takes images of any size of
    at least 32 and ends in the last pooling, x[N,H/32,W/32,512], or with `pooling` "avg" or "max" in that of each
    channel, [N,512]. `dropout` is that of the first two dense layers in training, `weight_decay` lambda stands in the
    update as w -= lr lambda w. Pixels are as the model's user gives them; the authors' are 0 to 255 less the mean
    colour, (123.68, 116.779, 103.939).
    """
    if pooling not in (None, "avg", "max") or (include_top and pooling is not None):
        raise ConfigError(
            f"vgg16: pooling must be None, 'avg' or 'max', and None with the top. Received: {described(pooling)}, "
            f"include_top={include_top}"
        )
    if min(input_shape[:2]) < 32:
        raise ShapeError(f"vgg16: five poolings need images of at least 32x32. Received: {described(input_shape)}")
    weights: dict[str, Any] = {"kernel_initializer": "he_normal", "kernel_regularizer": _decay(weight_decay)}
    layers: list[Layer] = []
    for block, (filters, convolutions) in enumerate(VGG16, 1):
        layers += [
            Conv2D(filters, 3, padding="same", activation="relu", **weights, name=f"block{block}_conv{i}")
            for i in range(1, convolutions + 1)
        ]
        layers.append(MaxPool2D(2, name=f"block{block}_pool"))
    if include_top:
        layers.append(Flatten(name="flatten"))
        for i in (1, 2):
            layers += [
                Dense(4096, activation="relu", **weights, name=f"fc{i}"),
                Dropout(dropout, name=f"dropout{i}"),
            ]
        layers.append(Dense(classes, activation="softmax", **weights, name="predictions"))
    elif pooling:
        layers.append(GlobalAveragePooling2D(name="pool") if pooling == "avg" else GlobalMaxPooling2D(name="pool"))
    net = Sequential(layers, name="vgg16", input_shape=input_shape, **settings)
    return _classifier(net) if include_top else net


def resnet20_cifar10(
    input_shape: Shape = TINY, classes: int = 10, *, blocks: int = 3, weight_decay: float = 1e-4, **settings: Any
) -> Model:
    """The residual network for CIFAR-10 (He et al. 2015, section 4.2) of 6 `blocks` + 2 layers with weights.

    Pixels from 0 to 1 are normalised as CIFAR-10's are. A convolution 3x3 to 16 channels, then three stages of `blocks`
    residual blocks with 16, 32 and 64 channels, the second and third stage beginning with stride 2; shortcuts without
    parameters (option A), the mean of each channel and one dense layer: 269,722 trainable parameters for 20 layers.
    `weight_decay` lambda stands in the update as w -= lr lambda w.
    """
    weights: dict[str, Any] = {"kernel_initializer": "he_normal", "kernel_regularizer": _decay(weight_decay)}

    def convolved(x: Tensor, name: str, filters: int, strides: int = 1) -> Tensor:
        x = Conv2D(filters, 3, strides, 1, use_bias=False, **weights, name=f"{name}_conv")(x)
        return BatchNormalization(name=f"{name}_norm")(x)

    image = Input(input_shape, name="image")
    x = Normalization(axis=None, mean=CIFAR10_MEAN, variance=CIFAR10_STD**2, name="normalization")(image)
    x = ReLU(name="first_relu")(convolved(x, "first", 16))
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_{block}"
            halve = stage > 1 and block == 1
            y = ReLU(name=f"{name}a_relu")(convolved(x, f"{name}a", filters, 2 if halve else 1))
            y = convolved(y, f"{name}b", filters)
            if halve:  # every second pixel, and channels of zeros on both sides
                x = MaxPool2D(1, strides=2, name=f"{name}_every_second")(x)
                x = ChannelPadding(filters // 4, filters // 4, name=f"{name}_zeros")(x)
            x = ReLU(name=f"{name}_relu")(Add(name=f"{name}_add")([y, x]))
    x = GlobalAveragePooling2D(name="mean")(x)
    x = Dense(classes, activation="softmax", **weights, name="dense")(x)
    return _classifier(Model(image, x, name="resnet20-cifar10", **settings))


ZOO: dict[str, Entry] = {
    "simple-convnet": Entry(
        simple_convnet,
        {
            "default": Recipe("adam", 1e-3, 100, 10, {"weight_init_std": "he"}),
            "book": Recipe("adagrad", 0.06, 100, 10, {"weight_init_std": 0.01}),
        },
        "Deep Learning from Scratch, section 7.5: conv 30 5x5, ReLU, max-pool 2, dense 100, ReLU, dense 10",
        published="98.60 %",
    ),
    "keras-mnist": Entry(
        keras_mnist,
        {"default": Recipe("rmsprop", 1e-3, 64, 5)},
        "Chollet, Deep Learning with Python, section 5.1",
        published="99.15 %",
    ),
    "mnist-dropout": Entry(
        mnist_dropout,
        {"default": Recipe("adam", 1e-3, 128, 20)},
        "conv 16, pool, conv 32, pool, dense 64, dropout 0.2, dense 10",
    ),
    "deep-convnet": Entry(
        deep_convnet,
        {"default": Recipe("adam", 1e-3, 100, 20)},
        "Deep Learning from Scratch, section 8.1: six convolutions 3x3, dropout, He initialisation",
        published="99.38 %",
    ),
    "vgg16-bn-cifar10": Entry(
        vgg16_bn_cifar10,
        {"default": Recipe("adam", 1e-3, 64, 20)},
        "VGG16 (Simonyan and Zisserman 2015) with batch normalisation on CIFAR-10",
        data="cifar10",
        input_shape=TINY,
        published="83.5 % (training images: 97 %)",
    ),
    "vgg16": Entry(
        vgg16,
        {"default": Recipe("sgd", 0.01, 256, 74, {"weight_decay": 5e-4}, {"momentum": 0.9})},
        "Simonyan and Zisserman 2015, Very deep convolutional networks for large-scale image recognition",
        data=None,
        input_shape=PHOTO,
    ),
    "resnet20-cifar10": Entry(
        resnet20_cifar10,
        {
            "default": Recipe(
                "sgd",
                PiecewiseConstant((32_000, 48_000), (0.1, 0.01, 0.001)),
                batch_size=128,
                epochs=164,
                rule={"momentum": 0.9},
                augmentation=Augmentation(flip=True, crop=4, fill=CIFAR10_COLOUR),
            )
        },
        "He, Zhang, Ren and Sun 2015, Deep residual learning for image recognition",
        data="cifar10",
        input_shape=TINY,
        published="91.25 %",
    ),
}


def entry(name: str) -> Entry:
    """The network called `name`."""
    if name not in ZOO:
        raise ConfigError(f"unknown model: expected one of {', '.join(ZOO)}. Received: {described(name)}")
    return ZOO[name]


def recipe(model: str, name: str = "default") -> Recipe:
    """One of a network's recipes."""
    try:
        return entry(model).recipe(name)
    except ConfigError as error:
        raise ConfigError(f"{model}: {error}") from None
