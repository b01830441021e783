"""Verification: the permuted network must be the same function."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import resolution
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import EquivalenceError, NonFiniteError, SettingError, ShapeError
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model, open_model
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Group
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["Difference", "Verification", "check_same_function", "compare_functions", "compare_outputs", "verify"]


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes
    ----------
    error : float
        Largest relative difference of the outputs over all trials: ``|f - f'| / |f|``, Frobenius norms, dimensionless.
    tolerance : float
        What was allowed.
    trials : int
        How many plans were tried.
    """

    error: float
    tolerance: float
    trials: int

    def __str__(self) -> str:
        allowed = f"relative error {self.error:.1e}, allowed {self.tolerance:.1e}"
        return f"the same function under {self.trials} plans: {allowed}"


def verify(
    model: Any,
    graph: PermutationGraph,
    *example_inputs: Any,
    trials: int = 3,
    seed: int = 0,
    forward: Forward | None = None,
) -> Verification:
    """Check that random plans leave the outputs of a network as they were.

    The first trial uses the weights as they are; the others first make tensors that are constant (zero biases, unit
    norm weights) uneven, since a wrong axis would not show in them. The user's model is not touched.

    Parameters
    ----------
    model : any model an adapter carries, or a mapping of arrays
        The network.
    graph : PermutationGraph
        The graph to check.
    *example_inputs : array
        Inputs of the model; may be left out where the model tells their shape.
    trials : int, default 3
        How many random plans over all groups.
    seed : int, default 0
        Of the plans and the unevenness.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for a mapping of arrays.

    Returns
    -------
    Verification
        The error found and the tolerance, the square root of the dtype's resolution.

    Raises
    ------
    EquivalenceError
        The outputs change. The message names the groups to blame and, where the search can tell, the parameter.
    NonFiniteError
        No output is finite, so that nothing can be compared. Infinities and NaN beside numbers are compared, too: they
        must be in the same places.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> params = {"w1": rng.normal(size=(8, 3)), "w2": rng.normal(size=(2, 8))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, params)
    >>> def forward(p, x):
    ...     return np.maximum(x @ p["w1"].T, 0) @ p["w2"].T
    >>> rb.verify(params, graph, rng.normal(size=(5, 3)), forward=forward).trials
    3
    """
    at_least(1, trials=trials)
    at_least(0, seed=seed)
    opened = open_model(model, forward)
    graph.check_params(opened.params, "the model")
    inputs = gather_inputs(opened, example_inputs)
    rng = np.random.default_rng(seed)
    worst = 0.0
    run = opened.forward
    with opened.keep_random_state(seed):
        for trial in range(trials):
            params = opened.params if trial == 0 else make_uneven(opened.params, rng)
            plan = Plan.random(graph, rng)
            found = compare_functions(run, params, plan.apply(params, graph), inputs)
            if not found.is_rounding:
                raise _blame(run, graph, params, plan, inputs, found)
            worst = max(worst, found.error)
    return Verification(worst, found.tolerance, trials)


