"""`merge`: align, then average."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from rebasin_core.alignment import align
from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_place, as_shares
from rebasin_core.line.reestimation import batches_to_measure
from rebasin_core.merging.many import METHODS, align_many
from rebasin_core.models.batch_norms import find_batch_norms
from rebasin_core.models.model import open_model
from rebasin_core.models.unit_layers import check_unit_layers

__all__ = ["merge"]


def merge(
    models: Sequence[Any],
    *example_inputs: Any,
    t: float | None = None,
    weights: Sequence[float] | None = None,
    method: str | None = None,
    reestimate: Any = None,
    repair: Any = None,
    batch_size: int | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Any:
    """Align networks with the first and return their mean.

    Two networks are joined by the line between them, which any objective and solver can prepare. More are brought into
    one common order: see `rebasin_core.align_many`, which also returns the plans.

    Parameters
    ----------
    models : sequence of at least two models
        Networks of one architecture; none is changed.
    *example_inputs : array
        As for `rebasin_core.align`.
    t : float, optional
        For two models: place on the line, dimensionless; 0 is the first model, 1 the re-based second. Default: 0.5.
    weights : sequence of float, optional
        What each model counts, positive; they are divided by their sum. Default: all alike. Not together with `t`.
    method : {"iterative", "cycle", "star"}, optional
        How more than two models are aligned; default: "iterative".
    reestimate : data, optional
        Inputs, or pairs ``(inputs, targets)``, on which to measure the statistics of batch normalisation anew: see
        `rebasin_core.reestimate`. Choose it for every network that has such layers.
    repair : data, optional
        Inputs, or pairs, on which to give every unit the mean of the networks' means and deviations: see
        `rebasin_core.repair`. Choose it for networks without batch normalisation. With both, it comes last.
    batch_size : int, optional
        Cut the data into batches of this size, where they are a pair of arrays or one array; default: one batch.
    executor : concurrent.futures.Executor, optional
        Who aligns the pairs of more than two models.
    **settings
        Passed to `rebasin_core.align` or `rebasin_core.align_many`: graph, objective, solver, seed, progress, forward,
        pin.

    Returns
    -------
    model
        Of the type of the first.

    Raises
    ------
    SettingError
        Fewer than two models, both `t` and `weights`, or `t` for more than two.
    RebasinError
        As `rebasin_core.align`.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> a = {"w1": np.array([[1.0], [2.0]]), "w2": np.array([[3.0, 4.0]])}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> b = rb.permute(a, rb.Plan({"h": [1, 0]}), graph)
    >>> rb.merge([a, b], graph=graph, progress=False)["w2"]
    array([[3., 4.]])
    >>> rb.merge([a, b, b], graph=graph, weights=[2, 1, 1], progress=False)["w2"]
    array([[3., 4.]])
    """
    models = list(models)
    if len(models) < 2:
        raise SettingError(f"expected at least two models, got {len(models)}")
    if t is not None and weights is not None:
        raise SettingError(f"expected t or weights, got both ({t!r}, {weights!r}); t=0.3 is weights=[0.7, 0.3]")
    if t is not None and len(models) > 2:
        raise SettingError(f"t is a place on the line between two models, and there are {len(models)}; pass weights=")
    if method is not None and method not in METHODS:
        raise SettingError(f"expected method as one of {', '.join(map(repr, METHODS))}, got {method!r}")
    shares, place = as_shares(None, weights, len(models)), 0.5 if t is None else as_place(t)
    measured = batches_to_measure(reestimate, batch_size)
    repaired = batches_to_measure(repair, batch_size, name="repair")
    if not (measured is None and repaired is None):  # what cannot be done in the end is refused before the work
        first = open_model(models[0], settings.get("forward"), "model A")
        if measured is not None:
            find_batch_norms(first)
        if repaired is not None:
            check_unit_layers(first)
    if len(models) > 2 or method is not None:
        found = align_many(
            models, *example_inputs, method=method or METHODS[0], weights=shares, executor=executor, **settings
        )
        return found.merge(reestimate=measured, repair=repaired)
    place = place if weights is None else shares[1]
    return align(models[0], models[1], *example_inputs, **settings).merge(place, reestimate=measured, repair=repaired)
