"""Finding the permutation graph of a ``torch.nn.Module``."""

from rebasin_torch.tracing import rules_layers, rules_math, rules_shapes
from rebasin_torch.tracing.module import trace
from rebasin_torch.tracing.registry import Call, register_rule

__all__ = ["Call", "register_rule", "rules_layers", "rules_math", "rules_shapes", "trace"]
