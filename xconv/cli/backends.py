"""`xconv backends`: what can compute here, and what to do about the rest."""

from __future__ import annotations

from dataclasses import asdict

import click

from xconv.backend import backends as find_backends
from xconv.backend.workspace import shown
from xconv.cli.console import print_json, print_table
from xconv.cli.options import json_option


@click.command()
@json_option
def backends(as_json: bool) -> None:
    """List the backends: usable or not, on what device, and else why and what would mend it.

    A backend is usable when one of its kernels and one matrix product ran and gave the right result. "workspace" is
    the most memory that an operation takes beside its arguments and results ($XCONV_WORKSPACE).
    """
    found = find_backends()
    if as_json:
        print_json([asdict(info) for info in found])
        return
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
    for info in found:
        if not info.usable:  # outside the table, so that the line that mends it can be copied whole
            click.echo(f"{info.name}: {info.reason}\n  to mend it: {info.fix}")
