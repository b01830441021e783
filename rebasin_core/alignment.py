"""`permute` and `align`: a model in, a re-based copy of the same type out."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rebasin_core.errors import EquivalenceError, PlanError, SpecError
from rebasin_core.line.mean import as_place, mean
from rebasin_core.line.reestimation import batches_to_measure, reestimated
from rebasin_core.line.repairing import repaired
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model, find_adapter, open_model, open_pair
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.base import HistoryEntry
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.resolve import as_solver
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan
from rebasin_core.verification import check_equivalent_params, gather_inputs

__all__ = ["Alignment", "align", "permutation_graph", "permute", "verified"]


def permutation_graph(model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
    """Find the permutation graph of a model.

    Parameters
    ----------
    model : any model an adapter carries
        The network. A plain mapping of arrays does not say which axes belong together: use
        `PermutationGraph.from_axes` for it.
    *example_inputs : array
        Inputs to trace it with, where the framework needs them.
    pin : iterable of str, optional
        Groups, or parameters, to keep as they are.

    Raises
    ------
    UnsupportedModelError
        No adapter carries the model, or it cannot be traced.
    """
    return find_adapter(model).graph(model, *example_inputs, pin=pin)


def permute(model: Any, plan: Plan, graph: PermutationGraph) -> Any:
    """Return a re-based copy of a model: the same type, the same function, its units in another order.

    Parameters
    ----------
    model : any model an adapter carries, or a mapping of arrays
        The network; it is not changed.
    plan : Plan
        One permutation per group.
    graph : PermutationGraph
        The graph the plan belongs to.

    Raises
    ------
    PlanError
        The plan is for another graph.
    SpecError, ShapeError
        The graph is for another model.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> params = {"w1": np.array([[1.0], [2.0]]), "w2": np.array([[3.0, 4.0]])}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, params)
    >>> rb.permute(params, rb.Plan({"h": [1, 0]}), graph)["w2"]
    array([[4., 3.]])
    """
    if not isinstance(plan, (Plan, SoftPlan)):
        raise PlanError(f"expected a Plan such as Plan({{...}}) or Plan.random(graph), got {type(plan).__name__}")
    _check_graph(graph)
    opened = open_model(model)
    return opened.rebuild(plan.apply(opened.params, graph))


@dataclass(frozen=True)
class Alignment:
    """Model B re-based onto model A.

    Attributes
    ----------
    model : same type as model B
        The re-based copy: hard permutations only, the same function as model B.
    plan : Plan
        What was permuted.
    graph : PermutationGraph
        Along which axes.
    objective : float
        The objective of the plan, on its fixed evaluation set.
    initial_objective : float
        The objective before: of the identity.
    history : tuple of HistoryEntry
        Per step: the value the step saw, the hard plan's, the best so far.
    converged : bool
        Whether the solver stopped because nothing improved any more.
    stop_reason : str
        Why it stopped.
    error : float or None
        Relative difference between the outputs of `model` and of model B; None where there was no way to compute them
        (a mapping of arrays without `forward` or inputs).
    seconds : float
        Wall-clock time.
    """

    model: Any
    plan: Plan
    graph: PermutationGraph
    objective: float
    initial_objective: float
    history: tuple[HistoryEntry, ...]
    converged: bool
    stop_reason: str
    error: float | None
    seconds: float
    objective_name: str
    solver_name: str
    _a: Model = field(repr=False)
    _b: Model = field(repr=False)

    def merge(
        self, t: float = 0.5, *, reestimate: Any = None, repair: Any = None, batch_size: int | None = None
    ) -> Any:
        """Return the model at ``(1 - t) A + t pi(B)``, of the type of model A.

        Parameters
        ----------
        t : float, default 0.5
            Place on the line, dimensionless: 0 is model A, 1 the re-based model B.
        reestimate : data, optional
            Inputs, or pairs ``(inputs, targets)``, on which to measure the statistics of batch normalisation anew: see
            `rebasin_core.reestimate`. Choose it for every network that has such layers.
        repair : data, optional
            Inputs, or pairs, on which to give every unit the mean and the deviation between those of the two networks:
            see `rebasin_core.repair`. Choose it for networks without batch normalisation. With both, it comes last.
        batch_size : int, optional
            Cut the data into batches of this size, where they are a pair of arrays or one array; default: one batch.

        Raises
        ------
        RebasinError
            A bad place, data that cannot be read, or a mapping of arrays, whose statistics cannot be told.
        """
        place, batches = as_place(t), batches_to_measure(reestimate, batch_size)
        to_repair = batches_to_measure(repair, batch_size, name="repair")
        ends = self._a.params, self.plan.apply(self._b.params, self.graph)
        between = reestimated(self._a, mean(ends, (1.0 - place, place)), batches)
        return self._a.rebuild(repaired(self._a, between, ends, (1.0 - place, place), self.graph, to_repair))

    def __str__(self) -> str:
        moved = sum(self.plan.moved(group) for group in self.plan)
        total = sum(perm.size for perm in self.plan.values())
        proof = (
            "not verified: no way to compute outputs" if self.error is None else f"same function to {self.error:.1e}"
        )
        return (
            f"{self.solver_name} on {self.objective_name}: {self.initial_objective:.6g} -> {self.objective:.6g} in "
            f"{self.seconds:.1f} s\n"
            f"stopped: {self.stop_reason}; {moved:,} of {total:,} units moved; {proof}"
        )


def align(
    model_a: Any,
    model_b: Any,
    *example_inputs: Any,
    graph: PermutationGraph | None = None,
    objective: Any = None,
    solver: Any = None,
    seed: int = 0,
    progress: bool = True,
    forward: Forward | None = None,
    pin: Iterable[str] = (),
) -> Alignment:
    """Find the permutation that carries model B into model A's basin.

    Parameters
    ----------
    model_a, model_b : any models an adapter carries, or mappings of arrays
        Two networks of one architecture; neither is changed. B moves onto A.
    *example_inputs : array
        Inputs to trace and to verify with, where the model does not tell their shape.
    graph : PermutationGraph, optional
        What may be permuted; default: found in model B. Required for mappings of arrays.
    objective : objective or callable, optional
        What to minimise: of `rebasin_core.objectives`, or a function of (params_a, params_b). Default: ``L2()``.
    solver : solver, optional
        How: of `rebasin_core.solvers`. Default: ``Sinkhorn()``.
    seed : int, default 0
        Of every random choice; the same seed gives the same result on one machine.
    progress : bool, default True
        Show a progress bar where a person is watching.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for mappings of arrays: needed by objectives with data and to verify.
    pin : iterable of str, optional
        Groups, or parameters, to keep as they are.

    Returns
    -------
    Alignment
        The re-based copy, the plan, and how it was found.

    Raises
    ------
    RebasinError
        One of its children, before any work: other architectures, NaN weights, empty data, settings out of range.
        Also if the result is not the same function as model B (`EquivalenceError`): the graph is wrong then.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(16, 4)), "w2": rng.normal(size=(2, 16))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> b = rb.permute(a, rb.Plan.random(graph, seed=1), graph)
    >>> result = rb.align(a, b, graph=graph, solver=rb.solvers.WeightMatching(), progress=False)
    >>> float(abs(result.model["w1"] - a["w1"]).max())
    0.0
    """
    started = time.perf_counter()
    at_least(0, seed=seed)
    check_flag(progress=progress)
    chosen, solve = as_objective(objective), as_solver(solver)
    if graph is not None:
        _check_graph(graph)
    a, b = open_pair(model_a, model_b, forward)
    if graph is None:
        graph = b.adapter.graph(model_b, *example_inputs)
    graph.check_params(b.params, "model B")
    graph = graph.pin(pin) if pin else graph
    with b.keep_random_state(seed):
        problem = Problem(graph, a.params, b.params, chosen.bind(b, graph), seed)
        initial = problem.initial
        solution = solve.solve(problem, progress)
        rebased = problem.rebased(solution.plan)
        error = verified(b, rebased, example_inputs)
    return Alignment(
        model=b.rebuild(rebased),
        plan=solution.plan,
        graph=graph,
        objective=solution.value,
        initial_objective=initial,
        history=solution.history,
        converged=solution.converged,
        stop_reason=solution.stop_reason,
        error=error,
        seconds=time.perf_counter() - started,
        objective_name=problem.objective.name,
        solver_name=solve.name,
        _a=a,
        _b=b,
    )


def _check_graph(graph: Any) -> None:
    if not isinstance(graph, PermutationGraph):
        raise SpecError(
            f"expected a PermutationGraph, got {type(graph).__name__}; make one with permutation_graph(model) or "
            f"PermutationGraph.from_axes(axes, params)"
        )


def verified(b: Model, rebased: dict[str, Any], example_inputs: tuple[Any, ...]) -> float | None:
    """Compare the outputs before and after, where they can be computed."""
    if not b.can_compute or not (example_inputs or b.adapter.example_inputs(b.source)):
        return None
    error, tolerance = check_equivalent_params(b.forward, b.params, rebased, gather_inputs(b, example_inputs))
    if not error <= tolerance:
        raise EquivalenceError(
            f"the re-based network is not the same function as model B: relative error {error:.1e}, allowed "
            f"{tolerance:.1e}. The graph must be wrong; rebasin_core.verify(model, graph, inputs) names the group to "
            f"blame"
        )
    return error
