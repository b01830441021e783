"""A plan: one hard permutation per group of a graph."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import PlanError
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.display import counted, html_table, shortened
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.json_text import read_json
from rebasin_core.symmetry.plan_checks import (
    check_fits,
    check_graph,
    check_rows,
    difference,
    generator,
    parents_among,
    shape_in,
)

__all__ = ["Plan", "check_fits"]

FORMAT = "rebasin-core/plan/1"


class Plan(Mapping[str, np.ndarray[Any, Any]]):
    """Index vectors, one per permutation group; immutable.

    A group's vector reorders every axis it appears in by ``np.take(w, perm, axis)``, which is ``np.eye(n)[perm] @ w``:
    place ``i`` of the result holds unit ``perm[i]`` of the original. A group local to another has a matrix of shape
    ``(parent, n)``: row ``i`` orders the units that place ``i`` of the parent holds *after* the parent has moved.

    Parameters
    ----------
    permutations : mapping of str to array of int, shape (n,) or (parent, n)
        Per group, the numbers 0 to n - 1 in some order (in every row, for a local group).
    parents : mapping of str to str, optional
        For every local group, the group it is local to (`PermutationGraph.parents`).

    Raises
    ------
    PlanError
        A vector is not a permutation; the message says where.

    Examples
    --------
    >>> plan = Plan({"h": [2, 0, 1]})
    >>> plan["h"]
    array([2, 0, 1])
    >>> plan.inverse()["h"]
    array([1, 2, 0])
    >>> plan.compose(plan.inverse()).is_identity
    True
    """

    def __init__(self, permutations: Mapping[str, Any], parents: Mapping[str, str] | None = None) -> None:
        self._parents = parents_among(permutations, parents, "Plan")
        self._permutations = {
            group: _permutation(group, value, self._parents.get(group)) for group, value in permutations.items()
        }
        check_rows({group: perm.shape for group, perm in self._permutations.items()}, self._parents, PlanError)

    @classmethod
    def identity(cls, graph: PermutationGraph) -> "Plan":
        """Return the plan that leaves everything where it is."""
        check_graph(graph)
        return cls(
            {g: np.broadcast_to(np.arange(graph.groups[g]), shape_in(graph, g)) for g in graph.groups}, graph.parents
        )

    @classmethod
    def random(cls, graph: PermutationGraph, seed: int | np.random.Generator = 0) -> "Plan":
        """Draw every permutation uniformly; the same seed gives the same plan."""
        check_graph(graph)
        rng = generator(seed)
        draws = {
            g: rng.permuted(np.broadcast_to(np.arange(graph.groups[g]), shape_in(graph, g)), axis=-1)
            for g in graph.groups
        }
        return cls(draws, graph.parents)

    def __getitem__(self, group: str) -> np.ndarray[Any, Any]:
        return self._permutations[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._permutations)

    def __len__(self) -> int:
        return len(self._permutations)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        same_groups = self.keys() == other.keys() and self._parents == other._parents
        return same_groups and all(np.array_equal(self[g], other[g]) for g in self)

    def __hash__(self) -> int:
        return hash(tuple((g, self._parents.get(g), self[g].tobytes()) for g in sorted(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        # NumPy forgets on the way that an array was read-only.
        return Plan, (self._permutations, self._parents)

    def __repr__(self) -> str:
        return f"Plan({shortened([f'{g}: {self.moved(g)} of {self[g].size} moved' for g in self], ', ')})"

    def _repr_html_(self) -> str:
        rows = [(g, self._parents.get(g, ""), f"{self.moved(g):,} of {self[g].size:,}") for g in self]
        return html_table(f"Plan of {counted(len(self), 'group')}", ("group", "local to", "moved"), rows)

    @property
    def parents(self) -> dict[str, str]:
        """For every local group, the group it is local to."""
        return dict(self._parents)

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return all(self.moved(group) == 0 for group in self)

    def moved(self, group: str) -> int:
        """How many units of a group leave their place."""
        perm = self[group]
        return int((perm != np.arange(perm.shape[-1])).sum())

    def compose(self, then: "Plan") -> "Plan":
        """Return the plan that does this one first and `then` afterwards.

        ``permute(permute(w, p), q)`` equals ``permute(w, p.compose(q))``. With ``x'[i] = x[p[i]]`` and
        ``x''[i] = x'[q[i]]`` the composition is ``p[q[i]]``; for a local group the row travels with its parent.
        """
        if not isinstance(then, Plan):
            raise PlanError(f"expected another Plan to compose with, got {type(then).__name__}")
        if self.keys() != then.keys():
            raise PlanError(f"cannot compose plans of different groups: {difference(self, then)}")
        for group in self:
            if self[group].shape != then[group].shape:
                raise PlanError(
                    f"cannot compose: group {group!r} has shape {self[group].shape} in the first plan and "
                    f"{then[group].shape} in the second"
                )
        composed = {}
        for group, first in self.items():
            if group in self._parents:
                traveled = first[then[self._parents[group]]]
                composed[group] = np.take_along_axis(traveled, then[group], axis=1)
            else:
                composed[group] = first[then[group]]
        return Plan(composed, self._parents)

    def inverse(self) -> "Plan":
        """Return the plan that undoes this one: ``p.compose(p.inverse())`` is the identity.

        The rows of a local group travel back with their parent: row ``i`` of the inverse undoes row ``q[i]``, where
        ``q`` is the inverse of the parent.
        """
        inverse = {group: np.argsort(perm, axis=-1) for group, perm in self.items()}
        for child, parent in self._parents.items():
            inverse[child] = inverse[child][inverse[parent]]
        return Plan(inverse, self._parents)

    def replace(self, group: str, permutation: Any) -> "Plan":
        """Return a plan with another permutation for one group."""
        if group not in self:
            raise PlanError(f"this plan has no group {group!r}; it has {', '.join(map(repr, self))}")
        perm = _permutation(group, permutation, self._parents.get(group))
        if perm.shape != self[group].shape:
            raise PlanError(f"group {group!r} has shape {self[group].shape} in this plan; got {perm.shape}")
        return self._with({group: perm})

    def reorder(self, group: str, permutation: Any) -> "Plan":
        """Return the plan that does this one first and reorders one group afterwards.

        It is `compose` with a plan that leaves all other groups, at the cost of one group.

        Examples
        --------
        >>> Plan({"h": [2, 0, 1], "c": [1, 0]}).reorder("h", [1, 0, 2])["h"]
        array([0, 2, 1])
        """
        perm = self.replace(group, permutation)[group]
        moved = {group: np.take_along_axis(self[group], perm, axis=-1)}
        moved |= {child: self[child][perm] for child, parent in self._parents.items() if parent == group}
        return self._with(moved)

    def _with(self, moved: Mapping[str, np.ndarray[Any, Any]]) -> "Plan":
        """Put permutations known to be good into a copy, unchecked: a check costs more than a step of a search."""
        plan = object.__new__(Plan)
        plan._permutations = {**self._permutations, **{group: _read_only(perm) for group, perm in moved.items()}}
        plan._parents = self._parents
        return plan

    def apply(self, params: Mapping[str, Array], graph: PermutationGraph) -> dict[str, Array]:
        """Reorder a dictionary of arrays, of any framework; the arrays given are left as they are.

        A parameter of which nothing moves comes back as it is, not as a copy.

        Raises
        ------
        PlanError
            The plan belongs to another graph.
        SpecError, ShapeError
            The parameters do.
        """
        check_fits(self, graph)
        graph.check_params(params)
        return self._apply(params, graph)

    def _apply(self, params: Mapping[str, Array], graph: PermutationGraph) -> dict[str, Array]:
        moved = {}
        moving = {group for group in self if self.moved(group)}
        for name, x in params.items():
            spec = graph.axes[name]
            if moving.intersection(spec.groups):
                backend = get_backend(x)
                actions = {g: backend.asarray(self[g], like=x, dtype="int64") for g in spec.groups if g in moving}
                x = act(backend, x, spec, graph.groups, actions)
            moved[name] = x
        return moved

    def to_json(self) -> str:
        """Write the plan as JSON text; `from_json` reads it back."""
        permutations = {group: perm.tolist() for group, perm in self.items()}
        return json.dumps({"format": FORMAT, "parents": self._parents, "permutations": permutations})

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan written by `to_json`.

        Raises
        ------
        PlanError
            The text is not that of a plan.
        """
        stored = read_json(text, "Plan", FORMAT, {"permutations": dict, "parents": dict}, PlanError)
        return cls(stored["permutations"], stored["parents"])


