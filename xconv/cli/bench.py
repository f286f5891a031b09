"""`xconv bench`: how long a training step and a prediction take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from xconv import zoo
from xconv.cli.console import notice, print_json, print_table
from xconv.cli.options import COUNT, backend_option, json_option, model_option
from xconv.cli.prepare import prepare
from xconv.environment import peak_rss_mb
from xconv.models import Model

WARM_UPS = 3  # steps in which pools of memory, caches and clocks settle


@click.command()
@model_option
@backend_option
@click.option("--batch-size", type=COUNT, help="Images in a batch.  [default: the network's published one]")
@click.option("--steps", type=COUNT, default=50, show_default=True, help="Steps that are timed.")
@json_option
def bench(model: str, backend: str, batch_size: int | None, steps: int, as_json: bool) -> None:
    """Time training steps and predictions on random images.

    A step is forward, backward and update, on a batch that is already where the backend computes. Medians are shown;
    compilation and warming up are not in them.
    """
    recipe = zoo.recipe(model)
    net, _ = prepare(model, recipe, backend=backend)
    notice(f"timing {steps} training steps and {steps} predictions")
    result = {"model": model, **measure(net, batch_size or recipe.batch_size, steps)}
    if as_json:
        print_json(result)
        return
    rows = [
        ["one batch", f"{result['train_ms']:.2f} ms", f"{result['infer_ms']:.2f} ms"],
        [
            "images/s",
            f"{result['train_images_per_second']:,.0f}",
            f"{result['infer_images_per_second']:,.0f}",
        ],
    ]
    print_table(f"{model} on {result['backend']}", ["", "train", "predict"], rows)
    memory = f"{result['peak_rss_mb']:.0f} MB" if result["peak_rss_mb"] else "unknown"
    click.echo(
        f"batch {result['batch_size']}, {result['dtype']}, {result['threads'] or '?'} threads, peak memory {memory}\n"
        f"BLAS: {result['blas'] or 'unknown'}"
    )


def measure(net: Model, batch_size: int, steps: int) -> dict[str, Any]:
    """Median times of a training step and of predict, over `steps` of each, on one batch of random images."""
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, *net.input_shape), np.float32).astype(net.dtype)
    labels = rng.integers(0, net.classes, batch_size)
    x, t = net.backend.asarray(images), net.backend.asarray(labels)
    wait = net.backend.synchronize
    train_ms = _median_ms(lambda: net.train_step(x, t), wait, steps)
    infer_ms = _median_ms(lambda: net.predict(images, batch_size), wait, steps)
    about = net.backend.describe()
    return {
        "backend": net.backend.name,
        "batch_size": batch_size,
        "dtype": net.dtype,
        "threads": about.get("threads"),
        "blas": about.get("blas"),
        "train_ms": train_ms,
        "infer_ms": infer_ms,
        "train_images_per_second": batch_size / train_ms * 1e3,
        "infer_images_per_second": batch_size / infer_ms * 1e3,
        "peak_rss_mb": peak_rss_mb(),
    }


def _median_ms(call: Callable[[], Any], wait: Callable[[], None], steps: int) -> float:
    for _ in range(WARM_UPS):
        call()
    wait()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
