"""The chart of `gpu.py`: images per second and memory of each contestant, a row of bars for each case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {
    "xconv recorded": "#0072b2",
    "xconv eager": "#7fb3d5",
    "PyTorch eager": "#d55e00",
    "PyTorch compiled": "#e8a87c",
}


def draw(path: Path, whole: Mapping[str, Any]) -> None:
    """gpu.png, from what gpu.json has; cases that failed are left out."""
    from matplotlib.figure import Figure

    from xconv.files import output_folder, replacing

    cases = {
        name: {who: row for who, row in outcome["contestants"].items() if "error" not in row}
        for name, outcome in whole["results"].items()
        if outcome.get("contestants")
    }
    bars = [(name, who, row) for name, rows in cases.items() for who, row in rows.items()]
    figure = Figure(figsize=(11.0, 1.6 + 0.26 * len(bars) + 0.2 * len(cases)), dpi=120, layout="constrained")
    figure.suptitle(f"A training step on {whole['device']}, {whole['date']}", fontsize=11)
    panels = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
    at, places, labels = 0.0, [], []
    for name, rows in cases.items():
        for who, row in rows.items():
            values = row["images_per_second"], row["device_mb"]
            for axes, value in zip(panels, values, strict=True):
                axes.barh(at, value, height=0.8, color=COLOURS.get(who, "#5f6368"))
                axes.annotate(f"{value:,.0f}", (value, at), (4, 0), textcoords="offset points", va="center", fontsize=8)
            places.append(at)
            labels.append(f"{name}  {who}")
            at += 1.0
        at += 0.7
    titles = ("images/s, more is better (logarithmic)", "device memory: MB, less is better (logarithmic)")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_xscale("log" if bars else "linear")
        axes.set_xlabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(places, labels)
    panels[0].invert_yaxis()
    with output_folder(path.parent), replacing(path) as part:
        figure.savefig(part, format="png")
