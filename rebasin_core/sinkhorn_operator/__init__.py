"""The Sinkhorn operator and its implicit derivative, in any framework. Rooms from `symmetry` upward may import it.

``operator`` holds the public face, ``arguments`` and ``marginals`` read what comes in; ``plain`` iterates a fixed
number of times, ``accelerated`` to a tolerance; ``laplacian`` solves the linear systems that the Newton steps and the
derivative need; ``implicit`` is the derivative. The room is not called `sinkhorn`, which is the function.
"""

from rebasin_core.sinkhorn_operator.marginals import marginal_error
from rebasin_core.sinkhorn_operator.operator import SinkhornInfo, sinkhorn

__all__ = ["SinkhornInfo", "marginal_error", "sinkhorn"]
