"""Plain mappings of names to arrays as models: no framework, and what they compute comes from the user."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError, SpecError
from rebasin_core.models.accuracy import share_right
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.support.settings import no_class
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["MappingAdapter", "accuracy", "copy_array"]


class MappingAdapter:
    """A plain mapping of names to arrays."""

    name = "mapping"

    def params(self, model: Mapping[str, Array]) -> dict[str, Array]:
        """Return the mapping itself, as a dictionary."""
        return dict(model)

    def forward(self, model: Mapping[str, Array]) -> Forward:
        """Refuse: a mapping of arrays does not say what it computes."""
        raise SpecError(
            "a plain mapping of arrays does not say how to compute with it; pass forward=, a function of (params, "
            "inputs) that returns the outputs"
        )

    def rebuild(self, model: Mapping[str, Array], params: Mapping[str, Array]) -> dict[str, Array]:
        """Return a new dictionary of new arrays, which share no memory with any other."""
        return {name: copy_array(x) for name, x in params.items()}

    def graph(self, model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
        """Refuse: a mapping of arrays does not say which axes belong together."""
        raise SpecError(
            "a plain mapping of arrays does not say which axes belong together; pass graph=, made with "
            'PermutationGraph.from_axes({"w1": "h .", "b1": "h", "w2": ". h"}, params)'
        )

    def example_inputs(self, model: Any) -> tuple[Any, ...] | None:
        """Return None: the shape of the inputs is not known."""
        return None

    def loss(self, model: Any, loss: Any) -> Loss:
        """Return the callable the user gave."""
        no_class(loss=loss)
        if callable(loss):
            return loss  # type: ignore[no-any-return]
        raise SettingError(f"expected loss as a function of (outputs, targets), got {loss!r}")

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the callable the user gave, or the accuracy of the largest output."""
        no_class(metric=metric)
        if callable(metric):
            return metric  # type: ignore[no-any-return]
        if metric == "accuracy":
            return accuracy
        raise SettingError(f'expected a metric as a function of (outputs, targets) or "accuracy", got {metric!r}')

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Accept: names and shapes say all there is to say."""


def copy_array(x: Array) -> Array:
    """Copy an array: same values, dtype and device, memory of its own."""
    backend = get_backend(x)
    return backend.asarray(backend.to_numpy(x), like=x)


def accuracy(outputs: Any, targets: Any) -> float:
    """Share of rows whose largest output is the target class (dimensionless, 0 to 1)."""
    return share_right(np.argmax(get_backend(outputs).to_numpy(outputs), axis=-1), targets)
