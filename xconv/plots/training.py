"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.callbacks import History
from xconv.errors import ConfigError, ShapeError, described
from xconv.plots.drawing import BLUE, INK, VERMILION, figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NO_CURVES = ("epoch", "seconds", "images_per_second")
_NEITHER = ("lr", "learning_rate")  # logged by callbacks, and neither better nor worse


def curves(
    history: History | Mapping[str, Sequence[float]], title: str = "", *, held_out: str = "validation"
) -> Figure:
    """Loss, accuracy and what else was measured, by epoch, a panel each; the best epoch of each is marked.

    `history` is what `fit` gives, or maps "loss", "val_loss" and so on to one value an epoch, and "epoch", where it is
    there, to their numbers; NaN stands for an epoch without one, such as those that `validation_freq` leaves out.
    Quantities with and without "val_" share a panel, in which `held_out` names the former; the latter are means over
    the epoch, taken while training. The best is the largest for a name with "acc" in it, else the smallest, of the
    held-out values where there are any; where all are equal none is marked.
    """
    values = _columns(history)
    epochs = values.pop("epoch")
    names = list(dict.fromkeys(name.removeprefix("val_") for name in values))
    rows = -(-len(names) // 2)
    made = figure(4.6 * min(len(names), 2), 3.7 * rows, title)
    panels = list(made.subplots(rows, min(len(names), 2), squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, name, epochs, values, held_out)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return made


def _columns(history: Any) -> dict[str, np.ndarray]:
    """Each quantity's values as floats, of the same length, with "epoch"."""
    if isinstance(history, History):
        history = {"epoch": [epoch + 1 for epoch in history.epoch], **history.history}
    if not isinstance(history, Mapping):
        raise ConfigError(
            f"curves: expected what fit gives, or a mapping of names to values by epoch. Received: {described(history)}"
        )
    columns = {}
    for name, given in history.items():
        try:
            columns[str(name)] = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise ConfigError(f"curves: {name}: expected one number an epoch. Received: {described(given)}") from None
    if not any(name not in _NO_CURVES for name in columns) or not all(array.size for array in columns.values()):
        raise ConfigError(f"curves: expected at least one epoch of, say, 'loss'. Received: {described(dict(history))}")
    count = len(next(iter(columns.values())))
    for name, array in columns.items():
        if array.shape != (count,):
            raise ShapeError(f"curves: {name}: expected {count} values, one an epoch. Received: {described(array)}")
    shown = {name: array for name, array in columns.items() if name not in _NO_CURVES}
    return {"epoch": columns.get("epoch", np.arange(1.0, count + 1)), **shown}


def _panel(axes: Axes, name: str, epochs: np.ndarray, values: Mapping[str, np.ndarray], held_out: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = [(key, label) for key, label in ((name, "while training"), (f"val_{name}", held_out)) if key in values]
    every = np.concatenate([values[key] for key, _ in shown])
    share = "acc" in name and bool(np.all((every >= 0) & (every <= 1) | np.isnan(every)))
    judged = shown[-1][0]
    for key, label in shown:
        color, marker = (VERMILION, "s") if key != name else (BLUE, "o")
        there = ~np.isnan(values[key])  # an epoch without validation, say, has none, and would break the line
        x, y = epochs[there], values[key][there]
        text = f"{label}: {_said(y[-1], share) if len(y) else 'no number'}"
        if len(y) and len(epochs) > 1:
            text += " at the end" if x[-1] == epochs[-1] else f" after epoch {x[-1]:g}"
        best = _best(name, y)
        if key == judged and best is not None and len(y) > 1:
            text += f"; best {_said(y[best], share)}, epoch {x[best]:g}"
            axes.plot(
                x[best], y[best], "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, zorder=3,
                gid="best", clip_on=False,
            )  # fmt: skip
        size = 4 if len(y) <= 60 else 0  # many markers would be a band
        axes.plot(x, y, color=color, marker=marker, markersize=size, linewidth=1.6, label=plain(text))
    axes.set_xlabel("epoch")
    axes.set_ylabel(plain(name.replace("_", " ")), parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xticks(epochs)
    if share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, axes.get_yticks())))
    axes.margins(y=0.08)
    finite = every[np.isfinite(every)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if not share and 0 < low < high / 1000:
        axes.set_yscale("log")
    elif not share and 0 <= low < high / 2:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, fontsize=9, borderpad=0.2, borderaxespad=0.2
    )
    for line in legend.get_texts():
        line.set_parse_math(False)


def _best(name: str, values: np.ndarray) -> int | None:
    """Index of the best finite value, the first of equals; None where there is none, or none is better than another."""
    if name in _NEITHER:
        return None
    finite = np.isfinite(values)
    if not finite.any() or (finite.sum() > 1 and np.ptp(values[finite]) == 0):
        return None
    return int(np.where(finite, values if "acc" in name else -values, -np.inf).argmax())


def _said(value: float, share: bool) -> str:
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"


def _tick(share: float, ticks: np.ndarray) -> str:
    """With as many decimals as tell an axis's ticks apart: 88 %, not 88.0 %, beside 90 %."""
    percents = 100 * np.asarray(ticks)
    digits = next((n for n in range(6) if np.allclose(percents, percents.round(n), rtol=0, atol=1e-9)), 6)
    return f"{100 * share:.{digits}f} %"
