"""A plan that is learned: logits, one matrix per group, and the two plans they stand for.

The re-basin networks of the adapters (``rebasin_torch.RebasinNet``, ``rebasin_keras.RebasinModel``) are this and a
module of their framework.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import PlanError, SpecError
from rebasin_core.support.settings import at_least, not_negative, positive
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan, check_fits
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["LearnedPlan", "assign", "check_graph", "initial_logits"]


class LearnedPlan:
    """What the re-basin networks of all frameworks have in common, given logits and the arrays of a network.

    A subclass sets the attributes and says where its arrays are, in `_logit_values` and `_original`. `tau` and
    `num_iters` may be changed between calls.
    """

    graph: PermutationGraph
    tau: float
    num_iters: int

    def _logit_values(self) -> Mapping[str, Array]:
        """Return the logits as arrays of the framework, by group."""
        raise NotImplementedError

    def _original(self) -> dict[str, Array]:
        """Return the network's arrays as the graph names them, not re-based."""
        raise NotImplementedError

    def soft_plan(self) -> SoftPlan:
        """Return the doubly stochastic matrices ``S_tau(logits)``, differentiable."""
        return SoftPlan.from_logits(self._logit_values(), self.graph.parents, self.tau, self.num_iters)

    def soft_parameters(self) -> dict[str, Any]:
        """Return the network's arrays, buffers too, mixed by the soft plan (Eq. 6); differentiable in the logits."""
        return self.soft_plan().apply(self._original(), self.graph)

    def plan(self) -> Plan:
        """Return the nearest hard plan: a linear assignment on the logits of every group."""
        hard = {group: assign(get_backend(x).to_numpy(x)) for group, x in self._logit_values().items()}
        return Plan(hard, self.graph.parents)


def assign(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the index vector of the hard plan nearest to the logits of a group."""
    return linear_assignment(np.asarray(logits, dtype=np.float64))


def check_graph(graph: Any, params: Mapping[str, Array], example: str) -> None:
    """Raise `SpecError` or `ShapeError` unless a plan for these parameters can be learned.

    `example` is the call that makes a graph, for the message.
    """
    if not isinstance(graph, PermutationGraph):
        raise SpecError(
            f"expected a PermutationGraph, got {type(graph).__name__}; make one with rebasin_core.{example}"
        )
    graph.check_params(params, "the model")
    if not graph.groups:
        raise SpecError("the graph has no permutation group: there is nothing to learn")


def initial_logits(
    graph: PermutationGraph,
    params: Mapping[str, Array],
    tau: float,
    num_iters: int,
    init: Plan | None,
    init_scale: float,
) -> dict[str, np.ndarray[Any, Any]]:
    """Check the settings of a plan to learn, and return the logits it starts from.

    Parameters
    ----------
    graph : PermutationGraph
        What may be permuted.
    params : mapping of str to array
        The network's arrays; the logits have the dtype of those that move, but at least float32.
    tau, num_iters
        Temperature and iterations of the Sinkhorn operator.
    init : Plan or None
        Where to start; None for the identity.
    init_scale : float
        Height of the logits on that plan, in units of `tau`.

    Returns
    -------
    dict of str to ndarray, shape (n, n) or (parent, n, n)
        By group; `assign` gives `init` back.

    Raises
    ------
    SettingError, PlanError
        A setting is out of range, or `init` is no plan for this graph.

    Examples
    --------
    >>> params = {"w": np.ones((2, 1), np.float32)}
    >>> graph = PermutationGraph.from_axes({"w": "h ."}, params)
    >>> initial_logits(graph, params, tau=2.0, num_iters=20, init=Plan({"h": [1, 0]}), init_scale=0.5)["h"]
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    positive(tau=tau)
    not_negative(init_scale=init_scale)
    at_least(1, num_iters=num_iters)
    if init is not None and not isinstance(init, Plan):
        raise PlanError(f"expected init as a Plan, got {type(init).__name__}; make one with Plan(...) or .harden()")
    start = Plan.identity(graph) if init is None else init
    check_fits(start, graph)
    moving = {get_backend(x).dtype(x) for name, x in params.items() if graph.axes[name].groups}
    dtype = np.float64 if "float64" in moving else np.float32
    return {
        group: (float(init_scale) * float(tau) * np.eye(perm.shape[-1])[perm]).astype(dtype)
        for group, perm in start.items()
    }
