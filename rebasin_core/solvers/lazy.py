"""Parameters of a network that need not fit into memory: read when asked for, and not kept."""

import ctypes
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, cast

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.support.chunks import CHUNK
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["LazyParams", "reorder", "reorder_params", "widen_params"]


class LazyParams(Mapping[str, Array]):
    """Parameters in the order of a plan; each is read and reordered whenever it is asked for.

    Parameters
    ----------
    read : callable
        ``read(name)``: one parameter, an array of NumPy of its own, in row-major order.
    graph : PermutationGraph
        Of the network.
    plan : Plan, optional
        The order of its units; default: as they are read.
    names : collection of str, optional
        Of these parameters; default: all of the graph.

    Examples
    --------
    >>> graph = PermutationGraph.from_axes({"w": "h ."}, {"w": np.ones((3, 1))})
    >>> params = LazyParams(lambda name: np.array([[1.0], [2.0], [3.0]]), graph, Plan({"h": [2, 0, 1]}))
    >>> params["w"].ravel()
    array([3., 1., 2.])
    """

    def __init__(
        self,
        read: Callable[[str], np.ndarray[Any, Any]],
        graph: PermutationGraph,
        plan: Plan | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        self._read, self._graph = read, graph
        self.plan = Plan.identity(graph) if plan is None else plan
        self._names = graph.axes.keys() if names is None else names

    def __getitem__(self, name: str) -> Array:
        give_back = _give_back()
        if give_back is not None:
            give_back(0)
        return reorder(self._read(name), name, self.plan, self._graph)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def only(self, names: Collection[str]) -> "LazyParams":
        """Return some of the parameters."""
        return LazyParams(self._read, self._graph, self.plan, names)

    def at(self, plan: Plan) -> "LazyParams":
        """Return the same parameters after another plan."""
        return LazyParams(self._read, self._graph, plan, self._names)

    def update(self, other: "dict[str, Array] | LazyParams") -> None:
        """Lie as `other` does, which `reorder_params` made of these."""
        assert isinstance(other, LazyParams)
        self.plan = other.plan


def widen_params(
    backend: Backend, params: Mapping[str, Array], names: Collection[str]
) -> dict[str, Array] | LazyParams:
    """Some of the parameters, half precision as float32; of lazy ones, none is read."""
    if isinstance(params, LazyParams):
        return params.only(names)
    return {name: widened(backend, params[name]) for name in names}


def reorder_params(
    backend: Backend,
    params: dict[str, Array] | LazyParams,
    names: Collection[str],
    graph: PermutationGraph,
    group: str,
    perm: np.ndarray[Any, Any],
) -> dict[str, Array] | LazyParams:
    """The parameters in which a group appears, after it was reordered; of lazy ones, none is read."""
    if isinstance(params, LazyParams):
        return params.only(names).at(params.plan.reorder(group, perm))
    action = {group: backend.asarray(perm, like=params[next(iter(names))], dtype="int64")}
    return {name: act(backend, params[name], graph.axes[name], graph.groups, action) for name in names}


def reorder(x: np.ndarray[Any, Any], name: str, plan: Plan, graph: PermutationGraph) -> np.ndarray[Any, Any]:
    """Reorder one parameter, written over `x` where its axes allow it, and return it."""
    actions = {group: plan[group] for group in graph.axes[name].groups if plan.moved(group)}
    return np.asarray(act(cast(Backend, _InPlace(x)), x, graph.axes[name], graph.groups, actions))


@cache
def _give_back() -> Callable[[int], Any] | None:
    """The C library's own call to hand back to the system what was freed; None where it has no such call.

    Otherwise it keeps up to 64 MiB to use again, in pieces that the next tensor may not fit into.
    """
    try:
        found: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found


class _InPlace:
    """NumPy, for the moves of a plan alone: an axis is reordered in place, piece by piece."""

    def __init__(self, x: np.ndarray[Any, Any]) -> None:
        self._backend = get_backend(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at `indices`, a permutation, along `axis`; written over `x`."""
        others = [i for i in range(x.ndim) if i != axis]
        if not others or x.size == 0:
            x[...] = np.take(x, indices, axis)
            return x
        along = max(others, key=lambda i: x.shape[i])
        step = max(1, CHUNK * x.shape[along] // x.size)
        for start in range(0, x.shape[along], step):
            piece = x[(*[slice(None)] * along, slice(start, start + step))]
            piece[...] = np.take(piece, indices, axis)
        return x
