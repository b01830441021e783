"""A model together with its adapter: named arrays, a forward function, and a way back.

A plain mapping of arrays needs no framework; a ``forward`` function, where one is needed, comes from the user.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import all_finite
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import (
    NonFiniteError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
    UnsupportedModelError,
)
from rebasin_core.models.adapter import Forward, HasRandomState, Loss, ModelAdapter
from rebasin_core.models.mapping import MappingAdapter, copy_array
from rebasin_core.support.registry import Registry

__all__ = ["Model", "check_same_shapes", "find_adapter", "not_finite", "open_model", "open_pair", "register_adapter"]

T = TypeVar("T")

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

    def __getstate__(self) -> dict[str, Any]:
        # The function is local and cannot be pickled; it is made again where it is needed.
        return {name: value for name, value in vars(self).items() if name != "forward"}

    @cached_property
    def forward(self) -> Forward:
        """The model as a function of (params, inputs); made once, since an adapter copies the model for it."""
        return self.user_forward or self.adapter.forward(self.source)

    @property
    def has_layers(self) -> bool:
        """Whether an adapter knows its layers: it is not a mapping of arrays, and `forward` is not the user's."""
        return self.user_forward is None and not isinstance(self.adapter, MappingAdapter)

    @property
    def can_compute(self) -> bool:
        """Whether there is a forward function."""
        return self.user_forward is not None or self.has_layers

    @property
    def backend(self) -> Backend:
        """The backend of the parameters."""
        return get_backend(*self.params.values())

    def rebuild(self, params: Mapping[str, Array]) -> Any:
        """Return a copy of the model that holds these parameters."""
        return self.adapter.rebuild(self.source, params)

    def detach(self) -> "Model":
        """Return the same model with memory of its own: it stays as it is while the user goes on training theirs."""
        own = self.rebuild(self.params)
        return Model(own, self.adapter, self.adapter.params(own), self.user_forward)

    def detach_params(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Return these parameters with copies of those that are the model's own arrays, such as a plan did not move."""
        return {name: copy_array(x) if x is self.params.get(name) else x for name, x in params.items()}

    def keep_random_state(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Give the framework its global random state back afterwards: loaders that shuffle draw from it."""
        return self.adapter.keep_random_state(seed) if isinstance(self.adapter, HasRandomState) else nullcontext()

    def check_layers(self, tell: str) -> None:
        """Raise `SpecError` where no adapter knows the model's layers, which are to tell something."""
        if not self.has_layers:
            raise SpecError(
                f"a plain mapping of arrays, or a forward= of your own, does not say {tell}; pass the model itself (a "
                f"torch.nn.Module, a keras.Model, an MLPClassifier) and no forward="
            )

    def ability(self, kind: type[T], tells: str, instead: str = "") -> T:
        """Return the adapter as a protocol of what not every adapter can do.

        Parameters
        ----------
        kind : runtime-checkable protocol
            Such as `rebasin_core.models.unit_layers.HasUnitLayers`.
        tells : str
            What its method tells, for the message: "the adapter of ... does not tell ...".
        instead : str, optional
            What to do without it.

        Raises
        ------
        UnsupportedModelError
            The adapter lacks the method.
        """
        if isinstance(self.adapter, kind):
            return self.adapter
        raise UnsupportedModelError(
            f"the adapter of {self.adapter.name} does not tell {tells}; it needs the method of "
            f"{kind.__module__}.{kind.__qualname__}{instead and '. Or ' + instead}"
        )

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
