"""Finding the permutation graph of a Functional or Sequential Keras model."""

from . import (
    rules_applications,
    rules_attention,
    rules_convolution,
    rules_layers,
    rules_merging,
    rules_norms,
    rules_ops,
    rules_ops_shapes,
    rules_recurrent,
    rules_shapes,
)
from .call import Call
from .registry import register_rule
from .trace import trace
from .variables import variable_names

__all__ = [
    "Call",
    "register_rule",
    "rules_applications",
    "rules_attention",
    "rules_convolution",
    "rules_layers",
    "rules_merging",
    "rules_norms",
    "rules_ops",
    "rules_ops_shapes",
    "rules_recurrent",
    "rules_shapes",
    "trace",
    "variable_names",
]
