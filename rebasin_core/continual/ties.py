"""Tied parameters: several names, one array."""

import math

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.models.model import Model
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["find_ties"]


def find_ties(model: Model, graph: PermutationGraph) -> dict[str, str]:
    """For every further name of a tied learned parameter, the name that counts as learned.

    A graph keeps further names among its buffers, where running statistics are, too. To tell them apart, a copy of the
    model is built in which every array is filled with a number of its own: tied names come back with the same one.

    Parameters
    ----------
    model : Model
        The network; not changed.
    graph : PermutationGraph
        Which parameters are learned.
    """
    floating = [
        name for name, x in model.params.items() if is_floating(model.backend.dtype(x)) and 0 not in graph.shapes[name]
    ]
    suspects = [name for name in floating if name in graph.buffers]
    if not suspects:
        return {}
    # Numbers that are distinct even in bfloat16, which has eight binary digits.
    marks = {name: math.ldexp(128 + i % 128, i // 128 - 7) for i, name in enumerate(floating)}
    filled = {
        name: model.backend.full(tuple(x.shape), marks[name], x) if name in marks else x
        for name, x in model.params.items()
    }
    built = model.adapter.params(model.rebuild(filled))
    found = {name: float(model.backend.to_numpy(built[name]).flat[0]) for name in floating}
    owners = {found[name]: name for name in graph.learned if name in found}
    return {name: owners[found[name]] for name in suspects if found[name] in owners}
