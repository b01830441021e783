"""``rebasin merge``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rebasin_core.backends.protocol import Array
from rebasin_core.checkpoints.architecture import Architecture
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.checkpoints.values import mean_reader, permuted_reader
from rebasin_core.commands import options
from rebasin_core.commands.data_source import DataSource, find_loss, find_metric, read_data
from rebasin_core.commands.matching import SearchOptions, architecture_of, match_all, match_pair
from rebasin_core.commands.measuring import measure_network
from rebasin_core.commands.options import ObjectiveName, SolverName
from rebasin_core.commands.paths import check_checkpoint_out, open_file
from rebasin_core.commands.reporting import Report, reporting
from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_shares
from rebasin_core.line.reestimation import reestimate_params
from rebasin_core.line.repairing import repair_params
from rebasin_core.models.model import Model, open_model
from rebasin_core.symmetry.plan import Plan

__all__ = ["merge"]

Read = Callable[[str], np.ndarray[Any, Any]]
ANEW = "re-estimated statistics"


class MethodName(StrEnum):
    """How more than two files are brought into one order."""

    ITERATIVE = "iterative"
    CYCLE = "cycle"
    STAR = "star"


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(help="Two or more checkpoints; what is written is like the first.", metavar="A B [C ...]"),
    ],
    out: options.Out,
    t: Annotated[
        float | None,
        typer.Option("-t", help="Of two files: 0 is A, 1 the re-based B.", show_default="0.5", rich_help_panel="Merge"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weight of each file in the mean, e.g. 2,1,1.", show_default="all alike", rich_help_panel="Merge"
        ),
    ] = None,
    method: Annotated[
        MethodName | None,
        typer.Option(
            help="How more than two are brought into one order.", show_default="iterative", rich_help_panel="Merge"
        ),
    ] = None,
    reestimate: Annotated[
        bool,
        typer.Option(
            "--reestimate",
            help="Re-estimate the statistics of batch normalization, on --data.",
            rich_help_panel="Merge",
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Give every unit the mean and deviation of the networks' on --data (REPAIR).",
            rich_help_panel="Merge",
        ),
    ] = False,
    axes: options.Axes = None,
    model: options.Model = None,
    kwargs: options.Kwargs = None,
    inputs: options.Input = None,
    solver: options.SolverOption = SolverName.WEIGHT_MATCHING,
    objective: options.ObjectiveOption = ObjectiveName.L2,
    data: options.Data = None,
    loss: options.Loss = None,
    metric: options.Metric = "accuracy",
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Align files with the first and write their mean.

    With a model and --data, the accuracies before and after are printed as well.
    """
    shares = _read_shares(len(files), t, weights)
    for wanted, flag in ((reestimate, "--reestimate"), (repair, "--repair")):
        if wanted and data is None:
            raise typer.BadParameter("it needs --data to measure on", param_hint=flag)
    with reporting(as_json) as report:
        checkpoints = [open_file(path) for path in files]
        check_checkpoint_out(out, checkpoints[0], checkpoints, force)
        source = read_data(data, batch_size)
        architecture = architecture_of(checkpoints[0], options.source(axes, model, kwargs, inputs), source)
        if source is not None and architecture.model is None:
            raise SettingError("--data: axes alone do not say how to compute with the network; pass --model")
        search = SearchOptions(solver, objective, source, loss, seed)
        if len(files) == 2 and method is None:
            match = match_pair(architecture, checkpoints, search)
        else:
            counts = None if t is not None else shares  # two plans are as good wherever between them the mean lies
            match = match_all(architecture, checkpoints, search, str(method or MethodName.ITERATIVE), counts)
        mean = _Mean(architecture, checkpoints, shares, source if reestimate else None)
        merged = mean.made("merged", match.plans, source if repair else None)
        if source is not None:
            stay = [Plan.identity(architecture.graph)] * len(files)
            before = {str(file.path): file.read for file in checkpoints} | mean.made("average, not aligned", stay)
            _tell(report, architecture, before | merged, source, loss, metric)
        *_, result = merged.values()
        checkpoints[0].write(out, result)
        report.say(str(match))
        report.say(f"wrote {out}")
        report.facts |= {
            "files": [str(file.path) for file in checkpoints],
            "out": str(out),
            "weights": list(shares),
            **match.facts(),
        }


