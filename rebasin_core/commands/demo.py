"""``rebasin demo``."""

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rebasin_core.errors import SettingError

__all__ = ["demo"]


def demo(
    hidden: Annotated[
        list[str] | None,
        typer.Option(help="Hidden layers, e.g. 64,64; may be given several times.", show_default="64,64 and 32,32,32"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to save the picture.")] = Path("rebasin-demo.png"),
    seed: Annotated[int, typer.Option(help="Seed of the two networks and of the alignment.", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps: seconds, and a worse alignment.")] = False,
) -> None:
    """Train two classifiers on handwritten digits, re-base one onto the other, and measure the loss barrier."""
    try:
        module = importlib.import_module("rebasin_sklearn.demo")
    except ModuleNotFoundError as error:
        raise SettingError(f'the demo needs {error.name}; install it with: pip install "rebasin-core[demo]"') from None
    layers = [_layers(text) for text in hidden or ("64,64", "32,32,32")]
    module.run_demo(layers, out, seed, quick, Console())


def _layers(text: str) -> tuple[int, ...]:
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = ()
    if not layers or min(layers) < 1:
        raise typer.BadParameter(f"expected widths separated by commas, such as 64,64; got {text!r}")
    return layers
