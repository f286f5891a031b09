"""What was measured, for reading: markdown tables that are aligned in a terminal too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xconv.files import output_folder, replacing
from xconv.measure.machine import about_lines, blas_line
from xconv.measure.referee import Say

TITLES = {
    "train": "training step",
    "infer": "prediction",
    "fit": "fit, an epoch",
    "book": "book's run, an epoch",
    "memory": "memory of a training step",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns: text to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def count(n: int, noun: str) -> str:
    """ "1 round", "2 rounds"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """ "3.21 s", "5.41 ms", "0.054 ms"."""
    ms = seconds * 1e3
    return f"{seconds:.2f} s" if ms >= 1e3 else f"{ms:.2f} ms" if ms >= 1 else f"{ms:.3f} ms"


def disturbance(result: Mapping[str, Any]) -> list[str]:
    """A line on turns that other programs disturbed, where there were any."""
    disturbed, turns = result["disturbed_turns"], result["turns"]
    if not disturbed:
        return []
    told = f"{disturbed} of {turns} turns were disturbed by other programs"
    few = 10 * disturbed <= turns
    return [f"{told}." if few else f"{told.upper()}: run again when they are done; PyTorch loses most by them."]


def short(name: str, names: Sequence[str]) -> str:
    """A contestant's name without the dtype that all have."""
    return name.removesuffix(" float32") if all(other.endswith(" float32") for other in names) else name


def report(whole: Mapping[str, Any]) -> str:
    """A comparison: where, a table for each task, the ratios, and what is to be known beside them."""
    results = whole["contestants"]
    ran = {name: row for name, row in results.items() if "error" not in row}
    lines = [about_lines(dict(whole)), _heading(whole), ""]
    for task in whole["tasks"] if ran else ():
        lines += [_task_table(task, whole, ran), ""]
    if whole["ratios"]:
        lines += [_ratio_table(whole), ""]
    for name, row in results.items():
        if "error" in row:
            lines.append(f"{short(name, list(results))} did not compete: {row['error']}")
    lines += disturbance(whole)
    for name, row in ran.items():
        told = row["about"]
        products = told.get("blas") or blas_line(told["pools"])
        lines.append(f"{short(name, list(results))}: {told['threads']} threads; {products}")
    return "\n".join(lines)


def _heading(whole: Mapping[str, Any]) -> str:
    parts = [whole["model"], f"batch {whole['batch_size']}"]
    if "data" in whole:
        parts.append(f"{whole['images']:,} images of {whole['data']}, no callbacks")
    return ", ".join([*parts, count(whole["rounds"], "epoch" if "data" in whole else "round")])


def _task_table(task: str, whole: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    images = whole.get("images", whole["batch_size"])
    head = [TITLES[task], "median", "by round", "images/s"]
    extra: dict[str, Any] = {}
    if task == "train":
        told = {name: row["about"] for name, row in ran.items()}
        extra["until first step"] = {name: duration(row["first_step_seconds"]) for name, row in told.items()}
        extra["adds"] = {name: f"{row['step_mb']:.1f} MB" if row.get("step_mb") else "-" for name, row in ran.items()}
        extra["loss, step 8"] = {name: f"{row['first_loss']:.5f}" for name, row in told.items()}
    elif task != "infer":
        extra["in all"] = {name: duration(sum(row[task])) for name, row in ran.items()}
        extra["compiling"] = {name: duration(row["about"]["compile_seconds"]) for name, row in ran.items()}
        extra["loss"] = {name: f"{row['last_loss']:.4f}" for name, row in ran.items()}
        extra["accuracy"] = {name: f"{100 * row['accuracy']:.2f} %" for name, row in ran.items()}
    rows = []
    for name, row in ran.items():
        middle, unit = statistics.median(row[task]), 1.0 if row[task][0] >= 1 else 1e3
        around = f"{min(row[task]) * unit:.2f}..{max(row[task]) * unit:.2f}"
        cells = [short(name, list(whole["contestants"])), duration(middle), around, f"{images / middle:,.0f}"]
        rows.append([*cells, *(column[name] for column in extra.values())])
    return table([*head, *extra], rows)


def _ratio_table(whole: Mapping[str, Any]) -> str:
    keys = ["best_turns", *(["in_all"] if whole["task"] != "step" else [])]
    rows = []
    targeted = any(row["target"] for row in whole["ratios"])
    for row in whole["ratios"]:
        measured = row["measured"]
        what = " ".join(word for word in row["what"].split() if word != "float32") if not targeted else row["what"]
        cells = [
            f"{TITLES[row['task']]}: {what}",
            f"{measured['median']:.2f}",
            f"{measured['least']:.2f}..{measured['most']:.2f}" if "least" in measured else "-",
            *(f"{measured[key]:.2f}" if key in measured else "-" for key in keys),
        ]
        rows.append([*cells, *([f">= {row['target']}" if row["target"] else "-"] if targeted else [])])
    head = ["times as fast, as small", "median", "by round", *(key.replace("_", " ") for key in keys)]
    return table([*head, *(["target"] if targeted else [])], rows)


def save(folder: Path, stem: str, result: Mapping[str, Any], draw: Any, say: Say) -> None:
    """STEM.json, and STEM.png where matplotlib is there: `draw(path, result)`, a file that is whole or absent."""
    with output_folder(folder):
        with replacing(folder / f"{stem}.json") as part:
            part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        say(f"wrote {folder / f'{stem}.json'}")
        try:
            with replacing(folder / f"{stem}.png") as part:
                draw(part, result)
        except ImportError:
            say(f"{stem}.png was not drawn, since matplotlib is not installed: pip install 'xconv[plot]'")
        else:
            say(f"wrote {folder / f'{stem}.png'}")


def stem_of(whole: Mapping[str, Any]) -> str:
    """The name of a comparison's files: peers, peers-MODEL, peers-MODEL-TASK."""
    plain = whole["model"] == "simple-convnet"
    parts = ["peers", *([] if plain else [whole["model"]]), *([] if whole["task"] == "step" else [whole["task"]])]
    return "-".join(parts)