def _read_shares(count: int, t: float | None, weights: str | None) -> tuple[float, ...]:
    if count < 2:
        raise typer.BadParameter(f"expected two files or more, got {count}", param_hint="A B [C ...]")
    try:
        return as_shares(t, None if weights is None else weights.split(","), count)
    except SettingError:
        if t is not None:
            raise typer.BadParameter(
                "expected a finite number, a place between two files, and no --weights beside it", param_hint="-t"
            ) from None
        raise typer.BadParameter(
            f"expected {count} positive numbers separated by commas, one per file; got {weights!r}",
            param_hint="--weights",
        ) from None


@dataclass(frozen=True)
class _Mean:
    """How networks in files are averaged."""

    architecture: Architecture
    files: Sequence[Checkpoint]
    shares: tuple[float, ...]
    reestimate: DataSource | None

    def made(self, name: str, plans: Sequence[Plan], repair: DataSource | None = None) -> dict[str, Read]:
        """The mean of the files, each permuted by a plan, and what the data then make of it; the last is the result."""
        graph = self.architecture.graph
        found = {name: mean_reader(self.files, plans, self.shares, graph)}
        if self.reestimate is not None:
            found[f"{name}, {ANEW}"] = _measured_anew(self.architecture, found[name], self.reestimate)
        if repair is not None:
            *_, last = found.values()
            ends = [permuted_reader(file, plan, graph) for file, plan in zip(self.files, plans, strict=True)]
            found[f"{name}, repaired"] = _repaired(self.architecture, last, ends, self.shares, repair)
        return found


def _measured_anew(architecture: Architecture, tensor: Read, data: DataSource) -> Read:
    network = open_model(architecture.filled(tensor), what="the merged model")
    return _instead(
        architecture, tensor, network, reestimate_params(network, network.params, data.for_training(network))
    )


def _repaired(
    architecture: Architecture, tensor: Read, ends: Sequence[Read], shares: Sequence[float], data: DataSource
) -> Read:
    network = open_model(architecture.filled(tensor), what="the merged model")
    params = [open_model(architecture.filled(end)).params for end in ends]
    assert architecture.whole is not None  # of every architecture with a model
    batches = data.for_training(network)
    found = repair_params(network, network.params, params, shares, architecture.whole, batches, show=True)
    return _instead(architecture, tensor, network, found)


def _instead(architecture: Architecture, tensor: Read, network: Model, params: Mapping[str, Array]) -> Read:
    """``tensor(name)``, of a file, but for the parameters that are no longer those of the network made from it."""
    changed = {name: x for name, x in params.items() if x is not network.params[name]}
    known = {architecture.names[name]: network.backend.to_numpy(x) for name, x in changed.items()}
    return lambda name: known[name] if name in known else tensor(name)


def _tell(
    report: Report,
    architecture: Architecture,
    rows: Mapping[str, Read],
    data: DataSource,
    loss: str | None,
    metric: str | None,
) -> None:
    """Measure every network of the table, one pass over the data each: one model at a time is in memory."""
    results: dict[str, dict[str, float]] = {}
    for name, tensor in rows.items():
        network = open_model(architecture.filled(tensor), what=name)
        functions = {} if metric is None else {metric: find_metric(metric, network)}
        if loss is not None:
            functions["loss"] = find_loss(loss, network)
        results[name] = measure_network(network, functions, data.for_measuring(network))
    columns = list(next(iter(results.values())))
    report.facts["measured"] = results
    report.table(
        "before and after",
        ("", *columns),
        [(name, *(f"{row[c]:.4f}" for c in columns)) for name, row in results.items()],
    )
