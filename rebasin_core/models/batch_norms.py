"""Batch normalization as the core sees it: layers that can normalize by the batch instead of their running statistics.

Why it matters: half way between two networks, the units of a layer are averages of units that agree in part only, so
that their variance collapses, while the running statistics, interpolated like weights, promise the variance of the
ends. Each layer then shrinks what it hands on, and a deep network says next to nothing. There are two remedies, both
built on what an adapter tells here: the re-estimated statistics (`rebasin_core.reestimate`), and, where a gradient is
to flow, the forward pass that normalizes by the batch (`forward_with`).

References
----------
.. [1] K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted Activations for
   Interpolation Repair. ICLR 2023. arXiv:2211.08403
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import Model

__all__ = ["BatchNorms", "HasBatchNorms", "Measure", "find_batch_norms", "forward_with"]

Measure = Callable[[dict[str, Array], Any], dict[str, Array]]
"""``measure(params, inputs) -> statistics``, by the names of the parameters that hold them."""


@dataclass(frozen=True)
class BatchNorms:
    """The batch normalization layers of a model that keep running statistics, as its adapter returns them.

    Attributes
    ----------
    forward : callable
        ``forward(params, inputs) -> outputs``, differentiable in the parameters. These layers normalize by mean and
        variance of the batch, everything else is in inference mode, and nothing is written anywhere.
    measure : callable
        ``measure(params, inputs)``: per running statistic its value on this batch in such a pass, at least in float32;
        of a layer that is called several times, the mean over its calls. Integers are counts, which add up.
    """

    forward: Forward
    measure: Measure


@runtime_checkable
class HasBatchNorms(Protocol):
    """The ability of an adapter whose models may have batch normalization."""

    def batch_norms(self, model: Any) -> BatchNorms | None:
        """Return the layers that keep running statistics, or None where the model has none."""
        ...


def find_batch_norms(model: Model) -> BatchNorms | None:
    """Ask the adapter for the batch normalization layers; None where the model has none with running statistics.

    Raises
    ------
    SpecError
        The model is a mapping of arrays, or computes by a function of the user's: neither says what is a statistic.
    """
    model.check_layers("which arrays are running statistics of batch normalization")
    return model.adapter.batch_norms(model.source) if isinstance(model.adapter, HasBatchNorms) else None


def forward_with(model: Model, normalization: str | None) -> Forward:
    """Return the model as a function of (params, inputs), with a say in what its batch normalization normalizes by.

    Parameters
    ----------
    model : Model
        The network.
    normalization : {"running", "batch"} or None
        "running": the running statistics among the parameters, as in inference. "batch": mean and variance of the
        batch, the differentiable analogue of re-estimated statistics; the same as "running" for a network without
        batch normalization. None: "batch", but "running" for a mapping of arrays or a forward function of the user's.

    Raises
    ------
    SettingError
        Something else came.
    SpecError
        "batch", and the model does not say what to normalize.
    """
    if normalization not in (None, "running", "batch"):
        raise SettingError(f'expected normalization as "running", "batch" or None, got {normalization!r}')
    if normalization == "running" or (normalization is None and not model.has_layers):
        return model.forward
    norms = find_batch_norms(model)
    return model.forward if norms is None else norms.forward
