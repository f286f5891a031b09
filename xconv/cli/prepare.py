"""A network ready to run: built or loaded, bound to its backend, its kernels compiled."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from xconv import data as datasets
from xconv import zoo
from xconv.backend import get_backend
from xconv.cli.console import notice
from xconv.errors import ConfigError, FileError, ShapeError
from xconv.models import Model, load
from xconv.optimizers import Optimizer
from xconv.shapes import as_given

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, t_train, x_test, t_test


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

    `images`, a data set by name, must fit the network: that is found out first.
    """
    start = time.perf_counter()
    chosen = get_backend(backend)  # before any notice: where it cannot run, that is the one line to read
    notice(f"{chosen.name} on {chosen.describe().get('device')}: getting ready")
    net = zoo.entry(model).build(recipe, backend=chosen, seed=seed)
    if optimizer is not None:
        net.compile(optimizer)
    if images is not None:
        check_images(net, *images)
    net.warm_up()
    seconds = time.perf_counter() - start
    notice(f"ready after {seconds:.1f} s")
    return net, seconds


def named_or_file(what: str, backend: str = "numpy", *, trained: bool = False) -> Model:
    """A network of the zoo by its name, or one from a file that `xconv train` or `model.save` wrote.

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
    return load(what, backend=backend)


def arrays_for(net: Model, name: str, images: datasets.DataSet) -> Arrays:
    """The data set as the network takes it."""
    check_images(net, name, images)
    return images.arrays(net.dtype, net.data_format)


def check_images(net: Model, name: str, images: datasets.DataSet) -> None:
    """ShapeError or ConfigError where the network cannot be trained or tested with a data set."""
    shape = as_given(images.image_shape, net.data_format)
    if shape != net.input_shape:
        raise ShapeError(
            f"{net.name} takes images of shape {net.input_shape}. Received: {name}, whose images are of shape {shape}"
        )
    if net.classes < len(images.classes):
        raise ConfigError(f"{net.name} knows {net.classes} classes. Received: {name}, which has {len(images.classes)}")
