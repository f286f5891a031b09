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
