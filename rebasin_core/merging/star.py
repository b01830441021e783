"""Every network aligned with the first one: pairs that know nothing of each other, for as many workers as there are."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from rebasin_core.alignment import align
from rebasin_core.models.model import Model
from rebasin_core.solvers.watch import pass_on_interruption
from rebasin_core.support.progress import progress_bar
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["star"]


def star(
    models: Sequence[Model],
    example_inputs: tuple[Any, ...],
    graph: PermutationGraph,
    settings: Mapping[str, Any],
    weights_only: bool,
    executor: Executor | None,
    progress: bool,
) -> tuple[Plan, ...]:
    """Align every network with the first; returns their plans, the identity for the first.

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
    arguments = [_arguments(model, weights_only) for model in models]
    found: list[Plan] = []
    with progress_bar(len(models) - 1, "pairs", progress) as bar:
        if executor is None:
            for b in arguments[1:]:
                found.append(_plan(arguments[0], b, example_inputs, graph, settings))
                bar.update()
        else:
            futures = [executor.submit(_plan, arguments[0], b, example_inputs, graph, settings) for b in arguments[1:]]
            for future in futures:
                found.append(future.result())
                bar.update()
    return (Plan.identity(graph), *found)


def _arguments(model: Model, weights_only: bool) -> Any:
    if not weights_only:
        return model.source
    return {name: model.backend.to_numpy(x) for name, x in model.params.items()}


def _plan(
    a: Any, b: Any, example_inputs: tuple[Any, ...], graph: PermutationGraph, settings: Mapping[str, Any]
) -> Plan:
    """One pair; a function of the module, so that it travels to another process."""
    inputs = () if isinstance(b, dict) and settings.get("forward") is None else example_inputs
    found = align(a, b, *inputs, graph=graph, progress=False, **settings)
    pass_on_interruption(found.stop_reason)
    return found.plan
