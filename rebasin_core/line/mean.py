"""The one mean of networks, the straight line between two of them, and what each of them counts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_inexact, widened
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError

__all__ = ["as_place", "as_shares", "between", "lerp", "mean", "steps"]


def as_shares(t: Any, weights: Sequence[Any] | None, count: int) -> tuple[float, ...]:
    """Read what each of several networks counts, as shares that sum to 1.

    Parameters
    ----------
    t : float or None
        A place on the line between two networks: 0 is the first, 1 the second; values outside extrapolate.
    weights : sequence of float or None
        A positive number per network; they are divided by their sum. Neither this nor `t`: all networks count alike.
    count : int
        How many networks there are.

    Raises
    ------
    SettingError
        Both came, `t` is no finite number or there are not two networks, or the weights are not `count` positive ones.

    Examples
    --------
    >>> as_shares(0.25, None, 2), as_shares(None, [2, 1, 1], 3), as_shares(None, None, 2)
    ((0.75, 0.25), (0.5, 0.25, 0.25), (0.5, 0.5))
    """
    if t is not None and weights is not None:
        raise SettingError(f"expected t or weights, got both ({t!r}, {weights!r}); t=0.3 is weights=[0.7, 0.3]")
    if t is not None:
        if count != 2:
            raise SettingError(f"t is a place on the line between two models, and there are {count}; pass weights=")
        place = as_place(t)
        return 1.0 - place, place
    if weights is None:
        return (1.0 / count,) * count
    try:
        given = [float(w) for w in weights]
    except (TypeError, ValueError):
        given = []
    if len(given) != count or not all(w > 0 for w in given) or not math.isfinite(sum(given)):
        raise SettingError(f"expected weights as {count} positive numbers, one per model, got {weights!r}")
    return tuple(w / sum(given) for w in given)


def as_place(t: Any) -> float:
    """Read a place on the line, a finite number."""
    try:
        place = math.nan if isinstance(t, str) else float(t)
    except (TypeError, ValueError):
        place = math.nan
    if not math.isfinite(place):
        raise SettingError(f"expected t as a finite number, 0 for model A and 1 for model B, got {t!r}")
    return place


def mean(networks: Sequence[Mapping[str, Array]], shares: Sequence[float]) -> dict[str, Array]:
    """Weighted mean of the parameters of networks of one architecture.

    Values that agree in all networks come out bit by bit as they are, in every dtype, and so does a network whose share
    is 1. Where no share is negative, the mean of numbers lies between the smallest and the largest of them. Narrow
    dtypes are added up in float32.

    Parameters
    ----------
    networks : sequence of mappings of str to array
        Their arrays, of any framework. Those that have no mean (see `is_inexact`) are taken from the first.
    shares : sequence of float
        What each counts; they sum to 1. See `as_shares`.

    Returns
    -------
    dict of str to array
        In the dtypes of the first network. Arrays of a network whose share is 1 are not copied.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = {"w": np.array([1.0, 3.0]), "steps": np.array(7)}, {"w": np.array([2.0, 3.0]), "steps": np.array(9)}
    >>> mean([a, b], (0.75, 0.25))
    {'w': array([1.25, 3.  ]), 'steps': array(7)}
    """
    return {
        name: _mean_array([network[name] for network in networks], shares) if is_inexact(get_backend(x).dtype(x)) else x
        for name, x in networks[0].items()
    }


def _mean_array(arrays: Sequence[Array], shares: Sequence[float]) -> Array:
    order = list(steps(shares))
    start = arrays[order[0][0]]
    if len(order) == 1:
        return start
    backend = get_backend(start)
    total = first = widened(backend, start)
    same = first == first  # all of them: whether the networks so far agree
    for i, step in order[1:]:
        x = widened(backend, arrays[i])
        same, total = same & (x == first), between(total, x, step)
    # Some frameworks take numbers below the normal ones for zero in all arithmetic, but not where they only choose.
    return backend.astype(backend.where(same, first, total), backend.dtype(start))


def steps(shares: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield which network comes next in a running mean, and how far to go from the mean so far towards it.

    Networks that do not count are left out; the first step is 1.

    Examples
    --------
    >>> list(steps([0.5, 0.0, 0.25, 0.25]))
    [(0, 1.0), (2, 0.3333333333333333), (3, 0.25)]
    """
    *before, last = [i for i, share in enumerate(shares) if share != 0]
    total = 0.0
    for i in before:
        total += shares[i]
        yield i, shares[i] / total
    yield last, shares[last]


def between(x: Array, y: Array, t: float) -> Array:
    """Return the place t of the line from `x` to `y`, arrays of a dtype that is not narrow.

    From the nearer end, by a difference of scaled values: it is exactly 0 where both ends agree, and neither the
    difference nor the sum overflows between them.
    """
    if t > 0.5:
        x, y, t = y, x, 1.0 - t
    return x - (t * x - t * y)


def lerp(params_a: Mapping[str, Array], params_b: Mapping[str, Array], t: Any) -> dict[str, Array]:
    """Parameters at ``(1 - t) A + t B`` to differentiate: every entry depends on both ends, at every place.

    What is not differentiated is `mean`, which rounds less. Narrow dtypes are computed in float32.

    Parameters
    ----------
    params_a, params_b : mapping of str to array
        Two networks of one architecture, of any framework. Arrays that have no mean (`is_inexact`) are those of A.
    t : float or array of one entry
        Place on the line, dimensionless: 0 is A, 1 is B. The framework may be tracing it.
    """
    found = {}
    for name, a in params_a.items():
        backend = get_backend(a)
        dtype = backend.dtype(a)
        if not is_inexact(dtype):
            found[name] = a
            continue
        wide_a, wide_b = widened(backend, a), widened(backend, params_b[name])
        # Arrays of two dtypes do not mix in every framework; Python's numbers take the dtype of the array they meet.
        place = t if isinstance(t, (int, float)) else backend.astype(t, backend.dtype(wide_a))
        total = (1.0 - place) * wide_a + place * wide_b
        # A weight that is mixed only when it is used stays so: nothing is asked of it that it need not be.
        found[name] = total if wide_a is a else backend.astype(total, dtype)
    return found
