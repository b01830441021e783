"""``rebasin align``."""

from pathlib import Path
from typing import Annotated

import typer

from rebasin_core.checkpoints.streaming import write_permuted
from rebasin_core.commands import options
from rebasin_core.commands.data_source import read_data
from rebasin_core.commands.matching import SearchOptions, architecture_of, match_pair
from rebasin_core.commands.options import ObjectiveName, SolverName
from rebasin_core.commands.paths import check_absent, check_checkpoint_out, open_file
from rebasin_core.commands.reporting import reporting
from rebasin_core.support.atomic import replacing

__all__ = ["align"]


def align(
    a: options.FileA,
    b: options.FileB,
    out: options.Out,
    axes: options.Axes = None,
    model: options.Model = None,
    kwargs: options.Kwargs = None,
    inputs: options.Input = None,
    solver: options.SolverOption = SolverName.WEIGHT_MATCHING,
    objective: options.ObjectiveOption = ObjectiveName.L2,
    data: options.Data = None,
    loss: options.Loss = None,
    batch_size: options.BatchSize = 256,
    seed: options.Seed = 0,
    plan_out: Annotated[
        Path | None, typer.Option(help="Write the plan to this JSON file, too.", rich_help_panel=options.OUTPUT)
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write B with its units in the order of A: the same function, in the same basin.

    With a model the result is proven on example inputs. With --axes alone no framework is needed, and tensors are read
    a few at a time.
    """
    with reporting(as_json) as report:
        first, second = open_file(a), open_file(b)
        check_checkpoint_out(out, second, (first, second), force)
        check_absent(plan_out, force)
        source = read_data(data, batch_size)
        architecture = architecture_of(first, options.source(axes, model, kwargs, inputs), source)
        match = match_pair(architecture, (first, second), SearchOptions(solver, objective, source, loss, seed))
        plan = match.plans[1]
        write_permuted(second, plan, architecture.graph, out)
        report.say(str(match))
        report.say(f"wrote {out}")
        report.facts |= {"a": str(first.path), "b": str(second.path), "out": str(out), **match.facts()}
        if plan_out is not None:
            with replacing(plan_out) as text:
                text.write(plan.to_json().encode() + b"\n")
            report.say(f"wrote {plan_out}")
            report.facts["plan_out"] = str(plan_out)
