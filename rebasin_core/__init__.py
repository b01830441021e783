"""Align, merge and continue neural networks modulo their permutation symmetries, in any framework."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rebasin_core import errors, objectives, optimizers, solvers
from rebasin_core.align import Alignment, align, permutation_graph, permute
from rebasin_core.axes import AxesSpec
from rebasin_core.backends import get_backend, register_backend
from rebasin_core.connectivity import Curve, connectivity, interpolate
from rebasin_core.errors import (
    ConvergenceWarning,
    EquivalenceError,
    RebasinError,
    ShapeError,
    SpecError,
    UnsupportedModelError,
)
from rebasin_core.graph import PermutationGraph
from rebasin_core.merging import MultiAlignment, align_many, merge
from rebasin_core.models import register_adapter
from rebasin_core.plan import Plan
from rebasin_core.reestimation import reestimate
from rebasin_core.repairing import repair
from rebasin_core.sinkhorn import sinkhorn
from rebasin_core.soft_plan import SoftPlan
from rebasin_core.verify import Verification, verify

if TYPE_CHECKING:
    from rebasin_core import layers
    from rebasin_core.continual import RebasinIncremental

try:
    __version__ = version("rebasin-core")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Alignment",
    "AxesSpec",
    "ConvergenceWarning",
    "Curve",
    "EquivalenceError",
    "MultiAlignment",
    "PermutationGraph",
    "Plan",
    "RebasinError",
    "RebasinIncremental",
    "ShapeError",
    "SoftPlan",
    "SpecError",
    "UnsupportedModelError",
    "Verification",
    "__version__",
    "align",
    "align_many",
    "connectivity",
    "errors",
    "get_backend",
    "interpolate",
    "layers",
    "merge",
    "objectives",
    "optimizers",
    "permutation_graph",
    "permute",
    "reestimate",
    "register_adapter",
    "register_backend",
    "repair",
    "sinkhorn",
    "solvers",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load what few programs need when first asked for: `layers` brings the inference, `testing` Hypothesis."""
    if name in ("layers", "testing"):
        return import_module(f"rebasin_core.{name}")
    if name == "RebasinIncremental":
        return import_module("rebasin_core.continual").RebasinIncremental
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
