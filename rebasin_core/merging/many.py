"""`align_many`: several networks in one common order of their units."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_weights
from rebasin_core.line.reestimation import batches_to_measure, reestimated
from rebasin_core.line.repairing import repaired
from rebasin_core.merging.agreement import Agreement, Plans
from rebasin_core.merging.star import star
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model, open_pair
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.resolve import as_solver
from rebasin_core.solvers.weight_matching import WeightMatching
from rebasin_core.support.progress import check_flag, progress_bar
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.verification import check_same_function

__all__ = ["METHODS", "MultiAlignment", "align_many"]

METHODS = ("iterative", "cycle", "star")
MOST_SWEEPS, MOST_STEPS, GAP = 100, 50, 1e-6


@dataclass(frozen=True)
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
    history : tuple of float
        The spread after every pass over the networks; it never rises.
    converged : bool
        Whether no plan changed any more.
    seconds : float
        Wall-clock time.
    """

    models: tuple[Any, ...]
    plans: tuple[Plan, ...]
    graph: PermutationGraph
    weights: tuple[float, ...]
    spread: float
    initial_spread: float
    history: tuple[float, ...]
    converged: bool
    seconds: float
    method: str
    _opened: tuple[Model, ...] = field(repr=False)

    def merge(self, *, reestimate: Any = None, repair: Any = None, batch_size: int | None = None) -> Any:
        """Return the weighted mean of the re-based networks, of the type of the first.

        Parameters
        ----------
        reestimate, repair, batch_size
            As for `rebasin_core.Alignment.merge`.
        """
        batches = batches_to_measure(reestimate, batch_size)
        to_repair = batches_to_measure(repair, batch_size, name="repair")
        first = self._opened[0]
        moved = [plan.apply(m.params, self.graph) for plan, m in zip(self.plans, self._opened, strict=True)]
        mean = {
            name: sum(w * params[name] for w, params in zip(self.weights, moved, strict=True))
            if "float" in first.backend.dtype(x)
            else x  # counters are those of the first
            for name, x in first.params.items()
        }
        mean = reestimated(first, mean, batches)
        return first.rebuild(repaired(first, mean, moved, self.weights, self.graph, to_repair))

    def __str__(self) -> str:
        passes = f"{len(self.history)} {'pass' if len(self.history) == 1 else 'passes'}"
        end = "" if self.converged else ", not converged"
        return (
            f"{len(self.models)} networks, {self.method}: spread {self.initial_spread:.6g} -> {self.spread:.6g} in "
            f"{self.seconds:.1f} s ({passes}{end})"
        )


def align_many(
    models: Sequence[Any],
    *example_inputs: Any,
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
    models : sequence of at least two models
        Networks of one architecture; none is changed. The others move onto the first.
    *example_inputs : array
        Inputs to trace and to verify with, where the models do not tell their shape.
    method : {"iterative", "cycle", "star"}, default "iterative"
        "star": every network is aligned with the first, by any objective and solver. "iterative": from there, each in
        turn is matched to the mean of the others until nothing changes (Git Re-Basin, Algorithm 3). "cycle": the same
        also from a search over the plans of all networks at once (C2M3), and the best of all: slower, never worse.
    weights : sequence of float, optional
        What each network counts, positive; they are divided by their sum. Default: all alike.
    graph : PermutationGraph, optional
        What may be permuted; default: found in the first network. Required for mappings of arrays.
    objective, solver : optional
        Of the pairs; "iterative" and "cycle" need a distance of weights. Default: ``L2()`` and ``WeightMatching()``.
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
        Fewer than two models, weights that do not fit, an unknown method, or an objective it cannot minimise.
    RebasinError
        As `rebasin_core.align`.

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
    models = list(models)
    if len(models) < 2:
        raise SettingError(f"expected at least two models, got {len(models)}")
    if method not in METHODS:
        raise SettingError(f"expected method as one of {', '.join(map(repr, METHODS))}, got {method!r}")
    shares = as_weights(weights, len(models))
    chosen, solve = as_objective(objective), as_solver(WeightMatching() if solver is None else solver)
    opened = [open_pair(models[0], model, forward) for model in models[1:]]
    networks = (opened[0][0], *(b for _, b in opened))
    if graph is None:
        graph = networks[0].adapter.graph(models[0], *example_inputs)
    graph.check_params(networks[0].params, "the first model")
    graph = graph.pin(pin) if pin else graph
    weights_only = chosen.bind(networks[0], graph).matches_weights
    if method != "star" and not weights_only:
        raise SettingError(
            f"method={method!r} needs a distance of weights, objectives.L2() or objectives.Cosine(), not "
            f'{chosen.name}; pass method="star" to align every network with the first by any objective'
        )
    settings = {"objective": objective, "solver": solve, "seed": seed}
    if not weights_only and forward is not None:
        settings["forward"] = forward
    plans = star(networks, example_inputs, graph, settings, weights_only, executor, progress)
    agreement = Agreement(graph, tuple(m.params for m in networks), shares, networks[0].backend)
    initial = agreement.spread([Plan.identity(graph)] * len(models))
    history = [agreement.spread(plans)]
    converged = True
    if method != "star" and graph.groups:
        plans, history, converged = _together(agreement, plans, method, seed, progress)
    with networks[0].keep_random_state(seed):
        rebased = [plan.apply(m.params, graph) for plan, m in zip(plans, networks, strict=True)]
        for model, params in zip(networks[1:], rebased[1:], strict=True):
            check_same_function(model, params, example_inputs, "model B")
    return MultiAlignment(
        models=tuple(m.rebuild(params) for m, params in zip(networks, rebased, strict=True)),
        plans=plans,
        graph=graph,
        weights=shares,
        spread=history[-1],
        initial_spread=initial,
        history=tuple(history),
        converged=converged,
        seconds=time.perf_counter() - started,
        method=method,
        _opened=networks,
    )


def _together(
    agreement: Agreement, plans: Plans, method: str, seed: int, progress: bool
) -> tuple[Plans, list[float], bool]:
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
        runs = []
        for start in starts:
            best, history, changed = start, [agreement.spread(start)], True
            sweeps = agreement.sweeps(start, rng)
            while changed and len(history) <= MOST_SWEEPS:
                best, changed = next(sweeps)
                history.append(agreement.spread(best))
                bar.update(f"spread {history[-1]:.6g}")
            runs.append((best, history, not changed))
    return min(runs, key=lambda run: run[1][-1])
