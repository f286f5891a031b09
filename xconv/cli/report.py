"""`xconv report`: a run's folder as one page."""

from __future__ import annotations

from pathlib import Path

import click

from xconv import report as reports
from xconv.cli.console import notice, print_json
from xconv.cli.options import json_option


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Bind the run in DIR, which `xconv train --out DIR` wrote, into one page, DIR/report.html.

    Results, curves, predictions, filters, the layers, the recipe, the environment, and the command that repeats it. The
    page opens offline in any browser and can be sent by mail: pictures are inside, nothing is fetched, no script runs.
    """
    run = reports.write(folder)
    for name, why in run.missing.items():
        notice(f"not in the page: {name}: {why}")
    page = folder / reports.PAGE
    if as_json:
        print_json({"file": str(page), "bytes": page.stat().st_size, "missing": dict(run.missing)})
        return
    click.echo(f"written to {page}: {page.stat().st_size / 1e6:.1f} MB; open it in any browser")
