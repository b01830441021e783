"""Whether two operators computed the same thing: checked before anything is timed."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rebasin_bench.implementations import Case
from rebasin_bench.operators import Array

__all__ = ["Outcome", "agree", "marginal_error"]

_LOOSEST = 0.5  # a tolerance above it would accept anything


@dataclass(frozen=True)
class Outcome:
    """What an operator returned, in NumPy: the plan, and the gradient or the reason why there is none."""

    plan: Array
    gradient: Array | str

    @property
    def error(self) -> float:
        """Marginal error reached."""
        return marginal_error(self.plan)


def marginal_error(plan: Any) -> float:
    """Largest ``|sum - 1|`` over rows and columns, summed in float64: one function for everybody."""
    P = np.asarray(plan, dtype=np.float64)
    return float(max(np.abs(P.sum(axis) - 1.0).max() for axis in (-1, -2)))


def agree(case: Case, mine: Outcome, theirs: Outcome, same_iterations: bool) -> tuple[dict[str, float], dict[str, str]]:
    """Compare two outcomes.

    Two operators that did the same iterations must agree to rounding. Two that stopped by themselves may be as far
    apart as a small multiple of their marginal errors, and ours must have reached an error at least as low, or that of
    rounding.

    Returns
    -------
    figures : dict
        The errors and differences.
    objections : dict
        By mode, why the two do not agree; a mode that is not named is agreed on.
    """
    errors = mine.error, theirs.error
    slack = 0.0 if same_iterations else 4.0 * (errors[0] + errors[1])
    rounding = case.eps * (1.0 + float(8.0 / case.tau))
    tolerance = 16.0 * rounding + slack
    difference = float(np.abs(mine.plan - theirs.plan).max())
    figures = {"our error": errors[0], "their error": errors[1], "plans differ by": difference}
    objections: dict[str, str] = {}
    objection = ""
    if not same_iterations and not tolerance <= _LOOSEST:
        objection = f"not converged: marginal errors {errors[0]:.0e} of ours, {errors[1]:.0e} of theirs"
    elif not difference <= tolerance:
        objection = f"plans differ by {difference:.0e}, allowed {tolerance:.0e}"
    elif not same_iterations and not errors[0] <= max(errors[1], 32.0 * case.eps):
        objection = f"our marginal error {errors[0]:.0e} is above theirs, {errors[1]:.0e}"
    if objection:
        return figures, dict.fromkeys(("forward", "backward", "both"), objection)
    if isinstance(mine.gradient, str) or isinstance(theirs.gradient, str):
        who, gradient = ("ours", mine.gradient) if isinstance(mine.gradient, str) else ("theirs", theirs.gradient)
        return figures, dict.fromkeys(("backward", "both"), f"no gradient of {who}: {gradient}")
    size = max(float(np.linalg.norm(mine.gradient)), float(np.linalg.norm(theirs.gradient)))
    relative = float(np.linalg.norm(mine.gradient - theirs.gradient)) / size if size else 0.0
    figures["gradients differ by"] = relative
    tolerance = min(64.0 * np.sqrt(case.n) * rounding + slack, _LOOSEST)
    if not relative <= tolerance:
        objections = dict.fromkeys(("backward", "both"), f"gradients differ by {relative:.0e}, allowed {tolerance:.0e}")
    return figures, objections
