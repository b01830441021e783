"""`align_many`: several networks in one common order of their units."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_shares, mean
from rebasin_core.line.reestimation import batches_to_measure, check_batch_size, reestimate_params
from rebasin_core.line.repairing import repair_params
from rebasin_core.merging.agreement import Agreement, Plans
from rebasin_core.merging.networks import as_networks, choose_solver, naming
from rebasin_core.merging.star import Pair, star
from rebasin_core.models.adapter import Forward
from rebasin_core.models.data import Batches
from rebasin_core.models.model import Model, open_model, open_pair
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.support.progress import Progress, check_flag, progress_bar
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.verification import check_same_function

__all__ = ["METHODS", "MultiAlignment", "align_many"]

METHODS = ("iterative", "cycle", "star")
MOST_SWEEPS, MOST_STEPS, GAP = 100, 50, 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class MultiAlignment:
    """Several networks re-based onto the first.

    Attributes
    ----------
    models : tuple
        The re-based copies, of their own types; the first one is as it was.
    plans : tuple of Plan
        What was permuted in each; the identity for the first. ``plans[i].compose(plans[j].inverse())`` carries network
        i to network j, and composing such maps around a cycle is the identity.
    graph : PermutationGraph
        Along which axes.
    weights : tuple of float
        What each counts in the mean, summing to 1.
    spread : float
        Weighted mean squared distance of the re-based weights to their mean.
    initial_spread : float
        The same before.
    objective : float
        What the method minimized: the spread, or for "star" the mean over the pairs of their objectives.
    initial_objective : float
        The same before.
    error : float or None
        Largest relative difference between the outputs of a re-based network and of the network it was made from; None
        where there was no way to compute them (mappings of arrays without `forward` or inputs).
    history : tuple of float
        The spread after every pass over the networks; it never rises.
    converged : bool
        Whether no plan changed any more; for "star", whether the solver says so of every pair.
    stop_reason : str
        Why the search stopped.
    seconds : float
        Wall-clock time.
    method : str
        How the common order was found.
    """

    models: tuple[Any, ...]
    plans: tuple[Plan, ...]
    graph: PermutationGraph
    weights: tuple[float, ...]
    spread: float
    initial_spread: float
    objective: float
    initial_objective: float
    error: float | None
    history: tuple[float, ...]
    converged: bool
    stop_reason: str
    seconds: float
    method: str

    def merge(
        self,
        *,
        t: float | None = None,
        weights: Sequence[float] | None = None,
        reestimate: Any = None,
        repair: Any = None,
        batch_size: int | None = None,
    ) -> Any:
        """Return the weighted mean of `models`, of the type of the first.

        Parameters
        ----------
        t : float, optional
            For two networks: place on the line, dimensionless; 0 is the first, 1 the re-based second.
        weights : sequence of float, optional
            What each network counts, positive. Default: what it counted when they were aligned.
        reestimate, repair, batch_size
            As for `rebasin_core.Alignment.merge`.
        """
        shares = self.weights if t is None and weights is None else as_shares(t, weights, len(self.models))
        batches, to_repair = read_measured(reestimate, repair, batch_size)
        networks = [open_model(model, what=f"model {i}") for i, model in enumerate(self.models, start=1)]
        first, params = networks[0], [network.params for network in networks]
        merged = reestimate_params(first, mean(params, shares), batches)
        return first.rebuild(repair_params(first, merged, params, shares, self.graph, to_repair))

    def __repr__(self) -> str:
        return f"MultiAlignment({self})"

    def __str__(self) -> str:
        passes = f"{len(self.history)} {'pass' if len(self.history) == 1 else 'passes'}"
        end = "" if self.converged else ", not converged"
        return (
            f"{len(self.models)} networks, {self.method}: spread {self.initial_spread:.6g} -> {self.spread:.6g} in "
            f"{self.seconds:.1f} s ({passes}{end})"
        )


def read_measured(reestimate: Any, repair: Any, batch_size: int | None) -> tuple[Batches | None, Batches | None]:
    """Read the data of ``reestimate=`` and ``repair=``.

    Raises
    ------
    SettingError, DataError
        They cannot be read, or there are none for `batch_size` to cut.
    """
    found = batches_to_measure(reestimate, batch_size), batches_to_measure(repair, batch_size, name="repair")
    check_batch_size(batch_size, reestimate=reestimate, repair=repair)
    return found


def align_many(
    models: Any,
    *more: Any,
    method: str = "iterative",
    weights: Sequence[float] | None = None,
    graph: PermutationGraph | None = None,
    objective: Any = None,
    solver: Any = None,
    executor: Executor | None = None,
    seed: int = 0,
    progress: bool = True,
    forward: Forward | None = None,
    pin: Iterable[str] = (),
) -> MultiAlignment:
    """Bring several networks into one common order of their units.

    Pairs alone do not do: carried from A to B to C and back to A, a network comes home in another order. Here every
    network has one plan, to the order of the first.

    Parameters
    ----------
    models : sequence of at least two models, or the first of them
        Networks of one architecture; none is changed. The others move onto the first. ``align_many([a, b, c])`` and
        ``align_many(a, b, c)`` mean the same.
    *more : models, then arrays
        The other models, where the first did not come in a list; then inputs to trace and to verify with, where the
        models do not tell their shape. Where inputs are mappings, pass the models in a list.
    method : {"iterative", "cycle", "star"}, default "iterative"
        "star": every network is aligned with the first, by any objective and solver. "iterative": from there, each in
        turn is matched to the mean of the others until nothing changes (Git Re-Basin, Algorithm 3). "cycle": the same
        also from a search over the plans of all networks at once (C2M3), and the best of all: slower, never worse.
    weights : sequence of float, optional
        What each network counts, positive; they are divided by their sum. Default: all alike.
    graph : PermutationGraph, optional
        What may be permuted; default: found in the first network. Required for mappings of arrays.
    objective, solver : optional
        Of the pairs; "iterative" and "cycle" need a distance of weights. Default: ``L2()``, and for ``L2()`` and
        ``Cosine()`` the solver ``WeightMatching()``, for every other objective ``Sinkhorn()``.
    executor : concurrent.futures.Executor, optional
        Who aligns the pairs of the star: threads, processes, or a cluster, such as
        ``dask.distributed.Client(...).get_executor()``. Where the objective is a distance of weights, workers are sent
        NumPy arrays and need no framework. Default: one pair after the other.
    seed : int, default 0
        Of every random choice.
    progress : bool, default True
        Show a progress bar where a person is watching.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for mappings of arrays.
    pin : iterable of str, optional
        Groups, or parameters, to keep as they are.

    Returns
    -------
    MultiAlignment

    Raises
    ------
    SettingError
        Fewer than two models, weights that do not fit, an unknown method, or an objective it cannot minimize.
    RebasinError
        As `rebasin_core.align`; networks are named by their place, from "model 1" on.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       Algorithm 3.
    .. [2] D. Crisostomi, M. Fumero, D. Baieri, F. Bernard, E. Rodolà. C2M3: Cycle-Consistent Multi-Model Merging.
       NeurIPS 2024. arXiv:2405.17897

    Examples
    --------
    >>> import rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(16, 4)), "w2": rng.normal(size=(2, 16))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> others = [rb.permute(a, rb.Plan.random(graph, seed), graph) for seed in (1, 2)]
    >>> found = rb.align_many([a, *others], graph=graph, progress=False)
    >>> found.spread < 1e-20
    True
    """
    started = time.perf_counter()
    at_least(0, seed=seed)
    check_flag(progress=progress)
    sources, example_inputs = as_networks(models, more)
    check_method(method)
    shares = as_shares(None, weights, len(sources))
    chosen = as_objective(objective)
    solve = choose_solver(solver, chosen)
    networks = _open(sources, forward)
    if graph is None:
        graph = networks[0].adapter.graph(sources[0], *example_inputs)
    graph.check_params(networks[0].params, "the first model")
    graph = graph.pin(pin) if pin else graph
    weights_only = chosen.bind(networks[0], graph).matches_weights
    if method != "star" and not weights_only:
        raise SettingError(
            f"method={method!r} needs a distance of weights, objectives.L2() or objectives.Cosine(), not "
            f'{chosen.name}; pass method="star" to align every network with the first by any objective'
        )
    settings = {"objective": chosen, "solver": solve, "seed": seed}
    if not weights_only and forward is not None:
        settings["forward"] = forward
    pairs = star(networks, example_inputs, graph, settings, weights_only, executor, progress)
    agreement = Agreement(graph, tuple(m.params for m in networks), shares, networks[0].backend)
    found = _of_star(agreement, pairs)
    if method != "star" and graph.groups:
        found = _together(agreement, found.plans, method, seed, progress)
    rebased = [plan.apply(m.params, graph) for plan, m in zip(found.plans, networks, strict=True)]
    with networks[0].keep_random_state(seed):
        error = _verify(networks, rebased, example_inputs)
    return MultiAlignment(
        models=tuple(m.rebuild(params) for m, params in zip(networks, rebased, strict=True)),
        plans=found.plans,
        graph=graph,
        weights=shares,
        spread=found.history[-1],
        initial_spread=(initial := agreement.spread([Plan.identity(graph)] * len(networks))),
        objective=_mean(pair.objective for pair in pairs) if method == "star" else found.history[-1],
        initial_objective=_mean(pair.initial_objective for pair in pairs) if method == "star" else initial,
        error=error,
        history=found.history,
        converged=found.converged,
        stop_reason=found.stop_reason,
        seconds=time.perf_counter() - started,
        method=method,
    )


def check_method(method: str) -> None:
    """Raise `SettingError` unless there is such a method."""
    if method not in METHODS:
        raise SettingError(f"expected method as one of {', '.join(map(repr, METHODS))}, got {method!r}")


@dataclass(frozen=True)
class _Found:
    """Plans of all networks, and how they were found."""

    plans: Plans
    history: tuple[float, ...]
    converged: bool
    stop_reason: str


def _open(models: Sequence[Any], forward: Forward | None) -> tuple[Model, ...]:
    """Read models of one architecture."""
    found: list[Model] = []
    for number, model in enumerate(models[1:], start=2):
        with naming(number):
            first, other = open_pair(models[0], model, forward)
        found = [*(found or [first]), other]
    return tuple(found)


def _of_star(agreement: Agreement, pairs: Sequence[Pair]) -> _Found:
    plans = (Plan.identity(agreement.graph), *(pair.plan for pair in pairs))
    reasons = dict.fromkeys(pair.stop_reason for pair in pairs)
    return _Found(plans, (agreement.spread(plans),), all(pair.converged for pair in pairs), "; ".join(reasons))


def _verify(
    networks: Sequence[Model], rebased: Sequence[dict[str, Any]], example_inputs: tuple[Any, ...]
) -> float | None:
    """Compare every network with its re-based parameters; the largest error, None where outputs cannot be computed."""
    errors = []
    for number, (model, params) in enumerate(zip(networks[1:], rebased[1:], strict=True), start=2):
        errors.append(check_same_function(model, params, example_inputs, f"model {number}"))
    known = [error for error in errors if error is not None]
    return max(known) if len(known) == len(errors) else None


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _together(agreement: Agreement, plans: Plans, method: str, seed: int, progress: bool) -> _Found:
    """The best of what sweeps make of the star, of no permutation at all and, for "cycle", of the common search."""
    rng = np.random.default_rng(seed)
    starts = [plans, tuple(Plan.identity(agreement.graph) for _ in plans)]
    with progress_bar(None, method, progress) as bar:
        if method == "cycle":
            seen = []
            for found in agreement.frank_wolfe(plans, MOST_STEPS, GAP):
                seen.append(found)
                bar.update("common search")
            starts.append(min(dict.fromkeys(seen), key=agreement.spread))
        runs = [_sweep(agreement, start, rng, bar) for start in starts]
    return min(runs, key=lambda run: run.history[-1])


def _sweep(agreement: Agreement, start: Plans, rng: np.random.Generator, bar: Progress) -> _Found:
    plans, history, changed = start, [agreement.spread(start)], True
    sweeps = agreement.sweeps(start, rng)
    while changed and len(history) <= MOST_SWEEPS:
        plans, changed = next(sweeps)
        history.append(agreement.spread(plans))
        bar.update(f"spread {history[-1]:.6g}")
    reason = f"{MOST_SWEEPS} passes were made" if changed else "no plan changed any more"
    return _Found(plans, tuple(history), not changed, reason)
