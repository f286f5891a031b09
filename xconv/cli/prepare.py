"""A network ready to run: built, bound to its backend, its kernels compiled."""

from __future__ import annotations

import time

from xconv import zoo
from xconv.backend import get_backend
from xconv.cli.console import notice
from xconv.models import Model
from xconv.optimizers import Optimizer


def prepare(
    model: str, recipe: zoo.Recipe, optimizer: Optimizer, *, backend: str, seed: int = 0
) -> tuple[Model, float]:
    """The network and the seconds that bringing the backend up and compiling took; both are announced on stderr."""
    start = time.perf_counter()
    chosen = get_backend(backend)  # before any notice: where it cannot run, that is the one line to read
    where = f"{chosen.name} on {chosen.describe().get('device')}"
    notice(f"{where}: preparing kernels (compiled once, kept on disk)")
    net = zoo.entry(model).build(recipe, backend=chosen, seed=seed)
    net.warm_up(optimizer)
    seconds = time.perf_counter() - start
    notice(f"ready after {seconds:.1f} s")
    return net, seconds