def _permutation(group: str, value: Any, parent: str | None) -> np.ndarray[Any, Any]:
    try:
        perm = np.asarray(value)
    except (TypeError, RuntimeError) as error:  # an array of a framework that lies on another device
        raise PlanError(f"the permutation of group {group!r} cannot be read as integers: {error}") from None
    except ValueError:
        raise PlanError(f"the permutation of group {group!r} has rows of different lengths: {value!r:.80}") from None
    ndim = 1 if parent is None else 2
    if perm.ndim != ndim:
        wanted = "a vector (n,)" if parent is None else f"(places of {parent!r}, n), since it is local to it"
        raise PlanError(f"the permutation of group {group!r} must have shape {wanted}; got shape {perm.shape}")
    if perm.size and not np.issubdtype(perm.dtype, np.integer):
        raise PlanError(f"the permutation of group {group!r} must hold integers; got dtype {perm.dtype}")
    if not np.array_equal(np.sort(perm, axis=-1), np.broadcast_to(np.arange(perm.shape[-1]), perm.shape)):
        raise PlanError(
            f"group {group!r}: expected the numbers 0 to {perm.shape[-1] - 1} in some order, each once; got "
            f"{np.array2string(perm, threshold=12)}"
        )
    return _read_only(perm.astype(np.int64))


def _read_only(perm: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a view of an array that is made read-only: the view cannot be made writable again."""
    perm.setflags(write=False)
    return perm.view()
