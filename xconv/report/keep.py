"""A run written into a folder: the model, its history, what is to be known of it, and the pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from xconv import __version__, plots
from xconv.callbacks import History
from xconv.environment import peak_rss_mb
from xconv.errors import ConfigError, FileError, XconvError, described
from xconv.files import output_folder, replacing
from xconv.models import Model
from xconv.report.folder import HISTORY, MODEL, MOST, PAGE, PICTURES, RUN, no_objects

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second")
_PACKAGES = ("numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
_MOST_IMAGES = 10_000  # of a test set, for the grid of predictions: those beyond stay where they are


def keep(
    folder: str | os.PathLike[str],
    model: Model,
    *,
    test: tuple[Any, Any] | None = None,
    classes: Sequence[str] | None = None,
    before: np.ndarray | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Write a trained model's run into a folder, which `write` makes a page of.

    model.safetensors, history.csv, run.json, and as far as they can be drawn curves.png, filters.png (`before` has the
    filters before training, from `xconv.plots.first_filters`), and of `test` = (x, t), as `fit` takes them,
    features.png, predictions.png and confusion.png. `notes` are entries of run.json besides those of `about`, as plain
    JSON values, such as "data", "recipe" or "command". Gives the pictures that were not drawn, with the reasons.
    ConfigError for arguments of other kinds, before anything of an earlier run is touched; FileError where a file
    cannot be written.
    """
    _check(folder, model, test, classes, before, notes)
    told = {**about(model), "classes": None if classes is None else list(classes), **(notes or {})}
    _check_about(told)
    with output_folder(folder) as path:
        keep_training(path, model)
        keep_about(path, told)
        undrawn = keep_pictures(path, model, test=test, classes=classes, before=before)
        keep_about(path, {**told, "not_drawn": undrawn})
    return undrawn


def _check(folder: Any, model: Any, test: Any, classes: Any, before: Any, notes: Any) -> None:
    if not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"keep: folder: expected a path; it stands before the model. Received: {described(folder)}")
    if not isinstance(model, Model):
        raise ConfigError(f"keep: model: expected a model. Received: {described(model)}")
    if not isinstance(notes, Mapping | None):
        raise ConfigError(
            f"keep: notes: expected a mapping of names to plain JSON values. Received: {described(notes)}"
        )
    if classes is not None and not (
        isinstance(classes, Sequence | np.ndarray)
        and not isinstance(classes, str | bytes)
        and all(isinstance(name, str) for name in classes)
    ):
        raise ConfigError(f"keep: classes: expected names, one for each class. Received: {described(classes)}")
    if not isinstance(before, np.ndarray | None):
        raise ConfigError(
            f"keep: before: expected the array that xconv.plots.first_filters gave. Received: {described(before)}"
        )
    if test is None:
        return
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise ConfigError(f"keep: test: expected a pair (x, labels). Received: {described(test)}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:  # of which the pictures will say that they cannot be drawn
        return
    for what, part in zip(("examples", "labels"), test, strict=True):
        if not (isinstance(part, list | tuple) or getattr(part, "shape", None)):
            raise ConfigError(f"keep: test: expected an array of {what}. Received: {described(part)}")
    x, t = test
    if len(x) != len(t) or len(x) == 0:
        raise ConfigError(
            f"keep: test: expected as many labels as examples, at least one. Received: {len(x)} examples, "
            f"{len(t)} labels"
        )


def _check_about(told: Mapping[str, Any]) -> None:
    """ConfigError for what `read` would refuse, or the page could not tell."""
    for name, value in no_objects(told):
        raise ConfigError(f"{RUN}: {name}: expected a mapping. Received: {described(value)}")
    for name in ("model", "source", "command", "interrupted"):
        if not isinstance(told.get(name), str | None):
            raise ConfigError(f"{RUN}: {name}: expected a text. Received: {described(told[name])}")
    for name in ("epochs", "batch_size"):
        value = told.get(name)
        if (
            not isinstance(value, int | np.integer | None)
            or isinstance(value, bool)
            or (value is not None and value < 0)
        ):
            raise ConfigError(f"{RUN}: {name}: expected a whole number. Received: {described(value)}")
    size = len(_json(told).encode("utf-8"))
    if size > MOST[RUN]:
        raise ConfigError(f"{RUN}: expected at most {MOST[RUN]:,} bytes, or no page can be made. Received: {size:,}")


def keep_training(folder: Path, model: Model) -> None:
    """The model and its history. What an earlier run has left of the files made from these is removed."""
    model.save(folder / MODEL)
    history = model.history
    named = [] if history is None else [name for name in history.history if name not in COLUMNS]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [*COLUMNS, *named], lineterminator="\n")
    table.writeheader()
    table.writerows(() if history is None else history.rows())
    with replacing(folder / HISTORY) as part:
        part.write_text(_utf8(text.getvalue()), encoding="utf-8")
    for name in (RUN, PAGE, *PICTURES):
        (folder / name).unlink(missing_ok=True)


