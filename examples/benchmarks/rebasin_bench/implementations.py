"""Who computes the operator: ours in every framework, the peers where they compute the same thing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import rebasin_core as rb
from rebasin_bench.operators import OPERATORS, Array, Operator
from rebasin_bench.peers import AUTHORS, OTT, POT, Peers

__all__ = ["PEER_OPERATORS", "Case", "inputs", "ours", "peer_operator"]


@dataclass(frozen=True)
class Case:
    """What is computed: plans of Gaussian logits, and the pullback of a Gaussian cotangent."""

    n: int
    batch: int = 1
    dtype: str = "float32"
    tau: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the logits."""
        return (self.n, self.n) if self.batch == 1 else (self.batch, self.n, self.n)

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number."""
        return float(np.finfo(self.dtype).eps)


def inputs(case: Case) -> tuple[Array, Array]:
    """Logits and cotangent."""
    rng = np.random.default_rng(0)
    X, G = (rng.standard_normal(case.shape).astype(case.dtype) for _ in range(2))
    return X, G


def ours(way: str, case: Case, num_iters: int | None = None, tol: float | None = None) -> Operator:
    """Our operator, one of `OPERATORS`: for so many iterations, or to a marginal error."""
    X, G = inputs(case)
    return OPERATORS[way](lambda x: rb.sinkhorn(x, case.tau, num_iters=num_iters, tol=tol), X, G)


def authors_function(peers: Peers, case: Case, iterations: int, device: str = "cpu") -> Callable[[Any], Any]:
    """The paper's own operator, called as their `RebasinNet` calls it."""
    import torch

    operator = peers.get(AUTHORS).rebasinnet.sinkhorn.Sinkhorn
    ones = torch.ones(case.n, dtype=getattr(torch, case.dtype), device=device)
    return lambda x: operator.apply(-x, ones, ones, iterations, case.tau)


def _authors(peers: Peers, case: Case, iterations: int) -> Operator:
    return OPERATORS["torch"](authors_function(peers, case, iterations), *inputs(case))


def _pot(peers: Peers, case: Case, iterations: int, method: str) -> Operator:
    """POT on torch; its plans have mass 1, ours n. A threshold of zero makes it do all iterations."""
    import torch

    ot = peers.get(POT)
    marginal = torch.full((case.n,), 1.0 / case.n, dtype=getattr(torch, case.dtype))

    def function(x: Any) -> Any:
        plan = ot.sinkhorn(
            marginal, marginal, -x, case.tau, method=method, numItermax=iterations, stopThr=0.0, warn=False
        )
        return plan * case.n

    return OPERATORS["torch"](function, *inputs(case))


def _ott(peers: Peers, case: Case, iterations: int) -> Operator:
    """OTT on JAX, compiled, with its implicit differentiation; its plans have mass 1, ours n."""
    ott = peers.get(OTT)
    solver = ott.solvers.linear.sinkhorn.Sinkhorn(threshold=0.0, min_iterations=iterations, max_iterations=iterations)
    geometry, problem = ott.geometry.geometry.Geometry, ott.problems.linear.linear_problem.LinearProblem

    def function(x: Any) -> Any:
        return solver(problem(geometry(cost_matrix=-x, epsilon=case.tau))).matrix * case.n

    return OPERATORS["jax"](function, *inputs(case))


PEER_OPERATORS: dict[str, Callable[[Peers, Case, int], Operator]] = {
    AUTHORS: _authors,
    f"{POT} log": lambda peers, case, iterations: _pot(peers, case, iterations, "sinkhorn_log"),
    f"{POT} stabilized": lambda peers, case, iterations: _pot(peers, case, iterations, "sinkhorn_stabilized"),
    OTT: _ott,
}


def peer_operator(name: str, peers: Peers, case: Case, iterations: int) -> Operator:
    """A peer's operator after so many plain iterations."""
    return PEER_OPERATORS[name](peers, case, iterations)
