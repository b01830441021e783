"""Every network aligned with the first one: pairs that know nothing of each other, for as many workers as there are."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from rebasin_core.alignment import align
from rebasin_core.merging.networks import naming
from rebasin_core.models.model import Model
from rebasin_core.solvers.watch import pass_on_interruption
from rebasin_core.support.progress import progress_bar
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["Pair", "star"]


@dataclass(frozen=True)
class Pair:
    """What is kept of the alignment of one network with the first; see `rebasin_core.Alignment`."""

    plan: Plan
    objective: float
    initial_objective: float
    converged: bool
    stop_reason: str


def star(
    models: Sequence[Model],
    example_inputs: tuple[Any, ...],
    graph: PermutationGraph,
    settings: Mapping[str, Any],
    weights_only: bool,
    executor: Executor | None,
    progress: bool,
) -> list[Pair]:
    """Align every network after the first with the first.

    Parameters
    ----------
    models : sequence of Model
        Of one architecture.
    example_inputs : tuple
        To verify with.
    graph : PermutationGraph
        What may be permuted.
    settings : mapping
        Objective, solver and seed, for `rebasin_core.align`.
    weights_only : bool
        Whether the objective needs nothing but the weights: workers are then sent NumPy arrays, and need no framework.
    executor : concurrent.futures.Executor, optional
        Who aligns the pairs; default: this thread, one after the other.
    progress : bool
        Show a progress bar.
    """
    first, *others = (_arguments(model, weights_only) for model in models)
    jobs = [(first, b, example_inputs, graph, settings) for b in others]
    results: list[Callable[[], Pair]] = [
        partial(_pair, *job) if executor is None else executor.submit(_pair, *job).result for job in jobs
    ]
    found = []
    with progress_bar(len(results), "pairs", progress) as bar:
        for number, result in enumerate(results, start=2):
            with naming(number):
                found.append(result())
            bar.update()
    return found


def _arguments(model: Model, weights_only: bool) -> Any:
    if not weights_only:
        return model.source
    return {name: model.backend.to_numpy(x) for name, x in model.params.items()}


def _pair(
    a: Any, b: Any, example_inputs: tuple[Any, ...], graph: PermutationGraph, settings: Mapping[str, Any]
) -> Pair:
    """One pair; a function of the module, so that it travels to another process."""
    inputs = () if isinstance(b, dict) and settings.get("forward") is None else example_inputs
    found = align(a, b, *inputs, graph=graph, progress=False, **settings)
    pass_on_interruption(found.stop_reason)
    return Pair(found.plan, found.objective, found.initial_objective, found.converged, found.stop_reason)
