"""What `xconv bench` does with --peer and with --sweep."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from xconv.backend import get_backend
from xconv.cli.console import notice, print_json
from xconv.errors import ConfigError
from xconv.files import output_folder
from xconv.measure import charts, compare, contestants, demands, ours, pytorch, report, save, sweeps
from xconv.measure.contestants import BOOK, Data, Network, chw, recipe_of
from xconv.measure.tables import stem_of

ROUNDS = {"step": 7, "fit": 3, "book": 10}
NOISE_STEPS = 10  # steps in an epoch of a network whose data is not here


def check_machine() -> None:
    """A notice where the environment makes the BLAS another than users have."""
    forced = os.environ.get("OPENBLAS_CORETYPE")
    if forced is not None:
        notice(
            f"OPENBLAS_CORETYPE={forced} is set: NumPy's BLAS kernels are not those of this CPU; unset it to compare"
        )


def data_of(name: str | None, network: Network, batch_size: int) -> tuple[Data, int]:
    """What a run of epochs trains on, and how many images that is.

    MNIST where $XCONV_DATA_DIR says it is here, else the sample inside the package; noise for images of another shape.
    """
    net = network.build("numpy")
    if chw(net) != (1, 28, 28):
        if name is not None:
            raise ConfigError(
                f"{network.model} takes images of shape {chw(net)}, and is timed on noise. Received: {name}"
            )
        return Data("noise", NOISE_STEPS * batch_size), NOISE_STEPS * batch_size
    data = Data(name or ("mnist" if os.environ.get("XCONV_DATA_DIR") else "mnist-sample"))
    return data, len(data.arrays(net)[0])


def beside_torch(
    model: str,
    backend: str,
    batch_size: int | None,
    *,
    task: str,
    data: str | None,
    rounds: int | None,
    seconds: float,
    compiled: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """One interleaved run of xconv and PyTorch."""
    pytorch.check_installed()
    if task == "book" and model != BOOK:
        raise ConfigError(f"--task book is {BOOK}'s run. Received: --model {model}")
    check_machine()
    network = Network(model, recipe_of(model, task))
    batch_size = batch_size or network.recipe.batch_size
    settings: dict[str, Any] = {"evaluated": task == "book"}
    facts: dict[str, Any] = {"model": model, "batch_size": batch_size}
    if task != "step":
        settings["data"], facts["images"] = data_of(data, network, batch_size)
        facts["data"] = settings["data"].name
    mine = contestants.entrants(network, batch_size, ours(backend), **settings)
    theirs = pytorch.entrants(network, batch_size, compiled, **settings)
    with output_folder(out) if out else nullcontext():
        whole = compare(
            {**mine, **theirs},
            demands(list(mine), list(theirs), "PyTorch"),
            task=task,
            rounds=rounds or ROUNDS[task],
            seconds=seconds,
            say=notice,
            **facts,
        )
        if out is not None:
            save(out, stem_of(whole), whole, charts.comparison, notice)
    if as_json:
        print_json(whole)
    else:
        click.echo(report(whole))


def growing(
    model: str,
    backend: str,
    batch_size: int | None,
    *,
    axis: str,
    sizes: list[int],
    peer: bool,
    rounds: int | None,
    seconds: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """One axis, every size."""
    if peer:
        pytorch.check_installed()
    if axis == "batch" and batch_size is not None:
        raise ConfigError("--sweep batch takes batches of many sizes: give them with --sizes. Received: --batch-size")
    check_machine()
    network = Network(model, recipe_of(model))
    with output_folder(out) if out else nullcontext():
        result = sweeps.sweep(
            axis,
            network,
            get_backend(backend).name,
            batch_size=batch_size or network.recipe.batch_size,
            sizes=sizes,
            peer=peer,
            rounds=rounds or 3,
            seconds=seconds,
            say=notice,
        )
        if out is not None:
            save(out, f"sweep-{axis}", result, charts.growth, notice)
    if as_json:
        print_json(result)
    else:
        click.echo(sweeps.report(result))