def about(model: Model) -> dict[str, Any]:
    """What is known of a model's training without being told: for run.json. It names no machine, user or path."""
    history = model.history
    found: dict[str, Any] = {
        "format": 1,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": model.name,
        "dtype": model.dtype,
        "seed": model.seed,
        "optimizer": None if model.optimizer is None else model.optimizer.config(),
        "backend": model.backend.describe(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "versions": _versions(),
        "peak_rss_mb": peak_rss_mb(),
    }
    if history is not None:
        found["epochs"] = len(history.epoch)
        found["throughput"] = {
            "steps": history.steps,
            "train_seconds": history.train_seconds,
            "images_per_second": history.images_per_second if history.train_seconds else None,
            "compile_seconds": history.compile_seconds,
        }
        found["results"] = {"training_as_it_went": _last(history, False), "test": _last(history, True)}
    return found


def _last(history: History, held_out: bool) -> dict[str, float]:
    """What was measured last, all in one epoch, and the number of that "epoch" where it is not the last.

    NaN in every quantity is an epoch without, such as those that `validation_freq` leaves out.
    """
    columns = {
        name.removeprefix("val_"): values
        for name, values in history.history.items()
        if name.startswith("val_") == held_out
    }
    for i in reversed(range(len(history.epoch))):
        found = {name: values[i] for name, values in columns.items()}
        if any(math.isfinite(value) for value in found.values()):
            return found if i == len(history.epoch) - 1 else {**found, "epoch": history.epoch[i] + 1}
    return {}


def _versions() -> dict[str, str]:
    found = {"xconv": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def keep_about(folder: Path, told: Mapping[str, Any]) -> None:
    """run.json, as strict JSON; ConfigError for what JSON does not have."""
    text = _json(told)
    with replacing(folder / RUN) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _json(told: Mapping[str, Any]) -> str:
    try:
        return json.dumps(_strict(told), allow_nan=False, indent=1, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{RUN}: expected plain JSON values. Received: {error}") from None


def _strict(value: Any) -> Any:
    """With null for numbers that JSON lacks, NumPy's numbers as Python's, and escapes for what UTF-8 lacks."""
    if isinstance(value, str):
        return _utf8(value)
    if isinstance(value, Mapping):
        return {_utf8(str(key)): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _utf8(text: str) -> str:
    """With \\udce9 for half of a surrogate pair, as names of files that are not UTF-8 have."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def keep_pictures(
    folder: Path,
    model: Model,
    *,
    test: tuple[Any, Any] | None = None,
    classes: Sequence[str] | None = None,
    before: np.ndarray | None = None,
    title: str = "",
) -> dict[str, str]:
    """Draw what can be drawn; the rest is given back, with the reasons. FileError where a file cannot be written."""
    title = title or model.name
    undrawn: dict[str, str] = {}

    def attempt(name: str, draw: Callable[[Path], None]) -> None:
        try:
            draw(folder / name)
        except FileError:
            raise
        except (ImportError, XconvError) as error:
            undrawn[name] = str(error)

    history = model.history
    if history is not None and history.history:
        attempt("curves.png", lambda path: plots.save_curves(path, history, title, held_out="test"))
    else:
        undrawn["curves.png"] = "no epoch was finished"
    attempt(
        "filters.png",
        lambda path: plots.save_filters(path, plots.first_filters(model), before, title=f"{title}: first convolution"),
    )
    if test is None or len(model.inputs) != 1:
        why = "no test images were given" if test is None else f"the network takes {len(model.inputs)} inputs"
        return undrawn | dict.fromkeys(("features.png", "predictions.png", "confusion.png"), why)
    x, t = test
    attempt(
        "features.png",
        lambda path: plots.save_feature_maps(path, model, np.asarray(x[:1]), title=f"{title}: first test image"),
    )
    answers: list[np.ndarray] = []

    def probabilities() -> np.ndarray:
        if not answers:
            answers.append(plots.as_probabilities(model.predict(x), model.name))
        return answers[0]

    def draw_predictions(path: Path) -> None:
        p, count = probabilities(), min(len(x), _MOST_IMAGES)
        of = title if count == len(x) else f"{title}, first {count:,} test images"
        images = np.asarray(x[:count])
        plots.save_predictions(path, images, t[:count], p[:count], classes, title=of, data_format=model.data_format)

    attempt("predictions.png", draw_predictions)
    attempt("confusion.png", lambda path: plots.save_confusion(path, t, probabilities(), classes, title=title))
    return undrawn
