"""One call of a layer, as a rule sees it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from rebasin_core.inference import Primitives, Tensor

__all__ = ["Call", "describe", "tensors_in"]


@dataclass(frozen=True)
class Call:
    """One call of a layer or of an operation.

    Attributes
    ----------
    p : Primitives
        Where to record.
    layer : keras.Operation
        The layer, or the operation.
    arguments : dict of str to value
        Its arguments by the names of ``call``; defaults are filled in. What is traced is a symbolic `Tensor`.
    shapes : list of tuple of int or None
        The shape Keras reports for every output; None for an axis that a layer leaves open.
    """

    p: Primitives
    layer: Any
    arguments: dict[str, Any]
    shapes: list[tuple[int | None, ...]]
    weights: dict[int, Tensor]
    run_layer: Callable[..., Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) output."""
        return self.whole(0)

    def whole(self, output: int) -> tuple[int, ...]:
        """Shape of an output, with every size known."""
        shape = tuple(n for n in self.shapes[output] if n is not None)
        if len(shape) < len(self.shapes[output]):
            raise NotImplementedError(f"an output of which Keras knows no more than {self.shapes[output]}")
        return shape

    def __getitem__(self, name: str) -> Any:
        """Return an argument by its name, as it is."""
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument by its name; `default` where ``call`` has none of that name."""
        return self.arguments.get(name, default)

    def tensor(self, name: str | None = None) -> Tensor:
        """Return an argument as a symbolic tensor: the one of this name, or the first."""
        return self.symbolic(next(iter(self.arguments.values())) if name is None else self.arguments[name])

    def optional(self, name: str) -> Tensor | None:
        """Return an argument that may be missing as a symbolic tensor."""
        value = self.arguments.get(name)
        return None if value is None else self.symbolic(value)

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in order, structures opened."""
        return [self.symbolic(x) for x in tensors_in(self.arguments)]

    def symbolic(self, value: Any) -> Tensor:
        """Turn a variable, an array or a number into a symbolic tensor; a symbolic tensor stays as it is."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, keras.Variable):
            return self.weight(value)
        if value is None:
            raise NotImplementedError("None in place of a tensor")
        return self.p.literal(np.asarray(keras.ops.convert_to_numpy(value)))

    def weight(self, variable: Any) -> Tensor:
        """Return a variable of the layer as a symbolic tensor."""
        if not isinstance(variable, keras.Variable):
            raise NotImplementedError("a weight that is computed from others, as in a quantized layer")
        if id(variable) not in self.weights:
            return self.p.constant(tuple(variable.shape), reason="state that is not a weight")
        return self.weights[id(variable)]

    def optional_weight(self, name: str) -> Tensor | None:
        """Return the variable in an attribute of the layer; None where there is none."""
        variable = getattr(self.layer, name, None)
        return None if variable is None else self.weight(variable)

    def run(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call another layer (a wrapped one, a part of this one) and return what it returns."""
        return self.run_layer(layer, *args, **kwargs)


def tensors_in(values: Any) -> Iterator[Any]:
    """Yield every tensor in a structure of arguments: symbolic ones, variables and arrays; not plain numbers."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, (Tensor, keras.Variable, np.ndarray)) or keras.ops.is_tensor(values):
        yield values


def describe(op: Any) -> str:
    """Say which layer or operation is meant, for a reason or an error."""
    kind = type(op).__name__
    return f"{kind} (layer {op.name!r})" if isinstance(op, keras.layers.Layer) else f"keras.ops.{kind}"
