"""Pictures of what was measured. Needs matplotlib: pip install "xconv[plot]"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xconv.measure.tables import TITLES, short

COLOURS = {"book": "#9aa0a6", "xconv": "#0072b2", "PyTorch": "#d55e00"}  # by the first word of a name
OTHER, INK = "#5f6368", "#3c4043"


def comparison(path: Path, whole: Mapping[str, Any]) -> None:
    """A panel of bars for each task, images per second, and one for the memory of a step where it was measured."""
    from matplotlib.figure import Figure

    names = list(whole["contestants"])
    ran = {short(name, names): row for name, row in whole["contestants"].items() if "error" not in row}
    images = whole.get("images", whole["batch_size"])
    panels = {
        f"{TITLES[task]}: images/s, more is better": {
            name: [images / s for s in row[task]] for name, row in ran.items()
        }
        for task in whole["tasks"]
    }
    if any(row.get("step_mb") for row in ran.values()):
        panels["memory a training step adds: MB, less is better"] = {
            name: [row.get("step_mb") or 0.0] for name, row in ran.items()
        }
    figure = Figure(figsize=(4.1 * len(panels) + 2.2, 0.42 * len(ran) + 1.5), dpi=120, layout="constrained")
    title = f"{whole['model']}, batch {whole['batch_size']}; {whole['cpu']}, {whole['threads']} threads"
    figure.suptitle(title, fontsize=11)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    all_axes[0].invert_yaxis()
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        low, middle, high = np.quantile(list(panel.values()), [0.25, 0.5, 0.75], axis=1)
        colours = [COLOURS.get(label.split()[0], OTHER) for label in panel]
        axes.barh(list(panel), middle, height=0.7, color=colours)
        if len(next(iter(panel.values()))) > 1:  # the middle half of the rounds
            axes.errorbar(middle, range(len(panel)), xerr=[middle - low, high - middle], fmt="none", ecolor=INK, lw=1)
        for y, (value, end) in enumerate(zip(middle, high, strict=True)):
            figures = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            axes.annotate(figures, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, 1.2 * high.max())
        axes.set_xlabel(name, fontsize=9)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def growth(path: Path, result: Mapping[str, Any]) -> None:
    """Time and memory of an image against size, both axes logarithmic, beside the growth of the arithmetic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(10.5, 4.4), dpi=120, layout="constrained")
    figure.suptitle(f"{result['title']}; {result['cpu']}", fontsize=11)
    axes = figure.subplots(1, 2)
    sizes: list[int] = result["sizes"]
    for name in result["names"]:
        rows = [row for row in result["rows"] if row["name"] == name]
        at, colour = [row["size"] for row in rows], COLOURS.get(name.split()[0], OTHER)
        label = name.removesuffix(" float32")
        for task, style, face in (("train", "-", colour), ("infer", "--", "white")):
            values = [row[f"{task}_ms_per_image"] for row in rows]
            axes[0].plot(
                at, values, style, color=colour, marker="o", ms=4.5, mfc=face, label=f"{label}, {TITLES[task]}"
            )
        remembered = [(row["size"], row["mb_per_image"]) for row in rows if row["mb_per_image"]]
        if remembered:
            axes[1].plot(*zip(*remembered, strict=True), color=colour, marker="o", ms=4.5, label=label)
    ideal = result["arithmetic_ms_per_image"]
    axes[0].plot(sizes, ideal, ":", color=OTHER, lw=1.6, label=result["ideal"], zorder=0)
    axes[0].set_ylabel("ms per image")
    axes[1].set_ylabel("MB per image that a training step adds")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axis.set_xlabel(result["axis_label"])
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8.5)
    figure.savefig(path, format="png")
