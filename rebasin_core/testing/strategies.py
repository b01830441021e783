"""Hypothesis strategies for permutations, plans, weights and logits. Everything shrinks towards what is plain."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["logits", "mlp_params", "permutations", "plans", "seeds"]

Vector = np.ndarray[Any, Any]

# Beyond this many units, a draw per unit would exceed what Hypothesis lets one example use.
_MOST_DRAWN = 24


def seeds() -> SearchStrategy[int]:
    """Seeds of ``numpy.random.default_rng``: where the numbers in an array matter less than its shape."""
    return st.integers(0, 2**32 - 1)


def permutations(n: int) -> SearchStrategy[Vector]:
    """Index vectors of ``n`` units, int64; they shrink towards the identity.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(permutations(5))
    ... def test_sorting_undoes_it(perm):
    ...     assert sorted(perm.tolist()) == list(range(5))
    >>> test_sorting_undoes_it()
    """
    at_least(0, n=n)
    if n <= _MOST_DRAWN:
        return st.permutations(range(n)).map(lambda order: np.array(order, dtype=np.int64))
    return _shuffled(n)


@st.composite
def _shuffled(draw: DrawFn, n: int) -> Vector:
    """Move all units, in any order, or some of them, in a circle; fewer are simpler, none is the identity."""
    count, rng = draw(st.integers(0, n)), np.random.default_rng(draw(seeds()))
    perm, order = np.arange(n, dtype=np.int64), rng.permutation(n)
    if count == n:
        return order
    perm[order[:count]] = np.roll(order[:count], 1)
    return perm


def plans(graph: PermutationGraph) -> SearchStrategy[Plan]:
    """Plans for a graph: an order of every group, and for a local group one per place of its parent.

    Examples
    --------
    >>> from hypothesis import given
    >>> graph = PermutationGraph.from_axes({"v": "h", "w": "(h d[h])"}, {"v": np.zeros(2), "w": np.zeros(6)})
    >>> @given(plans(graph))
    ... def test_the_inverse_undoes_it(plan):
    ...     assert plan.compose(plan.inverse()).is_identity
    >>> test_the_inverse_undoes_it()
    """

    def orders(group: str) -> SearchStrategy[Vector]:
        order = permutations(graph.groups[group])
        if group not in graph.parents:
            return order
        places = graph.groups[graph.parents[group]]
        return st.lists(order, min_size=places, max_size=places).map(np.stack)

    drawn = st.fixed_dictionaries({group: orders(group) for group in graph.groups})
    return drawn.map(lambda found: Plan(found, graph.parents))


@st.composite
def mlp_params(
    draw: DrawFn,
    widths: Sequence[int] | None = None,
    *,
    max_layers: int = 4,
    max_width: int = 6,
    bias: bool | None = None,
    dtype: str = "float64",
) -> dict[str, Vector]:
    """Parameters of a multi-layer perceptron: ``fc1.weight`` (units, inputs), ``fc1.bias``, ``fc2.weight`` and so on.

    Parameters
    ----------
    draw : callable
        Given by Hypothesis; leave it out.
    widths : sequence of int, optional
        Inputs, hidden layers, outputs; default: drawn.
    max_layers, max_width : int
        Bounds of what is drawn.
    bias : bool, optional
        Whether there are biases; default: drawn.
    dtype : str
        Of all arrays.

    Examples
    --------
    >>> from hypothesis import given
    >>> import rebasin_core as rb
    >>> @given(mlp_params([3, 8, 2], bias=False))
    ... def test_one_hidden_layer_is_one_group(params):
    ...     layers = [rb.layers.Dense("fc1"), rb.layers.Activation(), rb.layers.Dense("fc2")]
    ...     assert rb.PermutationGraph.from_layers(layers, params).groups == {"fc1": 8}
    >>> test_one_hidden_layer_is_one_group()
    """
    at_least(1, max_layers=max_layers, max_width=max_width)
    if widths is None:
        widths = draw(st.lists(st.integers(1, max_width), min_size=2, max_size=max_layers + 1))
    biased = draw(st.booleans()) if bias is None else bias
    rng = np.random.default_rng(draw(seeds()))
    params: dict[str, Vector] = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        params[f"fc{i}.weight"] = (rng.normal(size=(outputs, inputs)) / np.sqrt(inputs)).astype(dtype)
        if biased:
            params[f"fc{i}.bias"] = rng.normal(size=outputs).astype(dtype)
    return params


@st.composite
def logits(draw: DrawFn, n: int, *, batch: Sequence[int] = (), dtype: str = "float64") -> Vector:
    """Logits of a Sinkhorn operator, shape ``(*batch, n, n)``: flat, tied, Gaussian, nearly hard; small and large.

    Examples
    --------
    >>> from hypothesis import given
    >>> import rebasin_core as rb
    >>> @given(logits(4, batch=[2]))
    ... def test_columns_sum_to_one(x):
    ...     assert np.allclose(rb.sinkhorn(x, tol=1e-9).sum(-2), 1.0, atol=1e-6)
    >>> test_columns_sum_to_one()
    """
    at_least(1, n=n)
    shape = (*batch, n, n)
    kind = draw(st.sampled_from(["flat", "tied", "gaussian", "nearly hard"]))
    scale = draw(st.sampled_from([1.0, 0.01, 10.0, 100.0]))
    rng = np.random.default_rng(draw(seeds()))
    match kind:
        case "flat":
            x = np.full(shape, draw(st.sampled_from([0.0, 1.0, -1.0])))
        case "tied":
            x = rng.integers(-1, 2, size=shape).astype(np.float64)
        case "gaussian":
            x = rng.normal(size=shape)
        case _:
            orders = rng.permuted(np.broadcast_to(np.arange(n), shape[:-1]), axis=-1)
            x = np.eye(n)[orders] + 0.01 * rng.normal(size=shape)
    return (scale * x).astype(dtype)
