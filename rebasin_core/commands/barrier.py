"""``rebasin barrier``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rebasin_core.checkpoints.values import permuted_reader
from rebasin_core.commands import options
from rebasin_core.commands.data_source import DataSource, find_loss, find_metric, read_data
from rebasin_core.commands.matching import SearchOptions, architecture_of, match_pair
from rebasin_core.commands.options import ObjectiveName, SolverName
from rebasin_core.commands.paths import check_picture_out, open_file
from rebasin_core.commands.reporting import Report, reporting
from rebasin_core.errors import SettingError
from rebasin_core.line.curve import Curve, connectivity
from rebasin_core.line.plotting import plot_curves, save_figure
from rebasin_core.models.model import open_model

__all__ = ["barrier"]


def barrier(
    a: options.FileA,
    b: options.FileB,
    data: options.NeededData,
    loss: options.Loss = None,
    metric: options.Metric = None,
    lambdas: Annotated[
        int, typer.Option(help="How many places on the line, both ends included.", min=2, rich_help_panel=options.DATA)
    ] = 11,
    reestimate: Annotated[
        bool,
        typer.Option(
            "--reestimate",
            help="Re-estimate the statistics of batch normalization at every place, on the data for training.",
            rich_help_panel=options.DATA,
        ),
    ] = False,
    align: Annotated[
        bool,
        typer.Option("--align", help="Measure once more with B re-based onto A.", rich_help_panel=options.SEARCH),
    ] = False,
    batch_size: options.BatchSize = 256,
    model: options.Model = None,
    kwargs: options.Kwargs = None,
    inputs: options.Input = None,
    axes: options.Axes = None,
    solver: options.SolverOption = SolverName.WEIGHT_MATCHING,
    objective: options.ObjectiveOption = ObjectiveName.L2,
    seed: options.Seed = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the curves into this file: .png, .pdf or .svg.", rich_help_panel=options.OUTPUT),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure the loss along the straight line from A to B, as they are and, with --align, re-based."""
    with reporting(as_json) as report:
        check_picture_out(plot, force)
        first, second = open_file(a), open_file(b)
        source = read_data(data, batch_size)
        assert source is not None
        architecture = architecture_of(first, options.source(axes, model, kwargs, inputs), source)
        if architecture.model is None:
            raise SettingError("the loss needs the network, and axes alone do not say how to compute; pass --model")
        model_a, model_b = architecture.load(first), architecture.load(second)
        ends = {"as they are": model_b}
        if align:
            match = match_pair(architecture, (first, second), SearchOptions(solver, objective, source, loss, seed))
            ends["aligned"] = architecture.filled(permuted_reader(second, match.plans[1], architecture.graph))
            report.say(str(match))
            report.facts["match"] = match.facts()
        statistics = source if reestimate else None
        curves = {name: _measure(model_a, end, source, statistics, loss, metric, lambdas) for name, end in ends.items()}
        _tell(report, f"from {first.path} to {second.path}", curves, metric)
        if plot is not None:
            save_figure(plot_curves(curves), plot)
            report.say(f"wrote {plot}")
            report.facts["plot"] = str(plot)


def _measure(
    a: Any, b: Any, data: DataSource, statistics: DataSource | None, loss: str | None, metric: str | None, lambdas: int
) -> Curve:
    network = open_model(a)
    return connectivity(
        a,
        b,
        find_loss(loss, network),
        data.for_measuring(network),
        lambdas,
        metrics={} if metric is None else {metric: find_metric(metric, network)},
        reestimate=None if statistics is None else statistics.for_training(network),
    )


def _tell(report: Report, title: str, curves: Mapping[str, Curve], metric: str | None) -> None:
    report.facts |= {name: _facts(curve) for name, curve in curves.items()}
    names = ["loss", *([] if metric is None else [metric])]
    report.table(
        title,
        ("", "barrier", "area", *(f"{name} at {end}" for name in names for end in ("A", "middle", "B"))),
        [
            (row, *(f"{x:.4f}" for x in (curve.barrier, curve.auc, *_ends_and_middle(curve, names))))
            for row, curve in curves.items()
        ],
    )


def _ends_and_middle(curve: Curve, names: list[str]) -> list[float]:
    return [curve.at(t)[name] for name in names for t in (0, 0.5, 1)]


def _facts(curve: Curve) -> dict[str, Any]:
    return {
        "barrier": curve.barrier,
        "area": curve.auc,
        "lambdas": curve.lambdas,
        "losses": curve.losses,
        "metrics": dict(curve.metrics),
    }
