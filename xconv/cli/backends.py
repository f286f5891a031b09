"""`xconv backends`: what can compute here, and what to do about the rest."""

from __future__ import annotations

from dataclasses import asdict

import click

from xconv.backend import BackendInfo, check_settings
from xconv.backend import backends as find_backends
from xconv.backend.workspace import shown
from xconv.cli.console import print_json, print_table
from xconv.cli.options import BackendName, json_option


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=BackendName())
@json_option
def backends(names: tuple[str, ...], as_json: bool) -> None:
    """List the backends: usable or not, on what device, and else why and what would mend it.

    A backend is usable when one of its kernels and one matrix product ran and gave the right result. "workspace" is
    the most memory that an operation takes beside its arguments and results ($XCONV_WORKSPACE). With NAMEs, such as
    cupy or cupy:1, those alone, and exit code 1 where one of them is not usable, or none at all. A setting that cannot
    be, such as $XCONV_PRECISION, is a mistake of its own, with exit code 2.
    """
    check_settings()
    found = find_backends(names or None)
    if as_json:
        print_json([asdict(info) for info in found])
    else:
        _print(found)
    usable = [info.usable for info in found]
    if not any(usable) or (names and not all(usable)):
        click.get_current_context().exit(1)


def _print(found: list[BackendInfo]) -> None:
    rows = [
        [
            info.name,
            "yes" if info.usable else "no",
            info.device or "-",
            info.version or "-",
            "-" if info.workspace is None else shown(info.workspace),
        ]
        for info in found
    ]
    print_table("Backends, best first", ["backend", "usable", "device", "version", "workspace"], rows, numbers=False)
    for info in found:  # outside the table, so that the line that mends it can be copied whole
        if not info.usable:
            click.echo(f"{info.name}: {info.reason}\n  to mend it: {info.fix}")
        for note, fix in info.notes:
            click.echo(f"{info.name}: {note}" + (f"\n  to mend it: {fix}" if fix else ""))
