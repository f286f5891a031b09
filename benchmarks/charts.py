"""Charts of the benchmarks: throughput as horizontal bars."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

COLOURS = {"book": "#9aa0a6", "xconv": "#1a73e8", "PyTorch": "#e8710a"}  # by the first word of a name


def throughput(path: Path, title: str, panels: dict[str, dict[str, list[float]]]) -> None:
    """{panel: {name: images/s of each round}} -> a bar of the median for each name, with its middle half of rounds."""
    from matplotlib.figure import Figure

    bars = max(len(panel) for panel in panels.values())
    figure = Figure(figsize=(6.2 * len(panels) + 1.5, 0.42 * bars + 1.7), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    all_axes[0].invert_yaxis()
    for axes, (name, panel) in zip(all_axes, panels.items(), strict=True):
        low, middle, high = np.quantile(list(panel.values()), [0.25, 0.5, 0.75], axis=1)
        colours = [COLOURS.get(label.split()[0], "#5f6368") for label in panel]
        reach = [middle - low, high - middle]
        axes.barh(list(panel), middle, xerr=reach, color=colours, error_kw={"ecolor": "#3c4043", "lw": 1})
        for y, (value, end) in enumerate(zip(middle, high, strict=True)):
            axes.annotate(f"{value:,.0f}", (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(0, 1.15 * high.max())
        axes.set_xlabel(f"{name}, images per second (bar: median; line: middle half of the rounds)", fontsize=9)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"wrote {path}", file=sys.stderr)
