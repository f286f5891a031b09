"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from xconv import zoo
from xconv.backend import NAMES

_F = TypeVar("_F", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)


def model_option(command: _F) -> _F:
    """--model."""
    return click.option(
        "--model", type=click.Choice(list(zoo.ZOO)), default="simple-convnet", show_default=True, help="The network."
    )(command)


def backend_option(command: _F) -> _F:
    """--backend, from $XCONV_BACKEND where it is not given."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", *sorted(NAMES, reverse=True)]),
        default="auto",
        show_default=True,
        envvar="XCONV_BACKEND",
        show_envvar=True,
        help="What computes; 'auto' takes the best that is usable here.",
    )(command)


def json_option(command: _F) -> _F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value on one line, and no table.")(
        command
    )
