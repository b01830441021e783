"""One alignment to solve: two sets of parameters, the graph, and what to minimise."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.backends.scalars import as_number
from rebasin_core.errors import NonFiniteError, UnsupportedArrayError
from rebasin_core.objectives.base import BoundObjective, Params, Sample
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan, mix_when_used

__all__ = ["Problem", "check_floating"]


def check_floating(name: str, dtype: DtypeName) -> None:
    """Raise `UnsupportedArrayError` for a parameter that is to move and holds whole numbers."""
    if "float" not in dtype:
        raise UnsupportedArrayError(
            f"parameter {name!r} is of dtype {dtype}; weights that move must be floating point. Convert them, or name "
            f"it among the buffers of the graph if it is not learned"
        )


@dataclass(frozen=True)
class Problem:
    """What a solver is given.

    Attributes
    ----------
    graph : PermutationGraph
        What may be permuted.
    params_a, params_b : dict of str to array
        The fixed network and the one to re-base.
    objective : BoundObjective
        What to minimise.
    seed : int
        Of every random choice.
    """

    graph: PermutationGraph
    params_a: Params
    params_b: Params
    objective: BoundObjective
    seed: int = 0
    _last: list[tuple[Plan, Params]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def backend(self) -> Backend:
        """The backend of the parameters."""
        return get_backend(*self.params_a.values())

    def rng(self) -> np.random.Generator:
        """Return a fresh generator; the same one each time."""
        return np.random.default_rng(self.seed)

    def __post_init__(self) -> None:
        for name in self.learned:
            check_floating(name, self.backend.dtype(self.params_b[name]))

    @property
    def learned(self) -> list[str]:
        """Names of the learned parameters that the plan moves."""
        return [name for name in self.graph.learned if self.graph.axes[name].groups]

    @property
    def size(self) -> int:
        """How many numbers the learned parameters hold that the plan moves."""
        return sum(math.prod(self.graph.shapes[name]) for name in self.learned)

    @property
    def like(self) -> Array:
        """A parameter that moves, whose dtype and device a plan's matrices have; any, where none moves."""
        return self.params_b[(self.learned or list(self.params_b))[0]]

    @cached_property
    def initial(self) -> float:
        """Objective of the identity: what every search starts from and is compared with."""
        return self.judge(Plan.identity(self.graph))

    def rebased(self, plan: Plan) -> Params:
        """Parameters of B after a hard plan.

        Where nothing but weights is compared, those of the last plan are kept: it is mostly the one that is returned.
        With a loss, the memory is better left to its gradients.
        """
        for last, rebased in self._last:
            if last == plan:
                return rebased
        self._last.clear()
        rebased = plan.apply(self.params_b, self.graph)
        if self.objective.matches_weights:
            self._last.append((plan, rebased))
        return rebased

    def judge(self, plan: Plan) -> float:
        """Objective of a hard plan, the mean over the fixed evaluation set.

        Raises
        ------
        NonFiniteError, ShapeError, UnsupportedArrayError
            The objective returned NaN, infinity, or no scalar.
        """
        rebased = self.rebased(plan)
        total = weight = 0.0
        for w, sample in self.objective.evaluation():
            total += w * self._finite(self.objective.value(self.params_a, rebased, sample))
            weight += w
        return total / weight

    def soft_value(self, soft: SoftPlan, sample: Sample) -> Array:
        """Objective of a soft plan on one sample; differentiable in the plan."""
        mix = mix_when_used if self.objective.computes_once else SoftPlan.apply
        rebased = mix(soft, self.params_b, self.graph)
        return self.objective.value(self.params_a, rebased, sample)

    def _finite(self, value: Array) -> float:
        number = as_number(value, f"the objective {self.objective.name!r}")
        if not math.isfinite(number):
            raise NonFiniteError(
                f"the objective {self.objective.name!r} is {number} for a hard permutation; check the loss and the data"
            )
        return number
