"""A model as the core sees it: named arrays, a forward function, and a way back.

Requirements
------------
An adapter is a stateless object, one per framework, found by the type of the model (`find_adapter`). It never changes
the user's model: not its weights, mode, flags, buffers, device, nor any random state. A plain mapping of arrays needs
no framework; a ``forward`` function, where one is needed, comes from the user.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import (
    NonFiniteError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
    UnsupportedModelError,
)
from rebasin_core.graph import PermutationGraph
from rebasin_core.precision import all_finite
from rebasin_core.registry import Registry

__all__ = [
    "Forward",
    "Loss",
    "Model",
    "ModelAdapter",
    "check_same_shapes",
    "find_adapter",
    "not_finite",
    "open_model",
    "open_pair",
    "register_adapter",
]

Forward = Callable[[dict[str, Array], Any], Any]
"""``forward(params, inputs) -> outputs``."""

Loss = Callable[[Any, Any], Array]
"""``loss(outputs, targets) -> scalar``, the mean over the batch."""


class ModelAdapter(Protocol):
    """What the core asks of a framework's models.

    An adapter may have four methods more, for what not every framework has: ``keep_random_state(seed)``, see
    `Model.keep_random_state`; ``activations(model, graph)``, see `rebasin_core.objectives.Activations`;
    ``batch_norms(model)``, see `rebasin_core.batch_norms`; and ``unit_layers(model, graph)``, see
    `rebasin_core.unit_layers`.
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
        """Return inputs to try the model on, or None where the model does not tell their shape."""
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
        """Return a new dictionary; an array that is still the model's own is copied."""
        return {name: _copy(x) if x is model.get(name) else x for name, x in params.items()}

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
        if callable(loss):
            return loss  # type: ignore[no-any-return]
        raise SettingError(f"expected loss as a function of (outputs, targets), got {loss!r}")

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the callable the user gave, or the accuracy of the largest output."""
        if callable(metric):
            return metric  # type: ignore[no-any-return]
        if metric == "accuracy":
            return accuracy
        raise SettingError(f'expected a metric as a function of (outputs, targets) or "accuracy", got {metric!r}')

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Accept: names and shapes say all there is to say."""


def _copy(x: Array) -> Array:
    backend = get_backend(x)
    return backend.asarray(backend.to_numpy(x), like=x)


def accuracy(outputs: Any, targets: Any) -> float:
    """Share of rows whose largest output is the target class (dimensionless, 0 to 1)."""
    backend = get_backend(outputs)
    found = np.argmax(backend.to_numpy(outputs), axis=-1)
    wanted = np.asarray(targets)
    if found.size != wanted.size:
        raise ShapeError(
            f"accuracy needs one class per row of outputs; got targets of shape {wanted.shape} for {found.shape} rows"
        )
    return float(np.mean(found == wanted.reshape(found.shape)))


_REGISTRY: Registry[ModelAdapter] = Registry("rebasin_core.adapters")


def register_adapter(root_module: str, adapter: ModelAdapter | Callable[[], ModelAdapter]) -> None:
    """Make models whose class, or a base of it, is defined in `root_module` be carried by `adapter`."""
    _REGISTRY.register(root_module, adapter)


def find_adapter(model: Any) -> ModelAdapter:
    """Find the adapter of a model, by the modules its classes come from, most derived first.

    Raises
    ------
    UnsupportedModelError
        No adapter knows it.
    """
    if isinstance(model, Mapping):
        return MappingAdapter()
    adapter = _REGISTRY.find(type(model))
    if adapter is None:
        raise UnsupportedModelError(
            f"no adapter carries a {type(model).__module__}.{type(model).__qualname__}; expected a model of "
            f"{', '.join(_REGISTRY.known())}, or a plain mapping of names to arrays. For a model of your own, pass its "
            f"arrays as a dict together with graph=PermutationGraph.from_axes(...) and forward=, a function of "
            f"(params, inputs)"
        )
    return adapter


