"""Pieces of the page, as HTML: every text that comes from a file is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from html import escape
from typing import Any

from xconv import schedules
from xconv.backend.workspace import shown
from xconv.data import Augmentation
from xconv.errors import XconvError
from xconv.report.folder import Run

_DENSITY = 1.4  # pixels of a picture for one of the page, for sharp texts on today's screens
_NAMES = {"blas": "BLAS", "lr": "learning rate", "dtype": "numbers", "rule": "its settings"}
_DEEPEST = 4  # mappings within mappings


def absent(why: str) -> str:
    """A line that says what is not there."""
    said = escape(why.rstrip("."))
    return f'<p class="soft">{said}.</p>'


def figure(run: Run, name: str, alt: str, caption: str) -> str:
    """A picture of the run, inside the page."""
    picture = run.pictures.get(name)
    if picture is None:
        return absent(f"{name} is not there: {run.missing.get(name, 'it is missing')}")
    data = base64.b64encode(picture.content).decode("ascii")
    width, height = (round(size / _DENSITY) for size in (picture.width, picture.height))
    return (
        f'<figure><div class="wide"><img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{width}" '
        f'height="{height}"></div>\n<figcaption>{escape(caption)}</figcaption></figure>'
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: bool = False,
    right: set[int] | None = None,
    foot: Sequence[Sequence[str]] = (),
    kind: str = "",
    headless: bool = False,
) -> str:
    """Cells are HTML already; the first column names its row. `numbers`: all others stand to the right."""
    columns = right if right is not None else set(range(1, len(header))) if numbers else set()

    def line(cells: Sequence[str], tag: str = "td") -> str:
        made = []
        for i, cell in enumerate(cells):
            name = "th" if tag == "th" or i == 0 else "td"
            scope = f' scope="{"col" if tag == "th" else "row"}"' if name == "th" else ""
            side = ' class="number"' if i in columns else ""
            made.append(f"<{name}{scope}{side}>{cell}</{name}>")
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(line(row) for row in rows)
    head = "" if headless else f"<thead>{line([escape(name) for name in header], 'th')}</thead>\n"
    end = f"\n<tfoot>{''.join(line(row) for row in foot)}</tfoot>" if foot else ""
    opened = f'<div class="wide"><table class="{kind}">' if kind else '<div class="wide"><table>'
    return f"{opened}\n{head}<tbody>\n{body}\n</tbody>{end}\n</table></div>"


def facts_table(rows: Sequence[tuple[str, Any]]) -> str:
    """Names and values, those of mappings one below the other; "" where there is none."""
    cells = [[escape(str(name)), value_cell(value)] for name, value in rows if value is not None and value != {}]
    return table(["", ""], cells, kind="facts", headless=True) if cells else ""


def settings(value: Any, depth: int = 0) -> Any:
    """With schedules and augmentations, which run.json has as configs, as their texts; what is neither stays."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return value
    try:
        if value.get("kind") in schedules.CLASSES:
            return str(schedules.get(value))
        if value and set(value) == {setting.name for setting in fields(Augmentation)}:
            return repr(Augmentation.from_config(value))
    except (XconvError, TypeError):  # of another version, or written by hand
        return value
    return {name: settings(entry, depth + 1) for name, entry in value.items()}


def value_cell(value: Any, depth: int = 0) -> str:
    """Any JSON value, to be read."""
    if isinstance(value, Mapping | list | tuple) and depth > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        pairs = [
            f"{escape(words(name))}: {value_cell(entry, depth + 1)}" for name, entry in value.items() if entry != {}
        ]
        return ("<br>" if depth == 0 else "; ").join(pairs) or "none"
    if isinstance(value, list | tuple):
        lines = depth == 0 and any(isinstance(entry, Mapping) for entry in value)
        return ("<br>" if lines else ", ").join(value_cell(entry, depth + 1) for entry in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def words(name: Any) -> str:
    """A name of Python's as a reader writes it."""
    text = str(name)
    return _NAMES.get(text) or text.replace("val_", "test ", 1).replace("_", " ")


def is_number(value: Any) -> bool:
    """Whether it can be formatted as one: not NaN, nor beyond all that is measured here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18


def number(value: Any, digits: int = 4, unit: str = "") -> str:
    """With so many decimals; "" for what is no number, as the next three."""
    return escape(f"{value:,.{digits}f}{unit}") if is_number(value) else ""


def significant(value: Any) -> str:
    """With four digits that matter, or as a whole number from a thousand on."""
    if not is_number(value):
        return ""
    return escape(f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}")


def count(value: Any) -> str:
    """A whole number."""
    return escape(f"{value:,.0f}") if is_number(value) else ""


def rounded(value: Any) -> str:
    """A large whole number, in millions from ten on."""
    return escape(f"{value / 1e6:,.1f} M") if is_number(value) and value >= 1e7 else count(value)


def percent(value: Any) -> str:
    """Of a share."""
    return escape(f"{100 * value:.2f} %") if is_number(value) else ""


def size_text(bytes_: Any) -> Any:
    """Of memory; what is no number as it is."""
    return shown(int(bytes_)) if is_number(bytes_) and bytes_ >= 0 else bytes_


def duration(seconds: Any) -> str:
    """In the unit that a reader would use."""
    if not is_number(seconds):
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return escape(f"{seconds / size:,.1f} {unit}")
    return escape(f"{seconds:.1f} s")


def measured(name: str, value: Any) -> str:
    """A loss, an accuracy or another quantity by its name."""
    share = "acc" in name and is_number(value) and 0 <= value <= 1
    return percent(value) if share else number(value)


def by_epoch(name: str, value: float) -> str:
    """A cell of history.csv."""
    shown: dict[str, Callable[[Any], str]] = {
        "epoch": count,
        "images_per_second": count,
        "seconds": lambda v: number(v, 2),
    }
    return shown[name](value) if name in shown else measured(name, value)


def date(value: Any, clock: bool = False) -> str:
    """The day, or the minute, of an ISO date such as "2026-11-21T19:40:00Z"; "" where it is none."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        return ""
    return f"{at:%Y-%m-%d %H:%M} UTC" if clock else f"{at:%Y-%m-%d}"
