"""Finding the permutation graph of a Functional or Sequential Keras model."""

from rebasin_keras.tracing import (
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
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.model import trace
from rebasin_keras.tracing.registry import register_rule
from rebasin_keras.tracing.variables import variable_names

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