def gather_inputs(model: Model, example_inputs: tuple[Any, ...]) -> Any:
    """Inputs for one forward pass: the user's, or what the adapter makes up."""
    inputs = example_inputs or model.adapter.example_inputs(model.source)
    if not inputs:
        raise SettingError(
            "to compare two networks their outputs are needed, and this model does not say what shape its inputs have; "
            "pass example inputs behind the graph"
        )
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two networks are from each other.

    Attributes
    ----------
    error : float
        The largest ``|f - f'| / |f|`` of all arrays that they return, over the entries that are finite in both;
        infinity where NaN or an infinity of one is something else in the other.
    tolerance : float
        What rounding may do: the square root of the coarsest dtype's resolution.
    place : str
        Where NaN or an infinity is something else in the other; empty where there is no such place.
    """

    error: float
    tolerance: float
    place: str = ""

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than rounding: the two networks are the same function."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return self.place or f"relative error {self.error:.1e}, allowed {self.tolerance:.1e}"


def compare_functions(
    forward: Forward, params: Mapping[str, Array], other: Mapping[str, Array], inputs: Any
) -> Difference:
    """Compare the outputs of two parameter sets."""
    return compare_outputs(forward(dict(params), inputs), forward(dict(other), inputs), params)


def compare_outputs(before: Any, after: Any, params: Mapping[str, Array]) -> Difference:
    """Compare two nested outputs of networks with parameters such as `params`.

    Entries that are NaN, or the same infinity, in both are equal: a mask of ``-inf`` is no difference.

    Raises
    ------
    ShapeError
        There are no arrays among them, or others.
    NonFiniteError
        No entry is finite, so that nothing can be compared.

    Examples
    --------
    >>> masked = np.array([1.0, -np.inf])
    >>> compare_outputs(masked, masked, {}).error
    0.0
    >>> print(compare_outputs(masked, np.array([1.0, 2.0]), {}))
    entry (1,) is -inf in the one and 2.0 in the other
    """
    xs, dtypes = _on_host(before)
    ys, _ = _on_host(after)
    shapes, others = ([x.shape for x in arrays] for arrays in (xs, ys))
    if not xs or shapes != others:
        raise ShapeError(
            f"expected the same arrays from both networks, got {_listing(shapes)} from the one and {_listing(others)} "
            f"from the other"
        )
    if any(x.size for x in xs) and not any(np.isfinite(x).any() for x in (*xs, *ys)):
        raise NonFiniteError(
            "nothing can be compared: no entry of the outputs is finite; pass inputs on which there are numbers"
        )
    # Weights may be coarser than the outputs, which some networks compute in float32 whatever their weights.
    coarsest = max(resolution(name) for name in {*dtypes, *(get_backend(x).dtype(x) for x in params.values())})
    pairs = list(zip(xs, ys, strict=True))
    places = (_odd_place(x, y, f" of output {i}" if len(xs) > 1 else "") for i, (x, y) in enumerate(pairs))
    place = next(filter(None, places), "")
    error = np.inf if place else max(_relative_error(x, y) for x, y in pairs)
    return Difference(float(error), float(np.sqrt(coarsest)), place)


def _odd_place(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], which: str) -> str:
    """The first place where NaN or an infinity is something else in the other array, in words."""
    odd = ~(np.isfinite(x) & np.isfinite(y)) & ~((x == y) | (np.isnan(x) & np.isnan(y)))
    if not odd.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(odd)[0])
    return f"entry {at}{which} is {x[at]} in the one and {y[at]} in the other"


def _relative_error(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    finite = np.isfinite(x) & np.isfinite(y)
    kind = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
    x, y = x[finite].astype(kind), y[finite].astype(kind)
    # In units of the largest number, so that no square overflows or vanishes.
    unit = float(np.abs(x).max(initial=0.0))
    with np.errstate(over="ignore"):
        if unit == 0:
            return float(np.linalg.norm(y))
        return float(np.linalg.norm(x / unit - y / unit) / np.linalg.norm(x / unit))


def _listing(shapes: list[tuple[int, ...]]) -> str:
    return f"arrays of shapes {', '.join(map(str, shapes))}" if shapes else "0 arrays"


def check_same_function(
    model: Model, params: dict[str, Array], example_inputs: tuple[Any, ...], what: str
) -> float | None:
    """Check that other parameters leave the outputs of a model as they were, where they can be computed.

    Returns
    -------
    float or None
        The relative error; None where there is no way to compute outputs.

    Raises
    ------
    EquivalenceError
        They do not.
    """
    if not model.can_compute or not (example_inputs or model.adapter.example_inputs(model.source)):
        return None
    found = compare_functions(model.forward, model.params, params, gather_inputs(model, example_inputs))
    if not found.is_rounding:
        raise EquivalenceError(
            f"the re-based network is not the same function as {what}: {found}. The graph must be wrong; "
            f"rebasin_core.verify(model, graph, inputs) names the group to blame"
        )
    return found.error


def _on_host(outputs: Any) -> tuple[list[np.ndarray[Any, Any]], set[str]]:
    """Every array of nested outputs as NumPy's, narrow floats that NumPy lacks as float32, and their own dtypes."""
    arrays = [(x, get_backend(x)) for x in leaves(outputs)]
    return [backend.to_numpy(x) for x, backend in arrays], {backend.dtype(x) for x, backend in arrays}


