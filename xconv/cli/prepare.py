"""A network ready to run: built or loaded, bound to its backend, its kernels compiled."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xconv import data as datasets
from xconv import report, zoo
from xconv.backend import get_backend
from xconv.cli.console import notice
from xconv.errors import ConfigError, FileError, ShapeError, described
from xconv.models import Model, load
from xconv.optimizers import Optimizer
from xconv.shapes import as_given, channels_first

_SHOWN = 12  # classes in a message
Arrays = tuple[datasets.Pixels, np.ndarray, datasets.Pixels, np.ndarray]  # x_train, t_train, x_test, t_test


def prepare(
    model: str,
    recipe: zoo.Recipe,
    *,
    optimizer: Optimizer | None = None,
    images: tuple[str, datasets.DataSet] | None = None,
    backend: str,
    seed: int = 0,
) -> tuple[Model, float]:
    """The network and the seconds that bringing the backend up and compiling took; both are announced on stderr.

    `images`, a data set and its name or folder, must fit the network: that is found out first. For a folder the
    network is made with as many classes.
    """
    start = time.perf_counter()
    chosen = get_backend(backend)  # before any notice: where it cannot run, that is the one line to read
    notice(f"{chosen.name} on {chosen.describe().get('device')}: getting ready")
    settings: dict[str, Any] = (
        {"classes": len(images[1].classes)} if images is not None and _is_folder(images[0]) else {}
    )
    net = zoo.entry(model).build(recipe, backend=chosen, seed=seed, **settings)
    if optimizer is not None:
        net.compile(optimizer)
    if images is not None:
        check_images(net, *images)
    net.warm_up()
    seconds = time.perf_counter() - start
    notice(f"ready after {seconds:.1f} s")
    return net, seconds


def network_file(path: Path) -> Path:
    """The file itself; of a folder that `xconv train --out` made, the network's."""
    if not path.is_dir():
        return path
    if not (path / report.MODEL).is_file():
        raise FileError(
            f"{path}: expected a file, or a folder that xconv train --out made. "
            f"Received: a folder without {report.MODEL}"
        )
    return path / report.MODEL


def named_or_file(what: str, backend: str = "numpy", *, trained: bool = False) -> Model:
    """A network of the zoo by its name, or one from a file, or the folder of a run, of `xconv train` or `model.save`.

    Where it must be `trained`, a name is refused: what it gives has only its first weights.
    """
    if what in zoo.ZOO and trained and not Path(what).exists():
        raise FileError(
            f"expected the file of a trained network: train it first, as in xconv train --model {what} --out run. "
            f"Received: {what!r}, a name"
        )
    if what in zoo.ZOO and not trained:
        return zoo.entry(what).build(zoo.recipe(what), backend=backend)
    if not Path(what).exists():
        raise FileError(
            f"expected a file, or a network among {', '.join(zoo.ZOO)}. Received: {what!r}, which is neither"
        )
    return load(network_file(Path(what)), backend=backend)


@dataclass(frozen=True)
class Trained:
    """What is known of a network's training: names of its classes, and of its data as `--data` or a folder's name."""

    classes: tuple[str, ...] | None = None
    data: str | None = None

    @property
    def on_pictures(self) -> bool:
        """Whether it was trained on pictures in a folder."""
        return self.data is not None and _is_folder(self.data)


def trained_on(file: Path, classes: int) -> Trained:
    """From the run.json that `xconv train` left beside the file of a network of so many classes; empty without one."""
    path = file.parent / report.RUN
    if not path.is_file():
        return Trained()
    try:
        told = report.read_about(path)
        names, name = told.get("classes"), told.get("data", {}).get("name")
        if names is not None:
            if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
                raise FileError(f"{path}: classes: expected a list of names. Received: {described(names)}")
            if len(names) != classes:
                raise FileError(f"{path}: expected names of {classes} classes. Received: {len(names)}")
    except FileError as error:
        notice(f"classes are shown by number, since what trained the network is not known: {error}")
        return Trained()
    return Trained(None if names is None else tuple(names), name if isinstance(name, str) else None)


def default_data(model: str, trained: Trained | None = None) -> str:
    """The data set that a network was trained on, or that one of the zoo was published for; else the sample."""
    if trained is not None and trained.data is not None:
        if trained.on_pictures:  # where they lie is not kept
            raise ConfigError(
                f"{model} was trained on pictures in {trained.data!r}: name them by --data. Received: none"
            )
        return trained.data
    if model not in zoo.ZOO:
        return "mnist-sample"
    name = zoo.entry(model).data
    if name is None:
        raise ConfigError(
            f"{model} needs --data FOLDER, with a sub-folder of pictures for each class: what it was published on "
            "is not to be had by name. Received: none"
        )
    return name


def images_to_train(data: str, model: str) -> datasets.DataSet:
    """A data set by name, or the pictures in a folder, at the size that a network of the zoo was published for."""
    if not _is_folder(data):
        return datasets.load(data)
    height, width, channels = zoo.entry(model).input_shape
    images = datasets.folder(data, (height, width), channels=channels)
    notice(
        f"{data}: {len(images.x_train):,} pictures to train on and {len(images.x_test):,} to test with, made "
        f"{height} x {width}, {'in colour' if channels == 3 else 'grey'}, as {model} takes them"
    )
    return images


def images_to_test(data: str, net: Model, trained: Trained) -> datasets.DataSet:
    """A data set by name, or the pictures to test with in a folder, as the network takes them.

    ConfigError where the folder has other classes than those the network is known to have been trained on.
    """
    if not _is_folder(data):
        return datasets.load(data)
    height, width, channels = picture_shape(net)
    images = datasets.folder(data, (height, width), channels=channels, subset="test")
    if trained.classes is not None and images.classes != trained.classes:
        raise ConfigError(
            f"{data}: expected the classes that {net.name} was trained on, {_named(trained.classes)}. "
            f"Received: {_named(images.classes)}"
        )
    return images


def picture_shape(net: Model) -> tuple[int, int, int]:
    """(H, W, C) of the pictures that a network takes; ShapeError where it takes none."""
    if len(net.input_shape) != 3:
        raise ShapeError(f"{net.name}: expected a network that takes images. Received: inputs {net.input_shape}")
    channels, height, width = channels_first(net.input_shape, net.data_format)
    return height, width, channels


def _is_folder(data: str) -> bool:
    return data not in datasets.NAMES


def _named(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else "")


def arrays_for(net: Model, name: str, images: datasets.DataSet) -> Arrays:
    """The data set as the network takes it; images stay bytes until a batch is made."""
    check_images(net, name, images)
    return images.pixels(net.data_format)


def check_images(net: Model, name: str, images: datasets.DataSet) -> None:
    """ShapeError or ConfigError where the network cannot be trained or tested with a data set."""
    shape = as_given(images.image_shape, net.data_format)
    if shape != net.input_shape:
        raise ShapeError(
            f"{net.name} takes images of shape {net.input_shape}. Received: {name}, whose images are of shape {shape}"
        )
    if net.classes < len(images.classes) or (_is_folder(name) and net.classes > len(images.classes)):
        raise ConfigError(f"{net.name} knows {net.classes} classes. Received: {name}, which has {len(images.classes)}")
