"""Options that several commands share: one wording, one meaning."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rebasin_core.checkpoints.architecture import Source
from rebasin_core.objectives.resolve import ObjectiveName
from rebasin_core.solvers.resolve import SolverName

__all__ = [
    "Axes",
    "BatchSize",
    "Data",
    "File",
    "FileA",
    "FileB",
    "Force",
    "Input",
    "Json",
    "Kwargs",
    "Loss",
    "Metric",
    "Model",
    "NeededData",
    "ObjectiveName",
    "ObjectiveOption",
    "Out",
    "Seed",
    "SolverName",
    "SolverOption",
    "source",
]

ARCHITECTURE, DATA, SEARCH, OUTPUT = "Architecture", "Data", "Search", "Output"


CHECKPOINT = "Checkpoint: .safetensors, .npz, .pt, .pth, .keras, or a folder with one."

File = Annotated[Path, typer.Argument(help=CHECKPOINT, metavar="FILE")]
FileA = Annotated[Path, typer.Argument(help=CHECKPOINT, metavar="A")]
FileB = Annotated[Path, typer.Argument(help="Another one, of the same architecture.", metavar="B")]
Axes = Annotated[
    Path | None,
    typer.Option(help="JSON file of axes, tensor by tensor; needs no framework.", rich_help_panel=ARCHITECTURE),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="What builds the model: package.module:factory, file.py:factory, or a Hugging Face folder.",
        rich_help_panel=ARCHITECTURE,
    ),
]
Kwargs = Annotated[
    str | None,
    typer.Option(help="Keyword arguments of the factory, as a JSON object.", rich_help_panel=ARCHITECTURE),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, for tracing and verifying: 1,3,32,32 or int64:1,16 or name=int64:1,16. May be given "
        "several times.",
        rich_help_panel=ARCHITECTURE,
    ),
]
DATA_OPTION = typer.Option(
    "--data",
    help="FILE.npz with x and y (or x_train, y_train, x_test, y_test), or package.module:function that returns pairs "
    "(inputs, targets), or {'train': pairs, 'test': pairs}.",
    rich_help_panel=DATA,
)
Data = Annotated[str | None, DATA_OPTION]
NeededData = Annotated[str, DATA_OPTION]
Loss = Annotated[
    str | None,
    typer.Option(
        help="A name of the framework's, such as cross_entropy, or package.module:function of (outputs, targets).",
        rich_help_panel=DATA,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(help="accuracy, another name of the framework's, or package.module:function.", rich_help_panel=DATA),
]
BatchSize = Annotated[int, typer.Option(help="Samples per batch of a file of data.", min=1, rich_help_panel=DATA)]
SolverOption = Annotated[SolverName, typer.Option("--solver", help="How to search.", rich_help_panel=SEARCH)]
ObjectiveOption = Annotated[
    ObjectiveName, typer.Option("--objective", help="What to minimize.", rich_help_panel=SEARCH)
]
Seed = Annotated[int, typer.Option(help="Of every random choice.", min=0, rich_help_panel=SEARCH)]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write.", rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.", rich_help_panel=OUTPUT)]


def source(axes: Path | None, model: str | None, kwargs: str | None, inputs: list[str] | None) -> Source:
    """Gather what was said about the architecture."""
    return Source(axes, model, _object(kwargs, model), tuple(inputs or ()))


def _object(kwargs: str | None, model: str | None) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if model is None:
        raise typer.BadParameter("they are the arguments of a factory; pass --model, too", param_hint="--kwargs")
    try:
        found = json.loads(kwargs)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter(
            f"""expected a JSON object, such as '{{"width": 4}}'; got {kwargs!r}""", param_hint="--kwargs"
        )
    return found
