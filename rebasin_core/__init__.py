"""Align, merge and continue neural networks modulo their permutation symmetries, in any framework."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rebasin_core import errors, objectives, solvers
from rebasin_core.alignment import Alignment, align, permutation_graph, permute
from rebasin_core.backends import get_backend, optimizers, register_backend
from rebasin_core.errors import (
    CheckpointError,
    ConvergenceWarning,
    DataError,
    EquivalenceError,
    LawError,
    NonFiniteError,
    PlanError,
    RebasinError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
    UnsupportedModelError,
)
from rebasin_core.line.curve import Curve, connectivity, interpolate
from rebasin_core.line.reestimation import reestimate
from rebasin_core.line.repairing import repair
from rebasin_core.merging import MultiAlignment, align_many, merge
from rebasin_core.models.model import register_adapter
from rebasin_core.sinkhorn_operator import SinkhornInfo, sinkhorn
from rebasin_core.symmetry.axes import AxesSpec
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan
from rebasin_core.verification import Verification, verify

if TYPE_CHECKING:
    from rebasin_core.continual import RebasinIncremental
    from rebasin_core.inference import layers

try:
    __version__ = version("rebasin-core")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Alignment",
    "AxesSpec",
    "CheckpointError",
    "ConvergenceWarning",
    "Curve",
    "DataError",
    "EquivalenceError",
    "LawError",
    "MultiAlignment",
    "NonFiniteError",
    "PermutationGraph",
    "Plan",
    "PlanError",
    "RebasinError",
    "RebasinIncremental",
    "SettingError",
    "ShapeError",
    "SinkhornInfo",
    "SoftPlan",
    "SpecError",
    "UnsupportedArrayError",
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


# What few programs need is loaded when first asked for: `layers` brings the inference, `testing` Hypothesis.
_LATER = {
    "layers": "rebasin_core.inference.layers",
    "testing": "rebasin_core.testing",
    "RebasinIncremental": "rebasin_core.continual",
}


def _read_layers(layers: Sequence[Any], params: Mapping[str, Any], pin: Iterable[str]) -> PermutationGraph:
    graph: PermutationGraph = import_module(_LATER["layers"]).graph_from_layers(layers, params, pin=pin)
    return graph


PermutationGraph._read_layers = staticmethod(_read_layers)


def __getattr__(name: str) -> Any:
    """Load what few programs need when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    """Return the public names, those loaded later among them."""
    return sorted({*globals(), *__all__, *_LATER})
