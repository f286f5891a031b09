"""The folder of `xconv train --out`: what the command knows beside what any training does."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from xconv import data as datasets
from xconv import plots, report, zoo
from xconv.cli.console import notice
from xconv.errors import ConfigError, FileError
from xconv.files import readable
from xconv.models import Model

_NOT_REPEATED = ("out", "overwrite", "as_json")  # options that are no part of what is computed


def refuse_other_run(folder: Path) -> None:
    """FileError where a folder holds a run, which one that is written there would replace."""
    if not (folder / report.MODEL).is_file() and not (folder / report.RUN).is_file():
        return
    of = ""
    with contextlib.suppress(FileError, AttributeError):
        told = report.read_about(folder / report.RUN)
        of = f" of {told.get('model')} on {told.get('data', {}).get('name')}"
    raise FileError(
        f"{folder}: expected a folder without a run; give another --out, or --overwrite to replace what is there. "
        f"Received: a folder that holds a run{of}"
    )


class RunFolder:
    """A run's folder. Made before training, when the filters are still the initial ones; written after it.

    `recipe` is the recipe's name and `plan` the recipe; the command line is that of the present click context.
    """

    def __init__(
        self, folder: Path, net: Model, model: str, data: str, images: datasets.DataSet, recipe: str, plan: zoo.Recipe
    ) -> None:
        self.folder, self.net, self.data = folder, net, _shown(data)
        self.title = f"{title(model, data)}, {net.backend.name}"
        self.classes = [*images.classes, *(str(k) for k in range(len(images.classes), net.classes))]
        self.before = None
        with contextlib.suppress(ConfigError):  # no convolution: the picture will say so
            self.before = plots.first_filters(net)
        self.undrawn: dict[str, str] = {}
        self.told: dict[str, Any] = {
            "model": model,
            "source": _source(zoo.entry(model), data),
            "data": {
                "name": self.data,
                "training_images": len(images.x_train),
                "test_images": len(images.x_test),
                "shape": " × ".join(map(str, (*images.image_shape[1:], images.image_shape[0]))),
            },
            "classes": self.classes,
            "augmentation": _plain(plan.augmentation),
            "recipe": {"name": recipe, **{f.name: _plain(getattr(plan, f.name)) for f in fields(plan)}},
        }

    def write(self, epochs: int, batch_size: int, test: tuple[Any, Any], interrupted: str = "") -> None:
        """Every file of the run, the most precious first; pictures that could not be drawn are told of."""
        report.keep_training(self.folder, self.net)
        self.told = {
            **report.about(self.net),
            **self.told,
            "batch_size": batch_size,
            "command": _command(
                {"epochs": epochs, "batch_size": batch_size, "backend": self.net.backend.name}, self.data
            ),
        }
        if interrupted:
            self.told["interrupted"] = interrupted
        report.keep_about(self.folder, self.told)
        self.undrawn = report.keep_pictures(
            self.folder, self.net, test=test, classes=self.classes, before=self.before, title=self.title
        )
        if self.undrawn:
            self.told["not_drawn"] = self.undrawn
            report.keep_about(self.folder, self.told)
            for why in dict.fromkeys(self.undrawn.values()):
                names = [name for name, reason in self.undrawn.items() if reason == why]
                notice(f"not drawn: {', '.join(names)}: {why}")

    def judged(self, training: Mapping[str, float], peak_rss_mb: float | None) -> None:
        """Loss and accuracy of the final network on the training images, which `write` does not wait for."""
        self.told["results"] = {"training": dict(training), "test": self.told["results"]["test"]}
        self.told["peak_rss_mb"] = peak_rss_mb
        report.keep_about(self.folder, self.told)

    def names(self) -> list[str]:
        """The files that there are."""
        known = (report.MODEL, report.HISTORY, report.RUN, *report.PICTURES)
        return sorted(name for name in known if (self.folder / name).is_file())


def _plain(value: Any) -> Any:
    """A setting as plain JSON values: what has a config by that, and what is no JSON by its text."""
    if hasattr(value, "config"):
        return _plain(value.config() or str(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _source(entry: zoo.Entry, data: str) -> str:
    """Where a network comes from; without the published figure, which would judge a result on other data."""
    own = {entry.data, "mnist"} if entry.data == "mnist-sample" else {entry.data}  # the sample is of MNIST's images
    return f"{entry.source}; published {entry.published}" if entry.published and data in own else entry.source


def title(model: str, data: str) -> str:
    """What was trained on what, as the console, the pictures and the page say it."""
    return f"{model} on {_shown(data).removeprefix('./')}"


def _shown(data: str) -> str:
    """A data set's name; of a folder its own name only, since where it lies is nobody else's concern.

    The folder's as an argument, `./name`, which is no data set's.
    """
    return data if data in datasets.NAMES else f"./{readable(Path(data).resolve().name)}"


def _command(used: Mapping[str, Any], data: str) -> str:
    """The command line that repeats the present one, with what its defaults came to."""
    context = click.get_current_context()
    words = [*context.command_path.split()]
    for option in context.command.params:
        name = str(option.name)
        value = data if name == "data" else used.get(name, context.params.get(name))
        if name in _NOT_REPEATED or not isinstance(option, click.Option) or value is None or value is False:
            continue
        if name not in used and name not in ("model", "data", "seed") and value == option.get_default(context):
            continue
        words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return shlex.join(words)
