"""Which solver fits which objective, and what to say when one does not."""

import numpy as np

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError
from rebasin_core.objectives.base import BoundObjective

__all__ = ["check_differentiable", "misfit"]


def misfit(solver: str, needs: str, objective: BoundObjective) -> SettingError:
    """Return the error of a solver that cannot minimize an objective; it names those that can.

    Examples
    --------
    >>> import itertools
    >>> one = lambda: iter([(1.0, None)])
    >>> own = BoundObjective("gap", lambda a, b, sample: 0.0, lambda rng: itertools.repeat(None), one)
    >>> print(misfit("WeightMatching", "a distance of weights", own))
    WeightMatching needs a distance of weights; it cannot minimize 'gap'. Use solvers.Sinkhorn(), solvers.FrankWolfe()
    or solvers.StraightThrough(), which minimize any differentiable objective
    """
    fits = ["solvers.WeightMatching()"] if objective.matches_weights else []
    fits += ["solvers.ActivationMatching()"] if objective.similarity is not None else []
    own = f"{' or '.join(fits)}, which was made for it, or " if fits else ""
    return SettingError(
        f"{solver} needs {needs}; it cannot minimize {objective.name!r}. Use {own}solvers.Sinkhorn(), "
        f"solvers.FrankWolfe() or solvers.StraightThrough(), which minimize any differentiable objective"
    )


def check_differentiable(value: Array, objective: BoundObjective) -> Array:
    """Return what an objective returned, if a gradient can be taken of it.

    Raises
    ------
    SettingError
        It is a plain number, or an array that no gradient goes through.
    """
    if isinstance(value, (int, float, np.ndarray)):
        raise SettingError(
            f"the objective {objective.name!r} has no gradient: it returned a plain {type(value).__name__}, which does "
            f"not depend on the re-based weights. Compute with the framework's functions (for NumPy arrays, "
            f"autograd.numpy), and do not convert to a float. The solvers that need no gradient have objectives of "
            f"their own: solvers.WeightMatching() minimizes objectives.L2() and Cosine(), solvers.ActivationMatching() "
            f"minimizes objectives.Activations(data)"
        )
    return value
