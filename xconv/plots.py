"""Pictures of a training run. Needs matplotlib: pip install "xconv[plot]"."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from xconv.files import replacing

_TRAIN, _TEST = "#0072b2", "#d55e00"  # blue and vermilion: told apart by all eyes (Okabe and Ito 2008), and in grey


def save_curves(path: str | os.PathLike[str], history: Mapping[str, Sequence[float]], title: str = "") -> None:
    """Loss and accuracy by epoch, as a PNG file.

    `history` maps "epoch", "loss", "accuracy" and, where there was a validation, "val_loss" and "val_accuracy" to one
    value an epoch. ImportError without matplotlib, FileError where `path` cannot be written.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for key, label, color, marker in ((name, "training", _TRAIN, "o"), (f"val_{name}", "test", _TEST, "s")):
            if key in history:
                values = history[key]
                label = f"{label}, {values[-1]:.4f} at the end"
                axis.plot(history["epoch"], values, color=color, marker=marker, markersize=4, label=label)
        axis.set_xlabel("epoch")
        axis.set_title(name, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)
