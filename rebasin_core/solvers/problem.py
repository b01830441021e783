"""One alignment to solve: two sets of parameters, the graph, what to minimize, where to start and when to stop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.backends.scalars import as_number
from rebasin_core.errors import NonFiniteError, PlanError, UnsupportedArrayError
from rebasin_core.objectives.base import BoundObjective, Params, Sample
from rebasin_core.solvers.base import HistoryEntry
from rebasin_core.solvers.lazy import LazyParams
from rebasin_core.solvers.watch import Watch
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan, check_fits
from rebasin_core.symmetry.soft_plan import SoftPlan, mix_when_used

__all__ = ["Problem", "check_floating"]


def check_floating(name: str, dtype: DtypeName) -> None:
    """Raise `UnsupportedArrayError` for a parameter that is to move and holds whole numbers."""
    if not is_floating(dtype):
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
    params_a, params_b : dict of str to array, or LazyParams
        The fixed network and the one to re-base.
    objective : BoundObjective
        What to minimize.
    seed : int
        Of every random choice.
    start : Plan, optional
        Where to begin; what is found is never worse.
    callback : callable, optional
        ``callback(entry)``, called with every `HistoryEntry`; it ends the search by returning True.
    watch : Watch
        When to end.

    Raises
    ------
    PlanError
        `start` is no plan for this graph.
    UnsupportedArrayError
        A parameter that is to move holds whole numbers.
    """

    graph: PermutationGraph
    params_a: Params
    params_b: Params
    objective: BoundObjective
    seed: int = 0
    start: Plan | None = None
    callback: Callable[[HistoryEntry], Any] | None = None
    watch: Watch = field(default_factory=Watch, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.start is not None:
            if not isinstance(self.start, Plan):
                raise PlanError(
                    f"expected start as a Plan, such as the plan of an earlier alignment, got "
                    f"{type(self.start).__name__}"
                )
            check_fits(self.start, self.graph)
        # Of parameters that are read one by one, whoever reads them knows the dtypes without reading.
        if not isinstance(self.params_b, LazyParams):
            for name in self.learned:
                check_floating(name, self.backend.dtype(self.params_b[name]))

    @cached_property
    def backend(self) -> Backend:
        """The backend of the parameters."""
        lazy = isinstance(self.params_a, LazyParams)
        return get_backend(np.empty(0)) if lazy else get_backend(*self.params_a.values())

    def rng(self) -> np.random.Generator:
        """Return a fresh generator; the same one each time."""
        return np.random.default_rng(self.seed)

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
        """Objective of the identity, which every result is compared with."""
        return self.judge(Plan.identity(self.graph))

    def rebased(self, plan: Plan) -> Params:
        """Parameters of B after a hard plan."""
        if isinstance(self.params_b, LazyParams):
            return cast(Params, self.params_b.at(plan))
        return plan.apply(self.params_b, self.graph)

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
