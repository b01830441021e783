"""Merging networks: align, then average."""

from collections.abc import Sequence
from typing import Any

from rebasin_core.align import align
from rebasin_core.batch_norms import find_batch_norms
from rebasin_core.errors import SettingError
from rebasin_core.interpolation import as_place
from rebasin_core.models import open_model
from rebasin_core.reestimation import batches_to_measure

__all__ = ["merge"]


def merge(
    models: Sequence[Any],
    *example_inputs: Any,
    t: float = 0.5,
    reestimate: Any = None,
    batch_size: int | None = None,
    **settings: Any,
) -> Any:
    """Align the second model with the first and return the model between them.

    Parameters
    ----------
    models : sequence of two models
        Networks of one architecture; neither is changed.
    *example_inputs : array
        As for `rebasin_core.align`.
    t : float, default 0.5
        Place on the line, dimensionless: 0 is the first model, 1 the re-based second.
    reestimate : data, optional
        Inputs, or pairs ``(inputs, targets)``, on which to measure the statistics of batch normalisation anew: see
        `rebasin_core.reestimate`. Choose it for every network that has such layers.
    batch_size : int, optional
        Cut `reestimate` into batches of this size, where it is a pair of arrays or one array; default: one batch.
    **settings
        Passed to `rebasin_core.align`: graph, objective, solver, seed, progress, forward, pin.

    Returns
    -------
    model
        Of the type of the first.

    Raises
    ------
    SettingError
        Not two models.
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
    """
    models, t = list(models), as_place(t)
    if len(models) != 2:
        raise SettingError(f"expected two models, got {len(models)}")
    batches = batches_to_measure(reestimate, batch_size)
    if batches is not None:  # what cannot be done in the end is refused before the work
        find_batch_norms(open_model(models[0], settings.get("forward"), "model A"))
    return align(models[0], models[1], *example_inputs, **settings).merge(t, reestimate=batches)
