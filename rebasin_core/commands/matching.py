"""From options to plans: the order of the units of every file, in that of the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from rebasin_core.alignment import align
from rebasin_core.checkpoints.architecture import Architecture, Source, find_architecture
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.checkpoints.streaming import match_files
from rebasin_core.commands.data_source import DataSource, find_loss
from rebasin_core.errors import SettingError
from rebasin_core.merging.many import align_many
from rebasin_core.models.model import open_model
from rebasin_core.objectives.resolve import OBJECTIVES, ObjectiveName, needed_settings
from rebasin_core.solvers.resolve import SolverName
from rebasin_core.solvers.watch import pass_on_interruption
from rebasin_core.symmetry.plan import Plan

__all__ = ["Match", "SearchOptions", "architecture_of", "match_all", "match_pair"]


@dataclass(frozen=True)
class SearchOptions:
    """How to look for a plan: solver, objective, and what the objective needs."""

    solver: SolverName
    objective: ObjectiveName
    data: DataSource | None
    loss: str | None
    seed: int

    def check(self, architecture: Architecture) -> None:
        """Raise where the objective needs what is not there."""
        if not needed_settings(self.objective):
            return
        if architecture.model is None:
            raise SettingError(
                f"--objective {self.objective} computes with the network, and axes alone do not say how; pass --model"
            )
        if self.data is None:
            raise typer.BadParameter(f"--objective {self.objective} needs --data", param_hint="--objective")

    @property
    def matches_weights(self) -> bool:
        """Whether it is weight matching, which needs no more than one tensor of each file at a time."""
        return self.solver is SolverName.WEIGHT_MATCHING and self.objective is ObjectiveName.L2

    def make_objective(self, model: Any) -> Any:
        """The objective, for networks such as this one."""
        needed = needed_settings(self.objective)
        if not needed:
            return OBJECTIVES[self.objective]()
        opened = open_model(model)
        assert self.data is not None
        given: dict[str, Any] = {"data": self.data.for_training(opened)}
        if "loss" in needed:
            given["loss"] = find_loss(self.loss, opened)
        return OBJECTIVES[self.objective](**given)


@dataclass(frozen=True)
class Match:
    """The plan of one file, or of several, and how it was found."""

    plans: tuple[Plan, ...]
    """One per file; the identity for the first."""
    before: float
    after: float
    measure: str
    """What `before` and `after` are of."""
    difference: float | None
    """Relative difference of the outputs before and after; None where they cannot be computed."""
    seconds: float

    @property
    def moved(self) -> tuple[int, int]:
        """How many units moved, of how many."""
        plans = self.plans[1:]
        return sum(plan.moved(g) for plan in plans for g in plan), sum(plan[g].size for plan in plans for g in plan)

    def facts(self) -> dict[str, Any]:
        """For machines."""
        moved, units = self.moved
        return {
            "measure": self.measure,
            "before": self.before,
            "after": self.after,
            "units": units,
            "moved": moved,
            "difference": self.difference,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        moved, units = self.moved
        proof = "not verified on outputs" if self.difference is None else f"the same function to {self.difference:.1e}"
        return (
            f"{self.measure}: {self.before:.6g} -> {self.after:.6g} in {self.seconds:.1f} s; "
            f"{moved:,} of {units:,} units moved; {proof}"
        )


def architecture_of(file: Checkpoint, source: Source, data: DataSource | None = None) -> Architecture:
    """The architecture of a file, which a command cannot do without."""
    found = find_architecture(file, source, () if data is None else data.example())
    if found is None:
        raise SettingError(
            f"{file.path} does not say which axes belong together; pass --axes spec.json, or --model "
            f"package.module:factory, or --model FOLDER with the config.json of a Hugging Face model"
        )
    return found


def match_pair(architecture: Architecture, files: Sequence[Checkpoint], search: SearchOptions) -> Match:
    """Find the plan that carries the second of two files to the first; without a model, tensor by tensor from them."""
    first, second = files
    search.check(architecture)
    if architecture.model is None and search.matches_weights:
        found = match_files(first, second, architecture.graph, seed=search.seed)
        pass_on_interruption(found.stop_reason)
        plans = (Plan.identity(architecture.graph), found.plan)
        return Match(plans, found.initial_distance, found.distance, "weight matching on L2", None, found.seconds)
    a, b = architecture.load(first), architecture.load(second)
    result = align(
        a,
        b,
        *architecture.inputs,
        graph=architecture.whole or architecture.graph,
        objective=search.make_objective(b),
        solver=search.solver,
        seed=search.seed,
    )
    pass_on_interruption(result.stop_reason)
    measure = f"{result.solver_name} on {result.objective_name}"
    plans = (Plan.identity(architecture.graph), result.plan)
    return Match(plans, result.initial_objective, result.objective, measure, result.error, result.seconds)


def match_all(
    architecture: Architecture,
    files: Sequence[Checkpoint],
    search: SearchOptions,
    method: str,
    weights: Sequence[float] | None,
) -> Match:
    """Find plans that carry every file to the first, in one common order."""
    search.check(architecture)
    if method == "star" and architecture.model is None and search.matches_weights:
        return _star(architecture, files, search)
    models = [architecture.load(file) for file in files]
    found = align_many(
        models,
        *architecture.inputs,
        method=method,
        weights=weights,
        graph=architecture.whole or architecture.graph,
        objective=search.make_objective(models[0]),
        solver=search.solver,
        seed=search.seed,
    )
    measure = f"{len(files)} networks, {method}: spread"
    return Match(found.plans, found.initial_spread, found.spread, measure, found.error, found.seconds)


def _star(architecture: Architecture, files: Sequence[Checkpoint], search: SearchOptions) -> Match:
    graph = architecture.graph
    found = []
    for file in files[1:]:
        found.append(match_files(files[0], file, graph, seed=search.seed))
        pass_on_interruption(found[-1].stop_reason)
    plans = (Plan.identity(graph), *(match.plan for match in found))
    before, after = (sum(getattr(match, name) for match in found) for name in ("initial_distance", "distance"))
    measure = f"{len(files)} networks, star: squared distances to the first"
    return Match(plans, before, after, measure, None, sum(match.seconds for match in found))
