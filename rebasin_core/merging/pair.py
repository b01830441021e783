"""`merge`: align, then average."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

from rebasin_core.alignment import align
from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_shares
from rebasin_core.merging.many import METHODS, align_many, check_method, read_measured
from rebasin_core.merging.networks import as_networks, choose_solver
from rebasin_core.models.adapter import Forward
from rebasin_core.models.batch_norms import find_batch_norms
from rebasin_core.models.model import open_model
from rebasin_core.models.unit_layers import check_unit_layers
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["merge"]


def merge(
    models: Any,
    *more: Any,
    t: float | None = None,
    weights: Sequence[float] | None = None,
    method: str | None = None,
    graph: PermutationGraph | None = None,
    objective: Any = None,
    solver: Any = None,
    executor: Executor | None = None,
    reestimate: Any = None,
    repair: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
    forward: Forward | None = None,
    pin: Iterable[str] = (),
) -> Any:
    """Align networks with the first and return their mean.

    Two networks are joined by the line between them, which any objective and solver can prepare. More are brought into
    one common order: see `rebasin_core.align_many`, which also returns the plans.

    Parameters
    ----------
    models : sequence of at least two models, or the first of them
        Networks of one architecture; none is changed. ``merge([a, b, c])`` and ``merge(a, b, c)`` mean the same.
    *more : models, then arrays
        The other models, where the first did not come in a list; then inputs to trace and to verify with, where the
        models do not tell their shape. Where inputs are mappings, pass the models in a list.
    t : float, optional
        For two models: place on the line, dimensionless; 0 is the first model, 1 the re-based second. Default: 0.5.
    weights : sequence of float, optional
        What each model counts, positive; they are divided by their sum. Default: all alike. Not together with `t`.
    method : {"iterative", "cycle", "star"}, optional
        How the common order is found, see `rebasin_core.align_many`; default: "iterative", and for two models
        `rebasin_core.align`, whatever the objective.
    graph, objective, seed, progress, forward, pin
        As for `rebasin_core.align`.
    solver : solver, optional
        How pairs are aligned. Default, whatever the method: ``WeightMatching()`` for ``L2()`` and ``Cosine()``,
        ``Sinkhorn()`` for every other objective.
    executor : concurrent.futures.Executor, optional
        Who aligns the pairs of more than two models.
    reestimate : data, optional
        Inputs, or pairs ``(inputs, targets)``, on which to re-estimate the statistics of batch normalization: see
        `rebasin_core.reestimate`. Choose it for every network that has such layers.
    repair : data, optional
        Inputs, or pairs, on which to give every unit the mean of the networks' means and deviations: see
        `rebasin_core.repair`. Choose it for networks without batch normalization. With both, it comes last.
    batch_size : int, optional
        Cut the data into batches of this size, where they are a pair of arrays or one array; default: one batch.

    Returns
    -------
    model
        Of the type of the first.

    Raises
    ------
    SettingError
        Fewer than two models, both `t` and `weights`, or a setting that is of no use: `t` for more than two models,
        `executor` for two, `batch_size` without data.
    RebasinError
        As `rebasin_core.align`.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> a = {"w1": np.array([[1.0], [2.0]]), "w2": np.array([[3.0, 4.0]])}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> b = rb.permute(a, rb.Plan({"h": [1, 0]}), graph)
    >>> rb.merge(a, b, graph=graph)["w2"]
    array([[3., 4.]])
    >>> rb.merge([a, b, b], graph=graph, weights=[2, 1, 1])["w2"]
    array([[3., 4.]])
    """
    networks, example_inputs = as_networks(models, more)
    shares = as_shares(t, weights, len(networks))
    if method is not None:
        check_method(method)
    if executor is not None and len(networks) == 2:
        raise SettingError("executor= aligns pairs side by side, and two models are one pair; leave it out")
    to_measure, to_repair = read_measured(reestimate, repair, batch_size)
    if not (to_measure is None and to_repair is None):  # what cannot be done in the end is refused before the work
        first = open_model(networks[0], forward, "model A")
        if to_measure is not None:
            find_batch_norms(first)
        if to_repair is not None:
            check_unit_layers(first)
    chosen = as_objective(objective)
    settings: dict[str, Any] = {"graph": graph, "objective": chosen, "solver": choose_solver(solver, chosen)}
    settings |= {"seed": seed, "progress": progress, "forward": forward, "pin": pin}
    if len(networks) == 2 and method is None:
        pair = align(*networks, *example_inputs, **settings)
        return pair.merge(shares[1], reestimate=to_measure, repair=to_repair)
    found = align_many(
        networks, *example_inputs, method=method or METHODS[0], weights=weights, executor=executor, **settings
    )
    return found.merge(t=t, reestimate=to_measure, repair=to_repair)
