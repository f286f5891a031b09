"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from xconv import data, zoo
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


class DataName(click.ParamType):
    """A data set by its name, or a folder of pictures; a name comes first, and a folder so called is ./name."""

    name = "data"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """Short, as there are many names: the help lists them."""
        return "NAME|FOLDER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name or path itself."""
        if value not in data.NAMES and not os.path.isdir(value):
            names = ", ".join(map(repr, data.NAMES))
            what = "a file" if os.path.exists(value) else "neither a known name nor a folder"
            self.fail(
                f"expected one of {names}, or a folder of pictures with a sub-folder for each class. "
                f"Received: {value!r}, {what}",
                param,
                ctx,
            )
        return str(value)


def model_option(command: _F) -> _F:
    """--model."""
    return click.option(
        "--model",
        type=click.Choice(list(zoo.ZOO)),
        metavar="NAME",
        default="simple-convnet",
        show_default=True,
        help=f"The network: {', '.join(zoo.ZOO)}.",
    )(command)


def data_option(command: _F) -> _F:
    """--data: None where it is not given."""
    return click.option(
        "--data",
        type=DataName(),
        help=f"The images: {', '.join(data.NAMES)} (the sample is inside the package; the others come from "
        "$XCONV_DATA_DIR or are downloaded), or a folder of pictures, with a sub-folder for each class, or with train/ "
        "and test/ that hold these.  [default: what the network was published on]",
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
