"""The Sinkhorn operator: from logits to doubly stochastic matrices, differentiable in any framework.

``operator`` holds the public face; ``plain`` iterates a fixed number of times, ``accelerated`` to a tolerance;
``laplacian`` solves the linear systems both the Newton steps and the derivative need; ``implicit`` is the derivative.
"""

from rebasin_core.sinkhorn.kernel import marginal_error
from rebasin_core.sinkhorn.operator import sinkhorn

__all__ = ["marginal_error", "sinkhorn"]
