"""`xconv bench`: how long a training step and a prediction take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from xconv import data as datasets
from xconv import zoo
from xconv.cli.beside import ROUNDS, beside_torch, growing
from xconv.cli.console import notice, print_json, print_table
from xconv.cli.options import COUNT, backend_option, json_option, model_option
from xconv.cli.prepare import prepare
from xconv.environment import peak_rss_mb
from xconv.measure import AXES
from xconv.models import Model

WARM_UPS = 3  # steps in which pools of memory, caches and clocks settle
STEPS = 50


class Sizes(click.ParamType):
    """ "1,8,64" as integers from 1 up."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
            self.fail(f"expected whole numbers from 1 up, such as 1,8,64. Received: {value!r}", param, ctx)
        return sorted({int(part) for part in parts})


SIZES = Sizes()


@click.command()
@model_option
@backend_option
@click.option("--batch-size", type=COUNT, help="Images in a batch.  [default: the network's published one]")
@click.option("--steps", type=COUNT, help=f"Steps that are timed, where nothing is compared.  [default: {STEPS}]")
@click.option("--peer", type=click.Choice(["torch"]), help="Compare with PyTorch, in turns, each in its own process.")
@click.option(
    "--task",
    type=click.Choice(list(ROUNDS)),
    help="With --peer: training steps and predictions, epochs of fit, or the book's ten epochs.  [default: step]",
)
@click.option("--compile", "compiled", is_flag=True, help="With --peer: torch.compile, too; needs a C++ compiler.")
@click.option(
    "--data",
    type=click.Choice(datasets.NAMES),
    help="With --task fit or book.  [default: mnist where $XCONV_DATA_DIR is set, else mnist-sample]",
)
@click.option(
    "--sweep", type=click.Choice(list(AXES)), help="Time and memory of an image as this grows; --peer torch beside it."
)
@click.option("--sizes", type=SIZES, help="With --sweep: such as 1,8,64.  [default: the axis's own]")
@click.option("--rounds", type=COUNT, help="With --peer or --sweep: turns of each contestant.")
@click.option(
    "--seconds", type=click.FloatRange(min=0), help="With --peer or --sweep: least length of a turn.  [default: 0.3]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --peer or --sweep: folder for the figures (JSON) and a chart (PNG).",
)
@json_option
def bench(
    model: str,
    backend: str,
    batch_size: int | None,
    steps: int | None,
    peer: str | None,
    task: str | None,
    compiled: bool,
    data: str | None,
    sweep: str | None,
    sizes: list[int] | None,
    rounds: int | None,
    seconds: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time training steps and predictions, alone, beside PyTorch (--peer), or as the work grows (--sweep).

    A step is forward, backward and update, on a batch that is already where the backend computes. Medians are shown;
    compilation and warming up are not in them.
    """
    only_peer = {"--task": task, "--compile": compiled or None, "--data": data}
    either = {"--rounds": rounds, "--seconds": seconds, "--out": out}
    if sweep is not None:
        _refuse({"--steps": steps, **only_peer}, "does not go with --sweep")
    else:
        _refuse({"--sizes": sizes}, "needs --sweep")
    if peer is not None:
        _refuse({"--steps": steps}, "does not go with --peer")
        _refuse({"--data": data if task in (None, "step") else None}, "needs --task fit or --task book")
    elif sweep is None:
        _refuse(only_peer, "needs --peer torch")
        _refuse(either, "needs --peer torch or --sweep")
    how: dict[str, Any] = {"rounds": rounds, "seconds": 0.3 if seconds is None else seconds, "out": out}
    how["as_json"] = as_json
    if sweep is not None:
        growing(model, backend, batch_size, axis=sweep, sizes=sizes or [], peer=peer is not None, **how)
    elif peer is not None:
        beside_torch(model, backend, batch_size, task=task or "step", data=data, compiled=compiled, **how)
    else:
        alone(model, backend, batch_size, steps or STEPS, as_json)


def _refuse(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"{name} {why}")


def alone(model: str, backend: str, batch_size: int | None, steps: int, as_json: bool) -> None:
    """Time one network on one backend, in this process."""
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
