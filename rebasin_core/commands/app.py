"""The command line as a whole: its commands, its help, its version."""

from typing import Annotated

import typer

from rebasin_core import __version__
from rebasin_core.commands.align import align
from rebasin_core.commands.barrier import barrier
from rebasin_core.commands.bench import bench
from rebasin_core.commands.demo import demo
from rebasin_core.commands.group import Commands
from rebasin_core.commands.inspect import inspect
from rebasin_core.commands.merge import merge
from rebasin_core.commands.verify import verify

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Align and merge neural networks modulo their permutation symmetries.",
    epilog="Exit codes: 0 done; 1 not done, and why; 2 wrong usage; 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rebasin-core {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Align and merge neural networks modulo their permutation symmetries."""


for command in (inspect, align, merge, barrier, verify, demo, bench):
    app.command()(command)
