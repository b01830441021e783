"""What the calls for two networks and for many share: how networks are passed, and how errors name them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rebasin_core.errors import RebasinError, SettingError, UnsupportedModelError
from rebasin_core.models.model import find_adapter
from rebasin_core.objectives.base import Objective
from rebasin_core.objectives.weights import L2, Cosine
from rebasin_core.solvers.resolve import Solver, as_solver
from rebasin_core.solvers.sinkhorn import Sinkhorn
from rebasin_core.solvers.weight_matching import WeightMatching

__all__ = ["as_networks", "choose_solver", "naming"]


def as_networks(models: Any, more: Iterable[Any]) -> tuple[list[Any], tuple[Any, ...]]:
    """Tell models from example inputs: ``(a, b, *inputs)`` and ``([a, b], *inputs)`` mean the same.

    What an adapter carries is a model, also where it is a sequence of layers or a mapping.

    Returns
    -------
    models : list
        Two or more.
    example_inputs : tuple
        What came after them.

    Raises
    ------
    SettingError, UnsupportedModelError
        There are fewer than two models, or what came is none.
    """
    rest = list(more)
    if _is_model(models):
        found = [models]
        while rest and _is_model(rest[0]):
            found.append(rest.pop(0))
    elif isinstance(models, Iterable) and not isinstance(models, (str, bytes)) and not hasattr(models, "shape"):
        found = list(models)
        if any(_is_model(x) for x in rest):
            raise SettingError("models came in a list and after it; pass all of them in the list, or one by one")
    else:
        raise UnsupportedModelError(
            f"expected models that an adapter carries, or mappings of names to arrays, one by one or in a list; got "
            f"{type(models).__name__}"
        )
    if len(found) < 2:
        raise SettingError(f"expected at least two models, got {len(found)}; pass (a, b) or ([a, b, c])")
    return found, tuple(rest)


def _is_model(x: Any) -> bool:
    if hasattr(x, "shape"):  # an array: its class may come from a framework whose models are known
        return False
    try:
        find_adapter(x)
    except UnsupportedModelError:
        return False
    return True


def choose_solver(solver: Any, objective: Objective) -> Solver:
    """Return the solver that was asked for; by default, the one that is made for the objective."""
    if solver is None:
        return WeightMatching() if isinstance(objective, (L2, Cosine)) else Sinkhorn()
    return as_solver(solver)


@contextmanager
def naming(number: int) -> Iterator[None]:
    """Let errors about "model B", the second of a pair, name the network by its place in the list, counted from 1."""
    try:
        yield
    except RebasinError as error:
        error.args = (str(error).replace("model A", "model 1").replace("model B", f"model {number}"),)
        raise