def leaves(outputs: Any) -> Iterator[Array]:
    """Every array of nested outputs."""
    if isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from leaves(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            yield from leaves(value)
    elif hasattr(outputs, "shape"):
        yield outputs


def make_uneven(params: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Multiply constant tensors by random numbers near one, zeros replaced by small ones; signs and positivity stay."""
    changed = {}
    for name, x in params.items():
        backend = get_backend(x)
        values = backend.to_numpy(x)
        if values.size > 1 and values.dtype.kind == "f" and np.ptp(values) == 0:
            base = np.where(values == 0, 0.1, values)
            x = backend.asarray((base * rng.uniform(0.5, 1.5, values.shape)).astype(values.dtype), like=x)
        changed[name] = x
    return changed


def _blame(
    forward: Forward,
    graph: PermutationGraph,
    params: Mapping[str, Array],
    plan: Plan,
    inputs: Any,
    found: Difference,
) -> EquivalenceError:
    """Find what is wrong with the graph: first the groups that break alone, then one axis too many or too few."""

    def breaks(trial: PermutationGraph, group: str) -> bool:
        only = Plan.identity(trial).replace(group, plan[group])
        return not compare_functions(forward, params, only.apply(params, trial), inputs).is_rounding

    head = f"the permuted network is another function: {found}."
    guilty = tuple(group for group in graph.groups if breaks(graph, group))
    if not guilty:
        return EquivalenceError(
            f"{head} No group breaks it alone; look for groups that must be permuted together", tuple(graph.groups)
        )
    group = guilty[0]
    for trial, name, i, verdict in near_graphs(graph, group):
        if not breaks(trial, group):
            return EquivalenceError(
                f"{head} Group {group!r} breaks it: axis {i} of parameter {name!r} {verdict}", guilty, name, i
            )
    places = ", ".join(f"axis {i} of {name!r}" for name, i in graph.occurrences(group))
    return EquivalenceError(
        f"{head} Group {group!r} breaks it alone. It reorders {places}; check whether one of them does not belong, or "
        f'whether one is missing. Keep the group as it is with pin=["{group}"]',
        guilty,
    )


def near_graphs(graph: PermutationGraph, group: str) -> Iterable[tuple[PermutationGraph, str, int, str]]:
    """Graphs that differ in one axis: one occurrence of the group dropped, or one more axis of its size added."""
    if group in graph.parents:
        return
    for name, i in graph.occurrences(group):
        if isinstance(graph.axes[name].axes[i], Group) and len(graph.occurrences(group)) > 1:
            yield with_axis(graph, name, i, Fixed(graph.groups[group])), name, i, f"must not move with {group!r}"
    for name, spec in graph.axes.items():
        for i, axis in enumerate(spec.axes):
            if not AxesSpec.of(axis).groups and graph.shapes[name][i] == graph.groups[group]:
                yield with_axis(graph, name, i, Group(group)), name, i, f"must move with {group!r}; write it there"


def with_axis(graph: PermutationGraph, name: str, i: int, axis: Axis) -> PermutationGraph:
    """Return the graph with another notation for one axis; nothing is checked."""
    axes = list(graph.axes[name].axes)
    axes[i] = axis
    return replace(graph, axes={**graph.axes, name: AxesSpec.of(*axes)})
