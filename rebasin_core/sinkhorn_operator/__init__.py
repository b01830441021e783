"""The Sinkhorn operator and its implicit derivative, in any framework. Rooms from `symmetry` upward may import it.

``operator`` holds the public face; ``plain`` iterates a fixed number of times, ``accelerated`` to a tolerance;
``laplacian`` solves the linear systems both the Newton steps and the derivative need; ``implicit`` is the derivative.
"""

from rebasin_core.sinkhorn_operator.kernel import marginal_error
from rebasin_core.sinkhorn_operator.operator import sinkhorn

__all__ = ["marginal_error", "sinkhorn"]
