"""The command `xconv`. A user's mistake ends with one line on stderr and exit code 2, never with a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from xconv import __version__
from xconv.cli import backends, bench, compare, look, report, train
from xconv.cli.console import any_text, notice, plain_warnings
from xconv.errors import BackendError, XconvError

MISTAKE, INTERRUPTED = 2, 130


class _Commands(click.Group):
    """A group whose errors are one line each."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's; with `standalone_mode=False` the exit code is returned."""
        code = self._run(args, prog_name, complete_var, extra)
        if not standalone_mode:
            return code
        sys.exit(code)

    def _run(
        self, args: Sequence[str] | None, prog_name: str | None, complete_var: str | None, extra: dict[str, Any]
    ) -> int:
        try:
            with plain_warnings(), any_text():
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.Abort:
            notice("interrupted")
            return INTERRUPTED
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f" (see '{context.command_path} --help')" if context else ""
            notice(f"{error.format_message().rstrip('.')}{hint}")
        except BackendError as error:
            fix = f". To mend it: {error.fix}" if error.fix and error.fix not in str(error) else ""
            notice(f"{error}{fix}")
        except XconvError as error:
            notice(str(error))
        except MemoryError as error:
            notice(f"out of memory: {error or 'no more to be had'}. A smaller --batch-size needs less")
        except OSError as error:  # such as stdout on a full disk
            notice(f"{error}")
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the interpreter would flush the old one once more
        return MISTAKE


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="xconv", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Train convolutional networks with NumPy, Numba or CuPy, layer by readable layer.

    Results go to stdout, progress and notices to stderr.

    \b
    Examples:
      xconv train                       the book's network on the MNIST sample inside the package
      xconv train --data mnist --out run
      xconv report run                  that run as one page, run/report.html
      xconv summary keras-mnist
      xconv predict run digit.png
      xconv bench --peer torch          training and prediction beside PyTorch
      xconv bench --sweep batch         what an image costs as batches grow
      xconv compare --out DIR           one network on every backend: differences by layer, and speed
      xconv backends
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    train.train,
    bench.bench,
    compare.compare,
    look.summary,
    look.evaluate,
    look.predict,
    report.report,
    backends.backends,
):
    main.add_command(_command)
