"""`xconv train`: one of the zoo's networks, one of the data sets, and what came of it."""

from __future__ import annotations

import shlex
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from xconv import optimizers, streams, zoo
from xconv.cli.console import notice, plural, print_json, print_table
from xconv.cli.keep import RunFolder, refuse_other_run, title
from xconv.cli.options import COUNT, backend_option, data_option, json_option, model_option
from xconv.cli.prepare import Arrays, arrays_for, default_data, images_to_train, prepare
from xconv.cli.watch import Brake, Stopped
from xconv.environment import peak_rss_mb
from xconv.errors import FileError, NonFiniteError
from xconv.files import output_folder
from xconv.models import Model


@click.command()
@model_option
@data_option
@backend_option
@click.option(
    "--recipe",
    type=click.Choice(sorted({name for entry in zoo.ZOO.values() for name in entry.recipes}, reverse=True)),
    default="default",
    show_default=True,
    help="Initial weights, and what the options below are where they are not given. 'book': as in the book, "
    "for simple-convnet alone.",
)
@click.option("--epochs", type=COUNT, help="Times the network sees every training image.  [default: the recipe's]")
@click.option("--batch-size", type=COUNT, help="Images in a training step.  [default: the recipe's]")
@click.option(
    "--optimizer",
    type=click.Choice(list(optimizers.NAMED), case_sensitive=False),
    help="The update rule.  [default: the recipe's]",
)
@click.option("--lr", type=float, help="Learning rate.  [default: the recipe's, or the chosen optimizer's own]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of initial weights and shuffles.")
@click.option(
    "--no-record",
    is_flag=True,
    help="Do not record training steps to replay them whole, as a GPU does: slower there, and the same results.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the model, its history, run.json and pictures; made where it is missing. See xconv report.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run that --out holds, if there is one.")
@json_option
def train(
    model: str,
    data: str | None,
    backend: str,
    recipe: str,
    epochs: int | None,
    batch_size: int | None,
    optimizer: str | None,
    lr: float | None,
    seed: int,
    no_record: bool,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Train a network and test it.

    Without options: the book's SimpleConvNet on the MNIST sample, 10 epochs, in under a minute. Ctrl-C ends training
    after the step and still writes what there is. So does a loss that becomes NaN, with the network as it was before.
    """
    plan = zoo.recipe(model, recipe)
    epochs, batch_size = epochs or plan.epochs, batch_size or plan.batch_size
    settings: dict[str, Any] = {"lr": plan.lr, **plan.rule} if optimizer in (None, plan.optimizer) else {}
    if lr is not None:
        settings["lr"] = lr
    update_rule = optimizers.get(optimizer or plan.optimizer, **settings)
    streams.check_seed(seed)
    data = data or default_data(model)
    if out is not None and not overwrite:
        refuse_other_run(out)
    brake = Brake()
    try:
        with brake, output_folder(out) if out else nullcontext() as folder:
            images = images_to_train(data, model)
            net, compile_seconds = prepare(
                model, plan, optimizer=update_rule, images=(data, images), backend=backend, seed=seed
            )
            if no_record:
                net.compile(update_rule, record=False)
            rule = f"{type(update_rule).__name__} {update_rule.lr:g}"
            notice(f"training {title(model, data)}, {plural(epochs, 'epoch')}, batches of {batch_size}, {rule}")
            arrays = arrays_for(net, data, images)
            run = RunFolder(folder, net, model, data, images, recipe, plan) if folder else None
            code, diverged = _train(net, arrays, plan, epochs, batch_size, brake)
            assert net.history is not None
            net.history.compile_seconds += compile_seconds
            if run is not None:
                early = brake.place if code else ""
                if diverged is not None:
                    early = f"in epoch {brake.epoch}: numbers became NaN or infinite"
                try:
                    run.write(epochs, batch_size, arrays[2:], early)
                except FileError as error:
                    if diverged is None:
                        raise
                    raise FileError(f"{error}. Before that, {diverged}") from error
            if diverged is not None:
                raise NonFiniteError(f"{diverged}; {_kept(out)}") from diverged
            if code == 0:
                _report(net, model, data, arrays, run, as_json)
    except Stopped as stopped:
        notice("interrupted" if brake.epoch else "interrupted before training began; nothing was written")
        return stopped.code
    if code:
        notice(f"interrupted {brake.place}; {_kept(out)}")
    return code


def _kept(out: Path | None) -> str:
    """What there is of a run that ended early."""
    return f"what there is was written to {out}" if out else "nothing was written, since there was no --out"


def _train(
    net: Model, arrays: Arrays, plan: zoo.Recipe, epochs: int, batch_size: int, brake: Brake
) -> tuple[int, NonFiniteError | None]:
    """Train `net`, whose history then tells how it went: the exit code of a signal, or the error of a loss of NaN."""
    x_train, t_train, x_test, t_test = arrays
    try:
        net.fit(
            x_train,
            t_train,
            batch_size,
            epochs,
            validation_data=(x_test, t_test),
            augmentation=plan.augmentation,
            callbacks=[brake],
        )
    except Stopped as stopped:
        return stopped.code, None
    except NonFiniteError as error:  # the network is as it was before that step, and worth keeping
        return 0, error
    return 0, None


def _report(net: Model, name: str, data: str, arrays: Arrays, run: RunFolder | None, as_json: bool) -> None:
    """The results, as a table or as one JSON object."""
    history = net.history
    assert history is not None
    x_train, t_train, x_test, _ = arrays
    train_loss, train_accuracy = net.evaluate(x_train, t_train)  # of the final network, as on the test set
    result: dict[str, Any] = {
        "backend": net.backend.name,
        "device": net.backend.describe().get("device"),
        "model": name,
        "data": data,
        "epochs": len(history.epoch),
        "steps": history.steps,
        "train_loss": train_loss,
        "test_loss": history.history["val_loss"][-1],
        "train_accuracy": train_accuracy,
        "test_accuracy": history.history["val_accuracy"][-1],
        "train_seconds": history.train_seconds,
        "compile_seconds": history.compile_seconds,
        "images_per_second": history.images_per_second,
        "peak_rss_mb": peak_rss_mb(),
        "out": None if run is None else str(run.folder),
    }
    if run is not None:
        run.judged({"loss": train_loss, "accuracy": train_accuracy}, result["peak_rss_mb"])
    if as_json:
        print_json(result)
        return
    rows = [
        ["loss", f"{train_loss:.4f}", f"{result['test_loss']:.4f}"],
        ["accuracy", f"{train_accuracy:.4f}", f"{result['test_accuracy']:.4f}"],
        ["images", f"{len(x_train):,}", f"{len(x_test):,}"],
    ]
    print_table(f"{title(name, data)}, {net.backend.name}", ["", "train", "test"], rows)
    click.echo(
        f"{plural(result['epochs'], 'epoch')}, {plural(result['steps'], 'step')} in {result['train_seconds']:.1f} s: "
        f"{result['images_per_second']:,.0f} images/s"
    )
    memory = f"; peak memory {result['peak_rss_mb']:.0f} MB" if result["peak_rss_mb"] else ""
    click.echo(f"compilation {result['compile_seconds']:.1f} s, not counted above{memory}")
    if run is not None:
        files = f"written to {run.folder}: {', '.join(run.names())}"
        click.echo(textwrap.fill(files, 80, break_long_words=False, break_on_hyphens=False))
        click.echo(f"to see it all on one page: xconv report {shlex.quote(str(run.folder))}")
