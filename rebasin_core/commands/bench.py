"""``rebasin bench``."""

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rebasin_core.errors import SettingError

__all__ = ["bench"]


def bench(
    rows: Annotated[
        list[str] | None,
        typer.Argument(help="operator, memory, training, matching, tracing, limits, growth, gpu.", show_default="all"),
    ] = None,
    peers: Annotated[
        Path | None,
        typer.Option(help="Folder with sinkhorn-rebasin/ and rebasin/ in it.", show_default="$REBASIN_PEERS"),
    ] = None,
    frameworks: Annotated[
        str, typer.Option(help="Of torch,numpy,tensorflow,jax; absent ones are skipped.")
    ] = "torch,numpy,tensorflow,jax",
    repeats: Annotated[int, typer.Option(help="At most so many calls are counted.", min=1)] = 100,
    seconds: Annotated[
        float | None, typer.Option(help="Budget of the timing of a row.", min=0.0, show_default="2, with --quick 0.3")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few small rows: what CI checks.")] = False,
    largest: Annotated[int, typer.Option(help="Operator rows of more columns are left out.", min=1)] = 4096,
    tau: Annotated[
        list[float] | None, typer.Option(help="Temperature to measure; may be repeated.", show_default="1, 0.1, 0.01")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and operator.png.")] = Path(),
    check: Annotated[
        Path | None, typer.Option(help="Fail where a ratio is under 70 % of the one in this baseline.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write the ratios to this baseline.")] = None,
) -> None:
    """Measure ours and the peers turn by turn: seconds, memory, and the ratios of the two."""
    try:
        module = importlib.import_module("rebasin_bench.cli")
    except ModuleNotFoundError as error:
        raise SettingError(
            f'the benchmark needs {error.name}; install it with: pip install "rebasin-core[bench]"'
        ) from None
    # Where nobody watches there is no width to keep to, and cells cut in pieces cannot be read.
    console = Console() if Console().is_terminal else Console(width=200)
    names = [name.strip() for name in frameworks.split(",") if name.strip()]
    code = module.run_bench(
        rows or [], names, peers, repeats, seconds, quick, largest, tau or [], out, check, record, console
    )
    if code:
        raise typer.Exit(code)
