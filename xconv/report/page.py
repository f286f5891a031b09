"""One HTML page of a run: opened offline, it fetches nothing and runs nothing."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from xconv.files import replacing
from xconv.report.folder import HISTORY, MODEL, PAGE, RUN, Run, read
from xconv.report.pieces import (
    absent,
    by_epoch,
    count,
    date,
    duration,
    facts_table,
    figure,
    measured,
    number,
    percent,
    rounded,
    settings,
    significant,
    size_text,
    table,
    words,
)
from xconv.report.style import STYLE

_CURVES = (
    "Each panel shows one quantity by epoch; a ring marks the best epoch. Training values are means over each epoch, "
    "taken while training, with dropout and as the weights moved; test values are of the network at the epoch's end."
)
# Nothing may be loaded but what stands in the page itself: browsers hold it to that.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write(folder: str | os.PathLike[str], *, custom_layers: Mapping[str, Any] | None = None) -> Run:
    """Bind what a run's folder holds into `folder`/report.html, and give what was found.

    The page stands alone: pictures are inside, nothing is fetched, no script runs. What is missing is said in it.
    `custom_layers` as in `xconv.load`. FileError for a folder that is not there or holds no run, for a run.json or
    history.csv that is damaged, and where the page cannot be written.
    """
    run = read(folder, custom_layers=custom_layers)
    with replacing(run.folder / PAGE) as part:
        part.write_text(html(run), encoding="utf-8", errors="backslashreplace")  # of a folder not UTF-8
    return run


def html(run: Run) -> str:
    """The page as a text."""
    title = _title(run)
    sections = [
        _head(run, title),
        _section("Results", _results(run)),
        _section("Training", _training(run)),
        _section("Predictions", _predictions(run)),
        _section("Inside the network", _inside(run)),
        _section("Network", _network(run)),
        _section("Recipe", _recipe(run)),
        _section("Environment", _environment(run)),
        _section("To repeat it", _repeat(run)),
    ]
    written = escape(f"xconv {run.about.get('versions', {}).get('xconv', '')}".strip())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + f"\n<footer>Trained with {written}. This page stands alone: nothing is fetched, no script runs.</footer>\n"
        "</body>\n</html>\n"
    )


# ---------------------------------------------------------------------- sections


def _title(run: Run) -> str:
    data = run.about.get("data", {}).get("name")
    model = run.about.get("model") or (run.layers or {}).get("model") or run.folder.resolve().name
    return f"{model} on {_data_name(data)}" if data else str(model)


def _data_name(data: Any) -> str:
    """Without the ./ that makes a folder's name an argument."""
    return str(data).removeprefix("./")


def _head(run: Run, title: str) -> str:
    about = run.about
    backend, results, speed = (about.get(name, {}) for name in ("backend", "results", "throughput"))
    said = [date(about.get("date"))]
    if backend:
        said.append(f"{backend.get('backend', '?')} on {backend.get('device', 'an unknown device')}")
    out = [f"<header>\n<h1>{escape(title)}</h1>", f'<p class="soft">{escape(", ".join(s for s in said if s))}</p>']
    test = results.get("test", {})
    after = f" after epoch {count(test['epoch'])}" if count(test.get("epoch")) else ""  # where it was not the last
    figures = [
        (f"test accuracy{after}", percent(test.get("accuracy"))),
        (f"test loss{after}", significant(test.get("loss"))),
        ("epochs", count(about.get("epochs"))),
        ("training time", duration(speed.get("train_seconds"))),
        ("images a second", count(speed.get("images_per_second"))),
        ("parameters", rounded((run.layers or {}).get("total_params"))),
    ]
    cells = [f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures if value]
    if cells:
        out.append('<dl class="figures">' + "".join(cells) + "</dl>")
    if about.get("interrupted"):
        out.append(f'<p class="note">Training was interrupted {escape(str(about["interrupted"]))}.</p>')
    if run.missing:
        items = "".join(f"<li><code>{escape(name)}</code>: {escape(why)}</li>" for name, why in run.missing.items())
        out.append(f'<div class="note">Not in this page:<ul>{items}</ul></div>')
    return "\n".join(out) + "\n</header>"


