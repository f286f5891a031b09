"""What the commands say: notices on stderr, results on stdout."""

from __future__ import annotations

import io
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from tqdm import tqdm

from xconv.errors import DeadNetworkWarning


def notice(text: str) -> None:
    """One line on stderr, above a progress bar where there is one."""
    tqdm.write(f"xconv: {' '.join(text.split())}", file=sys.stderr)


def plural(n: int, noun: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def print_json(value: Any) -> None:
    """One line of strict JSON on stdout; numbers that JSON lacks become null."""
    click.echo(json.dumps(_strict(value), allow_nan=False))


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, header: list[str], rows: list[list[str]], *, numbers: bool = True) -> None:
    """A table on stdout: the first column names its row, the others hold numbers, to the right, or texts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)  # names of files and classes may hold brackets
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


@contextmanager
def any_text() -> Iterator[None]:
    """Stdout takes every text: what its encoding lacks, such as names of files that are not UTF-8, comes as \\udce9."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it is flushed first, and may be closed, or a pipe that nobody reads
            stream.reconfigure(errors="strict")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line on stderr; that a network is dead is said once, though it stays dead epoch after epoch."""
    said: set[type[Warning]] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category not in said:
            notice(f"warning: {message}")
        if category is DeadNetworkWarning:
            said.add(category)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DeadNetworkWarning)
        warnings.filterwarnings("ignore", r"Image size .* decompression bomb")  # Pillow's; to xconv it is an error
        warnings.showwarning = show
        yield
