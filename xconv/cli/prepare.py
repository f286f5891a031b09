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

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, t_train, x_test, t_test


def prepare(
    model: str, recipe: zoo.Recipe, *, optimizer: Optimizer | None = None, backend: str, seed: int = 0
) -> tuple[Model, float]:
    """The network and the seconds that bringing the backend up and compiling took; both are announced on stderr."""
    start = time.perf_counter()
    chosen = get_backend(backend)  # before any notice: where it cannot run, that is the one line to read
    notice(f"{chosen.name} on {chosen.describe().get('device')}: getting ready")
    net = zoo.entry(model).build(recipe, backend=chosen, seed=seed)
    if optimizer is not None:
        net.compile(optimizer)
    net.warm_up()
    seconds = time.perf_counter() - start
    notice(f"ready after {seconds:.1f} s")
    return net, seconds


def named_or_file(what: str, backend: str = "numpy") -> Model:
    """A network of the zoo by its name, or one from a file that `xconv train` or `model.save` wrote."""
    if what in zoo.ZOO:
        return zoo.entry(what).build(zoo.recipe(what), backend=backend)
    if not Path(what).exists():
        raise FileError(
            f"expected a file, or a network among {', '.join(zoo.ZOO)}. Received: {what!r}, which is neither"
        )
    return load(what, backend=backend)


def arrays_for(net: Model, name: str, images: datasets.DataSet) -> Arrays:
    """The data set as the network takes it; ShapeError where it cannot."""
    arrays = images.arrays(net.dtype, net.data_format)
    if arrays[0].shape[1:] != net.input_shape:
        raise ShapeError(
            f"{net.name} takes images of shape {net.input_shape}. Received: {name}, whose images are of shape "
            f"{arrays[0].shape[1:]}"
        )
    if net.classes < len(images.classes):
        raise ConfigError(f"{net.name} knows {net.classes} classes. Received: {name}, which has {len(images.classes)}")
    return arrays
