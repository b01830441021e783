"""Linear assignment: the hard permutation nearest to a matrix of scores."""

from typing import Any

import numpy as np

from rebasin_core.errors import NonFiniteError, ShapeError

__all__ = ["linear_assignment"]


def linear_assignment(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Permutation that maximises ``sum_i scores[i, perm[i]]``.

    Parameters
    ----------
    scores : ndarray, shape (n, n) or (batch, n, n)
        Similarity of place ``i`` to unit ``j``; a doubly stochastic matrix, for instance.

    Returns
    -------
    ndarray of int64, shape (n,) or (batch, n)
        Index vectors, such that ``np.eye(n)[perm]`` is the permutation matrix.

    Raises
    ------
    ShapeError
        The last two axes differ in length.
    NonFiniteError
        A score is NaN or infinite.

    Notes
    -----
    Exact, by the shortest augmenting paths of `scipy.optimize.linear_sum_assignment`; O(n^3) at worst.

    Examples
    --------
    >>> linear_assignment(np.array([[0.1, 0.9], [0.8, 0.2]]))
    array([1, 0])
    """
    if scores.ndim not in (2, 3) or scores.shape[-1] != scores.shape[-2]:
        raise ShapeError(
            f"a permutation needs a square matrix of scores, (n, n) or (batch, n, n); got shape {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise NonFiniteError("the scores to assign by hold NaN or infinity; check the weights they were computed from")
    # Imported when first needed: it takes longer than the rest of the library.
    from scipy.optimize import linear_sum_assignment

    if scores.ndim == 3:
        return np.stack([linear_assignment(s) for s in scores])
    return np.asarray(linear_sum_assignment(scores, maximize=True)[1], dtype=np.int64)
