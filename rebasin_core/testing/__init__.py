"""Tests for users: strategies, and checks of networks, backends and adapters. Programs may import it.

Needs Hypothesis (``pip install "rebasin-core[testing]"``), and no test runner in particular: a check raises an
`AssertionError` that says what is wrong. The library's own backends, adapters and inference are tested through the same
door.
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'rebasin_core.testing needs Hypothesis; install it with: pip install "rebasin-core[testing]"', name="hypothesis"
    ) from error

from rebasin_core.testing.adapters import check_adapter
from rebasin_core.testing.backends import check_backend
from rebasin_core.testing.equivalence import check_equivalent
from rebasin_core.testing.networks import LayerGraph, layer_graphs
from rebasin_core.testing.notation import axes_specs
from rebasin_core.testing.strategies import logits, mlp_params, permutations, plans

__all__ = [
    "LayerGraph",
    "axes_specs",
    "check_adapter",
    "check_backend",
    "check_equivalent",
    "layer_graphs",
    "logits",
    "mlp_params",
    "permutations",
    "plans",
]
