"""``rebasin verify``."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rebasin_core.backends.dtypes import resolution
from rebasin_core.checkpoints.architecture import Architecture
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.checkpoints.values import permuted_reader
from rebasin_core.commands import options
from rebasin_core.commands.matching import SearchOptions, architecture_of, match_pair
from rebasin_core.commands.options import ObjectiveName, SolverName
from rebasin_core.commands.paths import open_file
from rebasin_core.commands.reporting import Report, reporting
from rebasin_core.errors import EquivalenceError, SettingError
from rebasin_core.models.model import open_pair
from rebasin_core.verification import compare_functions, gather_inputs
from rebasin_core.verification import verify as verify_graph

__all__ = ["verify"]

Array = np.ndarray[Any, Any]


def verify(
    a: options.FileA,
    b: Annotated[Path | None, typer.Argument(help="Another checkpoint, to compare with A.", metavar="[B]")] = None,
    axes: options.Axes = None,
    model: options.Model = None,
    kwargs: options.Kwargs = None,
    inputs: options.Input = None,
    trials: Annotated[
        int, typer.Option(help="Of one file: how many random permutations.", min=1, rich_help_panel=options.SEARCH)
    ] = 3,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Check that two files are one function; of one file, that the axes which were found are right.

    One file: random permutations must leave the outputs as they were. Two files: the same outputs on example inputs;
    with --axes alone, the same tensors but for the order of the units. The exit code is 1 where it is not so.
    """
    with reporting(as_json) as report:
        first = open_file(a)
        second = None if b is None else open_file(b)
        architecture = architecture_of(first, options.source(axes, model, kwargs, inputs))
        if second is None:
            _verify_axes(architecture, first, trials, seed, report)
        elif architecture.model is None:
            _verify_order(architecture, first, second, seed, report)
        else:
            _verify_outputs(architecture, first, second, report)


def _verify_axes(architecture: Architecture, file: Checkpoint, trials: int, seed: int, report: Report) -> None:
    if architecture.model is None:
        raise SettingError(
            "one file is verified by its outputs, and axes alone do not say how to compute them; pass --model, too"
        )
    graph = architecture.whole or architecture.graph
    found = verify_graph(architecture.load(file), graph, *architecture.inputs, trials=trials, seed=seed)
    report.facts |= {"same": True, "difference": found.error, "tolerance": found.tolerance, "trials": found.trials}
    report.say(str(found))


def _verify_outputs(architecture: Architecture, first: Checkpoint, second: Checkpoint, report: Report) -> None:
    a, b = open_pair(architecture.load(first), architecture.load(second))
    inputs = gather_inputs(b, architecture.inputs)
    with a.keep_random_state(0):
        found = compare_functions(a.forward, a.params, b.params, inputs)
    if not found.is_rounding:
        raise EquivalenceError(f"{first.path} and {second.path} are different functions: of their outputs, {found}")
    report.facts |= {"same": True, "difference": found.error, "tolerance": found.tolerance}
    report.say(f"the same function: {found}")


def _verify_order(architecture: Architecture, first: Checkpoint, second: Checkpoint, seed: int, report: Report) -> None:
    search = SearchOptions(SolverName.WEIGHT_MATCHING, ObjectiveName.L2, None, None, seed)
    match = match_pair(architecture, (first, second), search)
    there = permuted_reader(second, match.plans[1], architecture.graph)
    others = [name for name in first.tensors if not _equal(first.read(name), there(name), first, second, name)]
    if others:
        raise EquivalenceError(
            f"{first.path} and {second.path} are not the same but for the order of their units: in the best order that "
            f"was found, {len(others)} of {len(first.tensors)} tensors differ, {others[0]!r} among them"
        )
    count, units = match.moved
    report.facts |= {"same": True, "moved": count, "units": units}
    report.say(f"the same tensors, with {count:,} of {units:,} units in another order")


def _equal(x: Array, y: Array, first: Checkpoint, second: Checkpoint, name: str) -> bool:
    """Whether two tensors are equal, to the rounding of the coarser of the dtypes they are stored in."""
    if x.dtype.kind != "f":
        return np.array_equal(x, y)
    allowed = 0.0
    if first.tensors[name].dtype != second.tensors[name].dtype:
        allowed = max(resolution(file.tensors[name].dtype) for file in (first, second))
    return bool(np.linalg.norm(x.astype(np.float64) - y) <= allowed * np.linalg.norm(x.astype(np.float64)))
