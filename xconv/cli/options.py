"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from xconv import zoo
from xconv.backend import NAMES, is_name

_F = TypeVar("_F", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)


class BackendName(click.ParamType):
    """A backend's name, or `others`; one GPU of several as cupy:1."""

    name = "backend"

    def __init__(self, *others: str) -> None:
        self.names = (*others, *sorted(NAMES, reverse=True))

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """As click shows a choice."""
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, if it is one."""
        if value not in self.names and not is_name(value):
            names = ", ".join(map(repr, self.names))
            self.fail(f"{value!r} is not one of {names}, nor 'cupy:1' for a second GPU.", param, ctx)
        return str(value)


def model_option(command: _F) -> _F:
    """--model."""
    return click.option(
        "--model", type=click.Choice(list(zoo.ZOO)), default="simple-convnet", show_default=True, help="The network."
    )(command)


def backend_option(command: _F) -> _F:
    """--backend, from $XCONV_BACKEND where it is not given."""
    return click.option(
        "--backend",
        type=BackendName("auto"),
        default="auto",
        show_default=True,
        envvar="XCONV_BACKEND",
        show_envvar=True,
        help="What computes; 'auto' takes the best that is usable here, 'cupy:1' a second GPU.",
    )(command)


def json_option(command: _F) -> _F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON value on one line, and no table.")(
        command
    )
