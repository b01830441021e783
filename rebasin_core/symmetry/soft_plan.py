"""A soft plan: one doubly stochastic matrix per group, of which a hard plan is the special case."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_inexact
from rebasin_core.backends.protocol import Array, HasDeferredMix
from rebasin_core.errors import PlanError, ShapeError
from rebasin_core.sinkhorn_operator import sinkhorn
from rebasin_core.symmetry.action import act, as_matrix
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.display import counted, html_table, shortened
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.json_text import read_json
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.plan_checks import check_fits, check_rows, generator, parents_among

__all__ = ["SoftPlan", "matrices_of", "mix_when_used"]

FORMAT = "rebasin-core/soft-plan/1"


class SoftPlan(Mapping[str, Array]):
    """Doubly stochastic matrices, one per permutation group, in the orientation of a hard plan: ``M @ w``.

    A soft plan mixes units instead of reordering them (Eq. 6 of the paper), so that the re-based parameters are
    differentiable in it. It is of any framework; gradients flow through `apply` and `compose`.

    Parameters
    ----------
    matrices : mapping of str to array, shape (n, n) or (parent, n, n)
        Per group; three axes for a local group.
    parents : mapping of str to str, optional
        For every local group, the group it is local to.

    Raises
    ------
    ShapeError
        A matrix is not square, or a local group has not one per place of its parent.
    PlanError
        A local group stands without its parent, or something is no array at all.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> graph = rb.PermutationGraph.from_axes({"w": "h ."}, {"w": np.eye(3)})
    >>> hard = rb.Plan({"h": [2, 0, 1]})
    >>> soft = SoftPlan.from_plan(hard)
    >>> bool((soft.apply({"w": np.eye(3)}, graph)["w"] == np.eye(3)[[2, 0, 1]]).all())
    True
    >>> soft.harden() == hard
    True
    """

    def __init__(self, matrices: Mapping[str, Array], parents: Mapping[str, str] | None = None) -> None:
        self._parents = parents_among(matrices, parents, "SoftPlan")
        self._matrices = dict(matrices)
        shapes = {group: _shape(group, matrix, self._parents.get(group)) for group, matrix in self._matrices.items()}
        check_rows(shapes, self._parents, ShapeError)

    @classmethod
    def from_plan(cls, plan: Plan, like: Array | None = None) -> "SoftPlan":
        """Write a hard plan as permutation matrices of the framework, dtype and device of `like` (default: float64)."""
        if not isinstance(plan, Plan):
            raise PlanError(f"expected a Plan, got {type(plan).__name__}")
        like = np.zeros(()) if like is None else like
        backend = get_backend(like)
        return cls({g: backend.asarray(np.eye(p.shape[-1])[p], like=like) for g, p in plan.items()}, plan.parents)

    @classmethod
    def identity(cls, graph: PermutationGraph, like: Array | None = None) -> "SoftPlan":
        """Return the soft plan that mixes nothing."""
        return cls.from_plan(Plan.identity(graph), like)

    @classmethod
    def random(
        cls, graph: PermutationGraph, seed: int | np.random.Generator = 0, like: Array | None = None
    ) -> "SoftPlan":
        """Draw standard normal logits and put them through the Sinkhorn operator (20 iterations, tau 1)."""
        rng = generator(seed)
        like = np.zeros(()) if like is None else like
        backend = get_backend(like)
        logits = {
            group: rng.standard_normal((*perm.shape, perm.shape[-1])) for group, perm in Plan.identity(graph).items()
        }
        return cls.from_logits({g: backend.asarray(x, like=like) for g, x in logits.items()}, graph.parents)

    @classmethod
    def from_logits(
        cls,
        logits: Mapping[str, Array],
        parents: Mapping[str, str] | None = None,
        tau: Array | float = 1.0,
        num_iters: int | None = None,
        tol: float | None = None,
    ) -> "SoftPlan":
        """Apply the Sinkhorn operator to the logits of every group (Eq. 4, 5); groups of one size go in one call."""
        return cls(matrices_of(logits, tau, num_iters, tol), parents)

    def __getitem__(self, group: str) -> Array:
        return self._matrices[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SoftPlan):
            return NotImplemented
        if self.keys() != other.keys() or self._parents != other._parents:
            return False
        pairs = ((self[group], other[group]) for group in self)
        return all(np.array_equal(get_backend(a).to_numpy(a), get_backend(b).to_numpy(b)) for a, b in pairs)

    # Matrices are the user's arrays, which an optimizer may change: equality may, and so a hash would.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SoftPlan({shortened([f'{g}: {tuple(m.shape)}' for g, m in self.items()], ', ')})"

    def _repr_html_(self) -> str:
        rows = [(g, self._parents.get(g, ""), " x ".join(map(str, m.shape))) for g, m in self.items()]
        return html_table(f"Soft plan of {counted(len(self), 'group')}", ("group", "local to", "matrix"), rows)

    @property
    def parents(self) -> dict[str, str]:
        """For every local group, the group it is local to."""
        return dict(self._parents)

    def harden(self) -> Plan:
        """Return the nearest hard plan, by linear assignment on every matrix."""
        return Plan(
            {g: linear_assignment(get_backend(m).to_numpy(m).astype(float)) for g, m in self.items()}, self._parents
        )

    def compose(self, then: "SoftPlan") -> "SoftPlan":
        """Return the soft plan that does this one first and `then` afterwards, a matrix product per group.

        Raises
        ------
        PlanError
            The groups differ, or a local group's parent in `then` is not a hard permutation: blocks that are mixed
            have no order of their own, so the composition is no soft plan any more.
        """
        if not isinstance(then, SoftPlan):
            raise PlanError(f"expected another SoftPlan to compose with, got {type(then).__name__}")
        if self.keys() != then.keys():
            raise PlanError(f"cannot compose soft plans of groups {list(self)} and {list(then)}")
        composed = {}
        for group, first in self.items():
            backend = get_backend(first, then[group])
            if group in self._parents:
                hard = backend.to_numpy(then[self._parents[group]])
                if not np.isin(hard, (0.0, 1.0)).all():
                    raise PlanError(
                        f"cannot compose: group {group!r} is local to {self._parents[group]!r}, whose matrix in the "
                        f"second plan is soft. Apply the plans one after the other, or harden the second"
                    )
                first = backend.take(first, backend.asarray(hard.argmax(1), like=first, dtype="int64"), 0)
            composed[group] = backend.matmul(then[group], first)
        return SoftPlan(composed, self._parents)

    def inverse(self) -> "SoftPlan":
        """Return the transposed plan: the inverse where the plan is hard, and its relaxation elsewhere."""
        transposed = {}
        for group, matrix in self.items():
            backend = get_backend(matrix)
            flipped = backend.matrix_transpose(matrix)
            if group in self._parents:
                # As in Plan.inverse: row i undoes row q[i]; with a soft parent, the mixture its transpose makes.
                back = backend.matrix_transpose(self[self._parents[group]])
                flat = backend.matmul(back, backend.reshape(flipped, (flipped.shape[0], -1)))
                flipped = backend.reshape(flat, tuple(flipped.shape))
            transposed[group] = flipped
        return SoftPlan(transposed, self._parents)

    def apply(self, params: Mapping[str, Array], graph: PermutationGraph) -> dict[str, Array]:
        """Mix a dictionary of arrays of the plan's framework; differentiable in the plan and in the arrays.

        Parameters
        ----------
        params : mapping of str to array
            The network's arrays, of the plan's framework.
        graph : PermutationGraph
            What the plan is of.

        Raises
        ------
        PlanError
            The plan belongs to another graph.
        SpecError, ShapeError
            The parameters do.
        """
        return self._apply(params, graph, deferred=False)

    def _apply(self, params: Mapping[str, Array], graph: PermutationGraph, deferred: bool) -> dict[str, Array]:
        check_fits(self, graph)
        graph.check_params(params)
        moved = {}
        for name, x in params.items():
            spec = graph.axes[name]
            if spec.groups:
                backend = get_backend(x, *(self[g] for g in spec.groups))
                if not is_inexact(backend.dtype(x)):
                    # Whole numbers per channel mix to fractions.
                    x = backend.astype(x, backend.dtype(self[spec.groups[0]]))
                actions = {g: backend.astype(self[g], backend.dtype(x)) for g in spec.groups}
                mix = partial(act, backend, x, spec, graph.groups, actions)
                layer = as_matrix(spec) if deferred else None
                if layer is not None and isinstance(backend, HasDeferredMix):
                    rows, columns = (None if g is None else actions[g] for g in layer)
                    x = backend.deferred_mix(x, rows, columns, mix)
                else:
                    x = mix()
            moved[name] = x
        return moved

    def to_json(self) -> str:
        """Write the plan as JSON text; `from_json` reads it back."""
        matrices = {group: get_backend(m).to_numpy(m).tolist() for group, m in self.items()}
        return json.dumps({"format": FORMAT, "parents": self._parents, "matrices": matrices})

    @classmethod
    def from_json(cls, text: str, like: Array | None = None) -> "SoftPlan":
        """Read a soft plan written by `to_json`, as arrays like `like` (default: float64).

        Raises
        ------
        PlanError, ShapeError
            The text is not that of a soft plan.
        """
        stored = read_json(text, "SoftPlan", FORMAT, {"matrices": dict, "parents": dict}, PlanError)
        like = np.zeros(()) if like is None else like
        backend = get_backend(like)
        matrices = {group: _numbers(group, rows) for group, rows in stored["matrices"].items()}
        return cls({g: backend.asarray(m, like=like) for g, m in matrices.items()}, stored["parents"])


def _shape(group: str, matrix: Array, parent: str | None) -> tuple[int, ...]:
    """Shape of the matrix of a group, which is square, once or once per place of the parent."""
    if not hasattr(matrix, "shape"):
        raise PlanError(f"expected the matrix of group {group!r} as an array, got {type(matrix).__name__}")
    shape = tuple(matrix.shape)
    if len(shape) != (2 if parent is None else 3) or shape[-1] != shape[-2]:
        wanted = "(n, n)" if parent is None else f"(places of {parent!r}, n, n)"
        raise ShapeError(f"the matrix of group {group!r} must have shape {wanted}; got {shape}")
    return shape


def _numbers(group: str, rows: Any) -> np.ndarray[Any, Any]:
    """A matrix as it appears in JSON text."""
    try:
        matrix = np.array(rows)
    except (ValueError, TypeError, OverflowError):
        matrix = np.array(None)
    if matrix.dtype.kind not in "iuf" or not np.isfinite(matrix).all():
        raise PlanError(f"expected the matrix of group {group!r} in this JSON text as rows of finite numbers")
    return matrix


def mix_when_used(soft: SoftPlan, params: Mapping[str, Array], graph: PermutationGraph) -> dict[str, Array]:
    """Mix a dictionary of arrays as `SoftPlan.apply` does, for a network that is computed with them once.

    Where the backend has a method ``deferred_mix`` (PyTorch's), the weight of a layer is mixed when the layer is
    computed, or what goes in and comes out is, whichever is cheaper: the results are the same up to rounding.
    """
    return soft._apply(params, graph, deferred=True)


def matrices_of(
    logits: Mapping[str, Array], tau: Array | float = 1.0, num_iters: int | None = None, tol: float | None = None
) -> dict[str, Array]:
    """Apply the Sinkhorn operator to the logits of every group; groups of one shape go in one call.

    The logits may have further leading axes: several soft plans at once.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for group, x in logits.items():
        by_shape.setdefault(tuple(x.shape), []).append(group)
    matrices: dict[str, Array] = {}
    for names in by_shape.values():
        if len(names) == 1:
            matrices[names[0]] = sinkhorn(logits[names[0]], tau, num_iters, tol)
            continue
        backend = get_backend(*(logits[name] for name in names))
        P = sinkhorn(backend.stack([logits[name] for name in names]), tau, num_iters, tol)
        matrices.update({name: P[i] for i, name in enumerate(names)})
    return {group: matrices[group] for group in logits}
