"""What the core asks of a framework's models: the protocol of adapters.

Requirements
------------
An adapter is a stateless object, one per framework, found by the type of the model (`rebasin_core.models.model`). It
never changes the user's model: not its weights, mode, flags, buffers, device, nor any random state.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from rebasin_core.backends.protocol import Array
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Forward", "HasRandomState", "Loss", "ModelAdapter"]

Forward = Callable[[dict[str, Array], Any], Any]
"""``forward(params, inputs) -> outputs``."""

Loss = Callable[[Any, Any], Array]
"""``loss(outputs, targets) -> scalar``, the mean over the batch."""


class ModelAdapter(Protocol):
    """What the core asks of a framework's models.

    An adapter may do more than that, where its framework has it. Each ability is a protocol of one method:
    `HasRandomState`, `rebasin_core.models.batch_norms.HasBatchNorms`,
    `rebasin_core.models.unit_layers.HasUnitLayers`, `rebasin_core.objectives.activations.HasActivations`.
    """

    name: str

    def params(self, model: Any) -> dict[str, Array]:
        """Return every array that belongs to the model's state, learned or not, by a stable name."""
        ...

    def forward(self, model: Any) -> Forward:
        """Return the model as a function of its parameters and its inputs, differentiable in the parameters."""
        ...

    def rebuild(self, model: Any, params: Mapping[str, Array]) -> Any:
        """Return a copy of the model, of the same type, that holds these parameters."""
        ...

    def graph(self, model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
        """Find the permutation graph."""
        ...

    def example_inputs(self, model: Any) -> tuple[Any, ...] | None:
        """Return inputs to try the model on, or None where their shape is not known from the model."""
        ...

    def loss(self, model: Any, loss: Any) -> Loss:
        """Return the function meant by `loss`: a callable, a name of the framework's, or None for the model's own."""
        ...

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the metric meant by `metric`: a callable or a name such as ``"accuracy"``."""
        ...

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Raise `UnsupportedModelError` when two models of equal shapes still compute differently (activations)."""
        ...


@runtime_checkable
class HasRandomState(Protocol):
    """The ability of an adapter whose framework has a global random state."""

    def keep_random_state(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Return a context that starts from `seed`, if one is given, and puts the state back as it was."""
        ...
