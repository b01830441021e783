"""`permute` and `align`: a model in, a re-based copy of the same type out."""

import html
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import CheckpointError, PlanError, SettingError, SpecError
from rebasin_core.line.mean import as_place, mean
from rebasin_core.line.reestimation import batches_to_measure, check_batch_size, reestimate_params
from rebasin_core.line.repairing import repair_params
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model, find_adapter, open_model, open_pair
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.base import HistoryEntry
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.resolve import as_solver
from rebasin_core.solvers.watch import Watch
from rebasin_core.support.atomic import replacing
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least, positive
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan, check_fits
from rebasin_core.symmetry.soft_plan import SoftPlan
from rebasin_core.verification import check_same_function

__all__ = ["Alignment", "align", "permutation_graph", "permute"]

FORMAT = "rebasin-core/alignment/1"


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


def permute(model: Any, plan: Plan | SoftPlan, graph: PermutationGraph) -> Any:
    """Return a re-based copy of a model: the same type, the same function, its units in another order.

    Parameters
    ----------
    model : any model an adapter carries, or a mapping of arrays
        The network; it is not changed.
    plan : Plan
        One permutation per group. A `SoftPlan` is accepted, too: its units are mixtures, and the function is another
        one unless the plan is hard.
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


@dataclass(frozen=True, repr=False)
class Alignment:
    """Model B re-based onto model A.

    It holds copies of its own of both networks, and stays as it is while the models it was made from are trained on.
    Two of them are equal if all they say is, but for the models and the time.

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
    objective_name, solver_name : str
        What was minimized, and how.
    """

    model: Any = field(compare=False)
    plan: Plan
    graph: PermutationGraph
    objective: float
    initial_objective: float
    history: tuple[HistoryEntry, ...]
    converged: bool
    stop_reason: str
    error: float | None
    seconds: float = field(compare=False)
    objective_name: str
    solver_name: str
    _a: Model | None = field(default=None, compare=False)
    _rebased: dict[str, Array] = field(default_factory=dict, compare=False)

    def merge(
        self, t: float = 0.5, *, reestimate: Any = None, repair: Any = None, batch_size: int | None = None
    ) -> Any:
        """Return the model at ``(1 - t) A + t pi(B)``, of the type of model A.

        Parameters
        ----------
        t : float, default 0.5
            Place on the line, dimensionless: 0 is model A, 1 the re-based model B.
        reestimate : data, optional
            Inputs, or pairs ``(inputs, targets)``, on which to re-estimate the statistics of batch normalization: see
            `rebasin_core.reestimate`. Choose it for every network that has such layers.
        repair : data, optional
            Inputs, or pairs, on which to give every unit the mean and the deviation between those of the two networks:
            see `rebasin_core.repair`. Choose it for networks without batch normalization. With both, it comes last.
        batch_size : int, optional
            Cut the data into batches of this size, where they are a pair of arrays or one array; default: one batch.

        Raises
        ------
        RebasinError
            A bad place, data that cannot be read, or a mapping of arrays, whose statistics cannot be told.
        """
        if self._a is None:
            raise SettingError(
                "this alignment was loaded without its models; load it with Alignment.load(path, model_a, model_b)"
            )
        check_batch_size(batch_size, reestimate=reestimate, repair=repair)
        place, batches = as_place(t), batches_to_measure(reestimate, batch_size)
        to_repair = batches_to_measure(repair, batch_size, name="repair")
        ends = self._a.params, self._rebased
        between = reestimate_params(self._a, mean(ends, (1.0 - place, place)), batches)
        return self._a.rebuild(repair_params(self._a, between, ends, (1.0 - place, place), self.graph, to_repair))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all but the models into one JSON file; what was there stays until it is complete.

        Parameters
        ----------
        path : path
            The file to write; one that is there is replaced.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import numpy as np, rebasin_core as rb
        >>> a, b = ({"w": np.random.default_rng(seed).normal(size=(4, 3))} for seed in (1, 2))
        >>> graph = rb.PermutationGraph.from_axes({"w": "h ."}, a)
        >>> result = rb.align(a, b, graph=graph, solver="weight-matching", progress=False)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "alignment.json"
        >>> result.save(path)
        >>> rb.Alignment.load(path, a, b) == result
        True
        """
        stored = {"format": FORMAT, "plan": json.loads(self.plan.to_json()), "graph": json.loads(self.graph.to_json())}
        stored |= {name: getattr(self, name) for name in _plain_fields()}
        with replacing(path) as file:
            file.write(json.dumps(stored, default=float).encode() + b"\n")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model_a: Any = None,
        model_b: Any = None,
        *,
        forward: Forward | None = None,
    ) -> "Alignment":
        """Read an alignment written by `save`.

        Parameters
        ----------
        path : path
            The file.
        model_a, model_b : optional
            The two models it was found for, as they were: with them it can `merge` again, and has the re-based `model`;
            without them, `model` is None.
        forward : callable, optional
            As for `rebasin_core.align`.

        Raises
        ------
        CheckpointError
            There is no such file, or it is no alignment.
        SpecError, ShapeError
            The models are not of the graph.
        """
        stored = _read(Path(path))
        if (model_a is None) != (model_b is None):
            raise SettingError("expected both models or none; write Alignment.load(path, model_a, model_b)")
        if model_a is None:
            return cls(model=None, **stored)
        a, b = open_pair(model_a, model_b, forward)
        stored["graph"].check_params(b.params, "model B")
        rebased = stored["plan"].apply(b.params, stored["graph"])
        return cls(model=b.rebuild(rebased), _a=a.detach(), _rebased=b.detach_params(rebased), **stored)

    def __str__(self) -> str:
        return "{what}: {change} in {time}\nstopped: {stopped}; {moved}; {proof}".format(**self._words())

    def __repr__(self) -> str:
        return "Alignment({what}: {change}; {moved}; {proof})".format(**self._words())

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in self._words().items())
        return f"<table>{''.join(rows)}</table>"

    def _words(self) -> dict[str, str]:
        moved, units = sum(map(self.plan.moved, self.plan)), sum(perm.size for perm in self.plan.values())
        unproven = "not verified: no way to compute outputs"
        return {
            "what": f"{self.solver_name} on {self.objective_name}",
            "change": f"{self.initial_objective:.6g} -> {self.objective:.6g}",
            "time": f"{self.seconds:.1f} s",
            "stopped": self.stop_reason,
            "moved": f"{moved:,} of {units:,} units moved",
            "proof": unproven if self.error is None else f"same function to {self.error:.1e}",
        }