def _section(title: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside or absent('Nothing is known of it')}\n</section>"


def _results(run: Run) -> str:
    results, data = run.about.get("results", {}), run.about.get("data", {})
    parts = [part for part in ("training", "training_as_it_went", "test") if results.get(part)]
    names = list(dict.fromkeys(name for part in parts for name in results[part]))
    rows = [[escape(words(name)), *(by_epoch(name, results[part].get(name)) for part in parts)] for name in names]
    counts = [count(data.get(f"{part.partition('_')[0]}_images")) for part in parts]
    if any(counts):
        rows.append(["images", *counts])
    out = [table(["", *map(words, parts)], rows, numbers=True) if rows else absent(f"There are none in {RUN}")]
    if results.get("training"):
        out.append('<p class="soft">Training and test images: evaluated afterwards, with the final weights.</p>')
    elif results.get("training_as_it_went"):
        out.append('<p class="soft">Training as it went: while training, with dropout and as the weights moved.</p>')
    best = _best(run.epochs)
    if best:
        out.append(f"<p>{escape(best)}</p>")
    if run.about.get("source"):
        out.append(f'<p class="soft">Source of the network: {escape(str(run.about["source"]))}.</p>')
    return "\n".join(out)


def _best(epochs: Sequence[Mapping[str, float]]) -> str:
    """A sentence on the best epoch, of held-out accuracy or loss."""
    for name, what, better in (("val_accuracy", "test accuracy", max), ("val_loss", "test loss", min)):
        known = [row for row in epochs if math.isfinite(row.get(name, math.nan))]
        if len(known) > 1:
            best = better(row[name] for row in known)
            if all(row[name] == best for row in known):  # no epoch is better than another
                return ""
            epoch = next(row["epoch"] for row in known if row[name] == best)
            return f"Best {what}: {measured(name, best)}, after epoch {epoch:g} of {len(epochs)}."
    return ""


def _training(run: Run) -> str:
    alt = f"Curves of loss and accuracy over {len(run.epochs)} epochs, for training and test images."
    out = [figure(run, "curves.png", alt, _CURVES)]
    if not run.epochs:
        out.append(absent("No epoch was finished" if HISTORY not in run.missing else f"{HISTORY} is missing"))
        return "\n".join(out)
    names = [name for name in run.epochs[0] if any(math.isfinite(row[name]) for row in run.epochs)]
    rows = [[by_epoch(name, row[name]) for name in names] for row in run.epochs]
    whole = table([words(name) for name in names], rows, numbers=True)
    out.append(f"<details><summary>Every epoch in numbers</summary>\n{whole}\n</details>")
    return "\n".join(out)


def _predictions(run: Run) -> str:
    classes = run.about.get("classes")
    number_of = f" of {len(classes)} classes" if isinstance(classes, list) else ""
    test = run.about.get("results", {}).get("test", {})
    accuracy = "" if test.get("epoch") else percent(test.get("accuracy"))  # pictures are of the final network
    of = f", test accuracy {accuracy}" if accuracy else ""
    return "\n".join(
        [
            figure(
                run,
                "predictions.png",
                f"A grid of test images with the classes predicted for them and their probabilities{of}.",
                "First the mistakes of which the network was surest, crossed and framed in vermilion, then images that "
                "it got right, ticked and framed in blue.",
            ),
            figure(
                run,
                "confusion.png",
                f"Confusion matrix{number_of}, a row for each true class and a column for each predicted one{of}.",
                "Rows are true classes, columns what the network said. Right answers are blue, mistakes vermilion; "
                "recall is the share of a class that was recognised.",
            ),
        ]
    )


