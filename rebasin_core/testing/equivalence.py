"""The permuted network must be the same function; where it is not, find the least that shows it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import EquivalenceError, SettingError
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model, open_model
from rebasin_core.support.settings import at_least, not_negative
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.testing.blame import find_blame
from rebasin_core.testing.shrinking import Swap, perform, shrink
from rebasin_core.verification import Difference, Verification, compare_functions, gather_inputs, make_uneven

__all__ = ["check_equivalent", "check_opened"]

Params = Mapping[str, Array]


def check_equivalent(
    model: Any,
    *inputs: Any,
    graph: PermutationGraph | None = None,
    forward: Forward | None = None,
    plans: int | Iterable[Plan] = 3,
    seed: int = 0,
    tolerance: float | None = None,
) -> Verification:
    """Check that plans over all groups of a network leave its outputs as they were.

    It is `rebasin_core.verify` for a test: where a plan changes the outputs, it is shrunk first to the smallest set of
    groups that still does and then to the fewest exchanges of two units, and the axis to blame is looked for by
    correcting one after the other.

    Parameters
    ----------
    model : any model an adapter carries, or a mapping of arrays
        The network; it is not changed.
    *inputs : array
        Its inputs; may be left out where the model tells their shape.
    graph : PermutationGraph, optional
        The graph to check; default: the one found in the model.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for a mapping of arrays.
    plans : int or iterable of Plan, default 3
        How many random plans, or the plans themselves, as `rebasin_core.testing.plans` draws them.
    seed : int, default 0
        Of the plans, and of the numbers that make constant tensors (zero biases, unit scales) uneven, since a wrong
        axis would not show in these. The first plan is tried on the weights as they are, too.
    tolerance : float, optional
        Relative difference allowed, dimensionless; default: the square root of the resolution of the coarsest dtype.

    Returns
    -------
    Verification
        The largest relative difference, and what was allowed.

    Raises
    ------
    EquivalenceError
        The outputs change. `groups` is the smallest set that breaks the network, `plan` the smallest plan; `parameter`
        and `axis` say what is to blame, where a single axis is.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> params = {"w1": rng.normal(size=(4, 3)), "b1": rng.normal(size=4), "w2": rng.normal(size=(2, 4))}
    >>> graph = PermutationGraph.from_axes({"w1": "h .", "b1": ".", "w2": ". h"}, params)  # b1 was forgotten
    >>> def forward(p, x):
    ...     return np.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T
    >>> check_equivalent(params, np.ones((1, 3)), graph=graph, forward=forward)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.EquivalenceError: the permuted network is another function: relative error ...
    It takes no more than to exchange units 0 and 2 of group 'h'.
    Axis 0 of parameter 'b1' must move with 'h'; write it there
    """
    opened = open_model(model, forward)
    if graph is None:
        graph = opened.adapter.graph(model, *inputs)
    return check_opened(opened, inputs, graph, plans, seed, tolerance)


def check_opened(
    model: Model,
    example_inputs: tuple[Any, ...],
    graph: PermutationGraph,
    plans: int | Iterable[Plan] = 3,
    seed: int = 0,
    tolerance: float | None = None,
) -> Verification:
    """Do the work of `check_equivalent`, for a model whose adapter need not be registered."""
    at_least(0, seed=seed)
    if tolerance is not None:
        not_negative(tolerance=tolerance)
    graph.check_params(model.params, "the model")
    inputs = gather_inputs(model, example_inputs)
    forward, worst, trials = model.forward, 0.0, 0
    with model.keep_random_state(seed):
        for params, plan in _trials(model.params, graph, plans, np.random.default_rng(seed)):
            found = compare_functions(forward, params, plan.apply(params, graph), inputs)
            if tolerance is not None:
                found = replace(found, tolerance=tolerance)
            if not found.is_rounding:
                raise _Failure(forward, params, inputs, graph, plan, found).error()
            worst, trials = max(worst, found.error), trials + 1
    return Verification(worst, found.tolerance, trials)


def _trials(
    params: Params, graph: PermutationGraph, plans: int | Iterable[Plan], rng: np.random.Generator
) -> Iterator[tuple[Params, Plan]]:
    """Weights and plans: the first plan on the weights as they are, every plan on weights that are uneven."""
    if isinstance(plans, (int, np.integer)):
        at_least(1, plans=plans)
        drawn: Iterator[Plan] = (Plan.random(graph, rng) for _ in range(plans))
    else:
        drawn = iter(plans)
    first = next(drawn, None)
    if first is None:
        raise SettingError("expected at least one plan to try, got none")
    yield params, first
    for plan in chain([first], drawn):
        yield make_uneven(params, rng), plan


class _Failure:
    """A plan that changes the outputs, to be explained."""

    def __init__(
        self,
        forward: Forward,
        params: Params,
        inputs: Any,
        graph: PermutationGraph,
        plan: Plan,
        found: Difference,
    ) -> None:
        self.forward, self.params, self.inputs = forward, params, inputs
        self.graph, self.plan, self.found = graph, plan, found

    def breaks(self, plan: Plan, graph: PermutationGraph | None = None) -> bool:
        """Whether a plan changes the outputs, perhaps under a corrected graph."""
        rebased = plan.apply(self.params, graph or self.graph)
        found = compare_functions(self.forward, self.params, rebased, self.inputs)
        return not found.error <= self.found.tolerance

    def error(self) -> EquivalenceError:
        """Explain."""
        head = f"the permuted network is another function: {self.found}."
        identity = Plan.identity(self.graph)
        if self.breaks(identity):
            return EquivalenceError(
                f"{head}\nSo it is where nothing moves: called twice with the same parameters, it gives two "
                f"results. Switch off what draws random numbers"
            )
        groups, least = shrink(self.graph, self.plan, self.breaks)
        plan = perform(self.graph, least)
        head = f"{head}\nIt takes no more than to exchange {_listing(least)}.\n"
        if len(groups) > 1:
            together = " and ".join(map(repr, groups))
            return EquivalenceError(
                f"{head}Each of the groups {together} may move, but not together; look for what they share",
                tuple(groups),
                plan=plan,
            )
        blame = find_blame(self.graph, groups[0], self._breaks_alone)
        if blame is not None:
            return EquivalenceError(f"{head}{blame}", tuple(groups), blame.parameter, blame.axis, plan)
        places = ", ".join(f"axis {i} of {name!r}" for name, i in self.graph.occurrences(groups[0]))
        return EquivalenceError(
            f"{head}No correction of a single axis repairs it. The group reorders {places}: "
            f'one of them does not belong, or one is missing. Keep the group as it is with pin=["{groups[0]}"]',
            tuple(groups),
            plan=plan,
        )

    def _breaks_alone(self, graph: PermutationGraph, groups: list[str]) -> bool:
        plan = Plan.identity(graph)
        for group in groups:
            plan = plan.replace(group, self.plan[group])
        return self.breaks(plan, graph)


def _listing(least: list[Swap], most: int = 4) -> str:
    more = f" and {len(least) - most} more pairs" if len(least) > most else ""
    return ", then ".join(map(str, least[:most])) + more
