"""Pictures of what was measured. Needs matplotlib: pip install "xconv[plot]"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xconv.measure.tables import TITLES, short

COLOURS = {"book": "#9aa0a6", "xconv": "#0072b2", "PyTorch": "#d55e00"}  # by the first word of a name
OTHER, INK = "#5f6368", "#3c4043"
SECOND = "#e8a87c"  # a peer's other layout, beside it
MARKERS = "osD^vP"  # of backends, in turn; colours tell the number of steps


def comparison(path: Path, whole: Mapping[str, Any]) -> None:
    """A panel of bars for each task, images per second, and one for the memory of a step where it was measured."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(whole["contestants"])
    ran = {short(name, names): row for name, row in whole["contestants"].items() if "error" not in row}
    images = whole.get("images", whole["batch_size"])
    # Quartiles of the times, as the table has them: those of the inverse are others where rounds are few.
    panels = {
        f"{TITLES[task]}: images/s, more is better": {
            name: images / np.quantile(row[task], [0.75, 0.5, 0.25]) for name, row in ran.items()
        }
        for task in whole["tasks"]
    }
    if any(row.get("step_mb") for row in ran.values()):
        panels["memory a training step adds: MB, less is better"] = {
            name: np.full(3, row.get("step_mb") or 0.0) for name, row in ran.items()
        }
    figure = Figure(figsize=(4.1 * len(panels) + 2.2, 0.42 * len(ran) + 1.5), dpi=120, layout="constrained")
    title = f"{whole['model']}, batch {whole['batch_size']}; {whole['cpu']}, {whole['threads']} threads"
    figure.suptitle(title, fontsize=11)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    all_axes[0].invert_yaxis()
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        low, middle, high = np.array(list(panel.values())).T
        colours = [COLOURS.get(label.split()[0], OTHER) for label in panel]
        axes.barh(list(panel), middle, height=0.7, color=colours)
        if (low < high).any():  # the middle half of the rounds
            axes.errorbar(middle, range(len(panel)), xerr=[middle - low, high - middle], fmt="none", ecolor=INK, lw=1)
        for y, (value, end) in enumerate(zip(middle, high, strict=True)):
            figures = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            axes.annotate(figures, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, 1.2 * high.max())
        axes.set_xlabel(name, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def growth(path: Path, result: Mapping[str, Any]) -> None:
    """Time and memory of an image against size, both axes logarithmic, beside the growth of the arithmetic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(10.5, 5.0), dpi=120, layout="constrained")
    figure.suptitle(f"{result['title']}; {result['cpu']}", fontsize=11)
    time, memory = figure.subplots(1, 2)
    sizes: list[int] = result["sizes"]
    for name in result["names"]:
        rows = [row for row in result["rows"] if row["name"] == name]
        at, colour = [row["size"] for row in rows], COLOURS.get(name.split()[0], OTHER)
        colour = SECOND if "channels_last" in name else colour
        look = {"color": colour, "marker": "o", "markersize": 4.5}
        for task, style, face in (("train", "-", colour), ("infer", "--", "white")):
            values = [row[f"{task}_ms_per_image"] for row in rows]
            label = f"{name.removesuffix(' float32')}, {TITLES[task]}"
            time.plot(at, values, style, mfc=face, label=label, **look)
        remembered = [(row["size"], row["mb_per_image"]) for row in rows if row["mb_per_image"]]
        if remembered:
            memory.plot(*zip(*remembered, strict=True), **look)
    ideal = result["arithmetic_ms_per_image"]
    time.plot(sizes, ideal, ":", color=OTHER, lw=1.8, label=result["ideal"], zorder=0)
    time.set_title("time: ms per image", loc="left", fontsize=10)
    memory.set_title("memory: MB per image that a training step adds", loc="left", fontsize=10)
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(result["axis_label"])
        axes.tick_params(labelsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def agreement(path: Path, whole: Mapping[str, Any]) -> None:
    """Differences of each layer by number of steps, on a logarithmic axis, and the throughput of each backend.

    Few steps to many are dark to light in viridis, which any eye, and paper, tells apart. What is 0 lies on the left
    edge, what is not finite on the right one.
    """
    from matplotlib.figure import Figure

    rows = len(whole["layers"])
    figure = Figure(figsize=(12.0, max(3.8, 0.27 * rows + 2.2)), dpi=110, layout="constrained")
    where = f"{whole['model']} on {whole['data']}, batch {whole['batch_size']}, {whole['dtype']}, {whole['optimizer']}"
    versions = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    ran = f"{whole['cpu']}, {whole['threads']} threads; {versions}, Python {whole['python']}; {whole['date']}"
    figure.suptitle(f"{where}\n{ran}", fontsize=9)
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    _differences(left, whole)
    _throughput(right, whole["backends"], rows / 2)
    for axes in (left, right):
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _differences(axes: Any, whole: Mapping[str, Any]) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    layers, steps, reference = [layer["name"] for layer in whole["layers"]], whole["steps"], whole["reference"]
    colours = {step: colormaps["viridis"](0.85 * i / max(1, len(steps) - 1)) for i, step in enumerate(steps)}
    marks = dict(zip((row["backend"] for row in whole["comparisons"]), MARKERS, strict=False))
    points = [  # value, layer, step, mark
        (after["layers"].get(layer, 0.0), y, after["steps"], mark)
        for row, mark in [*zip(whole["comparisons"], MARKERS, strict=False), (whole["rounding"] or {"after": []}, "|")]
        for after in row["after"]
        for y, layer in enumerate(layers)
    ]
    epsilon, allowed = whole["epsilon"], whole["tolerance"]["trajectory"]
    values = [value for value, *_ in points if value] + [epsilon, allowed]
    low, high = min(values) / 4, max(values) * 4
    height = 0.7 / len(steps)  # of the stripe of one number of steps, within a layer's row
    for step in steps:
        for mark in (*marks.values(), "|"):
            own = [
                (low if value == 0 else value or high, y) for value, y, at, kind in points if (at, kind) == (step, mark)
            ]
            if own:
                x, y = np.array(own).T
                y = y + (steps.index(step) - (len(steps) - 1) / 2) * height
                size = {"markersize": 8, "markeredgewidth": 2} if mark == "|" else {"markersize": 5}
                axes.plot(x, y, mark, color=colours[step], clip_on=False, zorder=2 if mark == "|" else 3, **size)
    measure = ", of all weights' norm" if whole["tolerance"]["measure"] == "norm" else ""
    for value, text in (
        (epsilon, f"eps {epsilon:.1e}"),
        (allowed, f"{allowed:.0e}: allowed within {whole['tolerance']['steps']} steps{measure}"),
    ):
        axes.axvline(value, color=OTHER, ls="--", lw=1, zorder=1)
        axes.annotate(
            text, (value, 1.0), (3, 1), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_yticks(range(len(layers)), layers)
    axes.xaxis.set_major_locator(LogLocator(numticks=12))
    axes.xaxis.set_minor_formatter(NullFormatter())
    zero = " (0: left edge)" if any(value == 0 for value, *_ in points) else ""
    axes.set_xlabel(f"largest difference from {reference} / its largest entry, by layer{zero}", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    for y in range(1, len(layers)):
        axes.axhline(y - 0.5, color=OTHER, lw=0.4, alpha=0.4)
    named: list[tuple[str, str, Any]] = [(mark, name, OTHER) for name, mark in marks.items()]
    named += [("|", f"{reference} beside its float64: rounding alone", OTHER)] if whole["rounding"] else []
    named += [("s", f"{step} step{'' if step == 1 else 's'}", colours[step]) for step in steps]
    keys = [
        Line2D([], [], ls="", marker=mark, color=colour, label=label, mew=2 if mark == "|" else 1)
        for mark, label, colour in named
    ]
    axes.figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)


def _throughput(axes: Any, backends: Mapping[str, Any], room: float) -> None:
    """Bars from the top, as if there were `room` of them."""
    from matplotlib.ticker import MaxNLocator

    rates = [row["images_per_second"] for row in backends.values()]
    axes.barh(list(backends), rates, height=0.6, color=COLOURS["xconv"])
    for y, rate in enumerate(rates):
        axes.annotate(
            f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
            (rate, y),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_ylim(max(len(rates), room) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(rates))
    axes.set_xlabel("training: images/s, more is better", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:,.0f}")