def _inside(run: Run) -> str:
    return "\n".join(
        [
            figure(
                run,
                "filters.png",
                "The filters of the first convolution before and after training.",
                "The filters of the first convolution, before and after training, on one scale.",
            ),
            figure(
                run,
                "features.png",
                "A test image and what layers of the network make of it, from first to last.",
                "What layers make of a test image, from first to last. Each layer has its own scale.",
            ),
        ]
    )


def _network(run: Run) -> str:
    if run.layers is None:
        return absent(f"{MODEL} cannot be shown: {run.missing.get(MODEL, 'it is missing')}")
    layers = run.layers["layers"]
    branched = any(row["inputs"] not in ([], [before["name"]]) for before, row in pairwise(layers))
    rows = [
        [
            escape(str(row["name"])),
            escape(row["kind"]),
            escape(" × ".join(str(n) for n in row["output_shape"][1:])),
            count(row["params"]),
            *([escape(", ".join(row["inputs"]))] if branched else []),
        ]
        for row in layers
    ]
    header = ["layer", "kind", "output", "parameters", *(["reads"] if branched else [])]
    counts = [
        (kind.replace("_", "-"), run.layers[f"{kind}_params"]) for kind in ("total", "trainable", "non_trainable")
    ]
    foot = [[name, "", "", count(n), *([""] if branched else [])] for name, n in counts]
    return table(header, rows, right={3}, foot=foot, kind="layers")


def _recipe(run: Run) -> str:
    about = run.about
    rows: list[tuple[str, Any]] = [
        ("epochs trained" if name == "epochs" else words(name), settings(about.get(name)))
        for name in ("recipe", "epochs", "batch_size", "seed", "dtype", "optimizer", "augmentation")
    ]
    data = about.get("data", {})
    name = data.get("name")
    rows += [("data", None if name is None else _data_name(name)), ("image size", data.get("shape"))]
    classes = about.get("classes")
    if isinstance(classes, list):
        rows.append((f"{len(classes)} classes", ", ".join(map(str, classes))))
    return facts_table(rows)


def _environment(run: Run) -> str:
    about, speed = run.about, run.about.get("throughput", {})
    rows: list[tuple[str, Any]] = [(words(name), value) for name, value in about.get("backend", {}).items()]
    rows = [(name, size_text(value) if name == "workspace" else value) for name, value in rows]
    rows.append(("system", about.get("system")))
    rows += [(words(name), value) for name, value in about.get("versions", {}).items()]
    out = [facts_table(rows)]
    timed = [
        ("training steps", count(speed.get("steps"))),
        ("seconds in them", number(speed.get("train_seconds"), 1)),
        ("images a second", count(speed.get("images_per_second"))),
        ("seconds of compilation, not counted in them", number(speed.get("compile_seconds"), 1)),
        ("peak memory of the process", number(about.get("peak_rss_mb"), 0, " MB")),
        ("written", escape(date(about.get("date"), clock=True))),
    ]
    rows_of_speed = [[name, value] for name, value in timed if value]
    if rows_of_speed:
        out.append("<h3>Throughput</h3>\n" + table(["", ""], rows_of_speed, numbers=True, headless=True))
    return "\n".join(out) if any(value is not None for _, value in rows) or rows_of_speed else ""


def _repeat(run: Run) -> str:
    command = run.about.get("command")
    if not command:
        return absent(f"{RUN} does not tell by which command")
    data = run.about.get("data", {}).get("name")
    look = f"xconv evaluate {MODEL}" + (f" --data {shlex.quote(str(data))}" if data else "")
    return (
        f"<pre>{escape(str(command))}</pre>\n"
        "<p>The same seed gives the same initial weights, shuffles and dropout masks on every backend; on the same "
        "processor, with as many threads and the same versions, the same bits.</p>\n"
        f"<p>To test the network again:</p>\n<pre>{escape(look)}</pre>"
    )