def _plain_fields() -> list[str]:
    """Fields of an alignment that JSON knows by itself."""
    return [x.name for x in fields(Alignment) if x.name not in ("model", "plan", "graph", "_a", "_rebased")]


def _read(path: Path) -> dict[str, Any]:
    """Every field of a stored alignment but the models."""
    expected = f'expected a file written by Alignment.save, with "format": "{FORMAT}"'
    try:
        stored = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; {expected}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}; {expected}") from None
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not an alignment; {expected}")
    try:
        found = {name: stored[name] for name in _plain_fields()}
        found["history"] = tuple(HistoryEntry(*entry) for entry in found["history"])
        found["plan"] = Plan.from_json(json.dumps(stored["plan"]))
        found["graph"] = PermutationGraph.from_json(json.dumps(stored["graph"]))
        check_fits(found["plan"], found["graph"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}; {expected}") from None
    return found


def align(
    model_a: Any,
    model_b: Any,
    *example_inputs: Any,
    graph: PermutationGraph | None = None,
    objective: Any = None,
    solver: Any = None,
    start: Plan | None = None,
    callback: Callable[[HistoryEntry], Any] | None = None,
    time_limit: float | None = None,
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
        Inputs to trace and to verify with, where their shape is not known from the model.
    graph : PermutationGraph, optional
        What may be permuted; default: found in model B. Required for mappings of arrays.
    objective : objective, str or callable, optional
        What to minimize: of `rebasin_core.objectives`, "l2" or "cosine", or a function of (params_a, params_b).
        Default: ``L2()``.
    solver : solver or str, optional
        How: of `rebasin_core.solvers`, or "weight-matching", "sinkhorn", "frank-wolfe", "straight-through" or
        "activation-matching" for one with its defaults. Default: ``Sinkhorn()``.
    start : Plan, optional
        A plan from which the search begins, such as that of an earlier alignment; the result is never worse.
    callback : callable, optional
        ``callback(entry)``, called with each `rebasin_core.solvers.HistoryEntry` as the search writes it down: its
        step, value and best value so far. It stops the search by returning True.
    time_limit : float, optional
        Seconds after which the search stops, at the end of the step it is in.
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
        The re-based copy, the plan, and how it was found. A search that the callback, the time or a person at the
        keyboard (KeyboardInterrupt) stops gives the best plan it has seen, verified as any other; `stop_reason` says
        so.

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
    >>> result = rb.align(a, b, graph=graph, solver="weight-matching", progress=False)
    >>> float(abs(result.model["w1"] - a["w1"]).max())
    0.0
    """
    watch = Watch(time_limit)
    at_least(0, seed=seed)
    check_flag(progress=progress)
    if time_limit is not None:
        positive(time_limit=time_limit)
    if callback is not None and not callable(callback):
        raise SettingError(f"expected callback as a function of one history entry, got {callback!r}")
    chosen, solve = as_objective(objective), as_solver(solver)
    if graph is not None:
        _check_graph(graph)
    a, b = open_pair(model_a, model_b, forward)
    if graph is None:
        graph = b.adapter.graph(model_b, *example_inputs)
    graph.check_params(b.params, "model B")
    graph = graph.pin(pin) if pin else graph
    with b.keep_random_state(seed):
        problem = Problem(graph, a.params, b.params, chosen.bind(b, graph), seed, start, callback, watch)
        initial = problem.initial
        solution = solve.solve(problem, progress)
        if start is not None and problem.judge(start) < solution.value:  # by a solver that did not look at it
            solution = replace(solution, plan=start, value=problem.judge(start))
        rebased = problem.rebased(solution.plan)
        error = check_same_function(b, rebased, example_inputs, "model B")
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
        seconds=time.perf_counter() - watch.started,
        objective_name=problem.objective.name,
        solver_name=solve.name,
        _a=a.detach(),
        _rebased=b.detach_params(rebased),
    )


def _check_graph(graph: Any) -> None:
    if not isinstance(graph, PermutationGraph):
        raise SpecError(
            f"expected a PermutationGraph, got {type(graph).__name__}; make one with permutation_graph(model) or "
            f"PermutationGraph.from_axes(axes, params)"
        )