@dataclass(frozen=True)
class Model:
    """A model together with its adapter."""

    source: Any
    adapter: ModelAdapter
    params: dict[str, Array]
    user_forward: Forward | None = None

    @property
    def forward(self) -> Forward:
        """Return the model as a function of (params, inputs)."""
        return self.user_forward or self.adapter.forward(self.source)

    @property
    def can_compute(self) -> bool:
        """Whether there is a forward function."""
        return self.user_forward is not None or not isinstance(self.adapter, MappingAdapter)

    @property
    def computes_by_itself(self) -> bool:
        """Whether no adapter knows its layers: it is a mapping of arrays, or `forward` is the user's."""
        return self.user_forward is not None or isinstance(self.adapter, MappingAdapter)

    @property
    def backend(self) -> Backend:
        """The backend of the parameters."""
        return get_backend(*self.params.values())

    def rebuild(self, params: Mapping[str, Array]) -> Any:
        """Return a copy of the model that holds these parameters."""
        return self.adapter.rebuild(self.source, params)

    def keep_random_state(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Give the framework its global random state back afterwards: loaders that shuffle draw from it.

        An adapter whose framework has such a state has a method of this name; with a seed, it starts from that.
        """
        keep: Callable[[int | None], AbstractContextManager[None]] | None
        keep = getattr(self.adapter, "keep_random_state", None)
        return nullcontext() if keep is None else keep(seed)

    def loss(self, loss: Any) -> Loss:
        """Return the loss function meant by `loss`."""
        return self.adapter.loss(self.source, loss)


def open_model(model: Any, forward: Forward | None = None, what: str = "the model") -> Model:
    """Read a model's parameters, after checking that all of them are finite.

    Raises
    ------
    UnsupportedModelError, UnsupportedArrayError, NonFiniteError
    """
    adapter = find_adapter(model)
    params = adapter.params(model)
    if not params:
        raise UnsupportedModelError(f"{what} has no parameters; there is nothing to permute")
    for name, x in params.items():
        try:
            backend = get_backend(x)
            finite = all_finite(backend, x)
        except UnsupportedArrayError as error:
            raise UnsupportedArrayError(f"parameter {name!r} of {what}: {error}") from None
        except TypeError:
            raise UnsupportedArrayError(
                f"parameter {name!r} of {what} does not hold numbers: dtype {x.dtype}"
            ) from None
        if not finite:
            raise not_finite(name, what)
    return Model(model, adapter, params, forward)


def open_pair(model_a: Any, model_b: Any, forward: Forward | None = None) -> tuple[Model, Model]:
    """Read two models and check that they have one architecture.

    Raises
    ------
    UnsupportedModelError, SpecError, ShapeError, NonFiniteError
        The message names the first parameter that differs.
    """
    a, b = open_model(model_a, forward, "model A"), open_model(model_b, forward, "model B")
    if type(a.adapter) is not type(b.adapter):
        raise UnsupportedModelError(
            f"model A is of {a.adapter.name}, model B of {b.adapter.name}; both must be of one framework. Convert one"
        )
    check_same_shapes(a.params, b.params)
    a.adapter.check_pair(model_a, model_b)
    return a, b


def check_same_shapes(params_a: Mapping[str, Any], params_b: Mapping[str, Any]) -> None:
    """Raise `SpecError` or `ShapeError` for the first parameter that only one of two networks has, or in another shape.

    Of the parameters, only the attribute ``shape`` is read.
    """
    for name in (*params_a, *params_b):
        if name not in params_a or name not in params_b:
            there, lacking = ("A", "B") if name in params_a else ("B", "A")
            raise SpecError(
                f"model {there} has a parameter {name!r}, model {lacking} has none; two models of one architecture "
                f"are needed"
            )
        shape_a, shape_b = tuple(params_a[name].shape), tuple(params_b[name].shape)
        if shape_a != shape_b:
            raise ShapeError(
                f"parameter {name!r} has shape {shape_a} in model A and {shape_b} in model B; two models of one "
                f"architecture are needed"
            )


def not_finite(name: str, what: str) -> NonFiniteError:
    """Say that a parameter cannot be aligned."""
    return NonFiniteError(f"parameter {name!r} of {what} holds NaN or infinity; it cannot be aligned")
