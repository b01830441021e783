"""From a record of operations to a permutation graph. Rooms from `models` upward may import it, and adapters.

A front end calls `Primitives` for every operation of a network, and `build_graph` on the record.
"""

from rebasin_core.inference import composites
from rebasin_core.inference.build import build_graph, in_order
from rebasin_core.inference.primitives import Primitives
from rebasin_core.inference.tensors import Tensor

__all__ = ["Primitives", "Tensor", "build_graph", "composites", "in_order"]
