"""A model as a function of its weights and its inputs, by ``stateless_call``.

Always in inference mode: no dropout, no update of moving statistics, no draw from a seed generator. Of the user's
model nothing is read but the state of seed generators, and nothing is written.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.errors import DataError, RebasinError
from rebasin_keras.copies import skeleton
from rebasin_keras.variables import named_variables

__all__ = ["forward_function", "function_of", "names_of", "to_tensors", "unmixed"]


Compute: TypeAlias = Callable[[Mapping[str, Any], Any], Any]


def forward_function(model: Any) -> Compute:
    """Return ``forward(params, inputs) -> outputs``, differentiable in the parameters.

    A model with a mixed-precision policy computes in the dtype of its variables, float32: in half precision, two
    networks on a line differ by less than the rounding.
    """
    body = unmixed(model)
    return function_of(body, names_of(model, body), model)


def names_of(model: Any, body: Any) -> dict[int, str]:
    """Name of every weight of a body, which is the model or a copy of it, by the identity of the variable."""
    return {id(v): name for name, v in zip(named_variables(model), body.weights, strict=True)}


def function_of(
    body: Any, names: Mapping[int, str], model: Any, around: Callable[[Compute], Compute] | None = None
) -> Compute:
    """Return `body` as ``forward(params, inputs)``; errors speak of `model`.

    With `around`, the function that it makes of the computation is returned, compiled where the computation would be.

    Raises
    ------
    DataError
        The model cannot compute with these inputs; the reason is kept.
    """
    takes_training = "training" in inspect.signature(body.call).parameters
    floating = body.variable_dtype

    def compute(params: Mapping[str, Any], inputs: Any) -> Any:
        def value(variable: Any) -> Any:
            return params[names[id(variable)]] if id(variable) in names else variable.value

        outputs, _ = body.stateless_call(
            [value(v) for v in body.trainable_variables],
            [value(v) for v in body.non_trainable_variables],
            inputs,
            **({"training": False} if takes_training else {}),
        )
        return outputs

    compute = _compiled(body, compute if around is None else around(compute))

    def forward(params: Mapping[str, Any], inputs: Any) -> Any:
        inputs = to_tensors(inputs, floating)
        try:
            return compute(dict(params), inputs)
        except RebasinError:
            raise
        except Exception as error:  # of Keras, or of whichever framework computes
            if not _about_inputs(error):
                raise
            raise DataError(
                f"{type(model).__name__} {model.name!r} cannot compute with inputs {_describe(inputs)}: {error} Pass "
                f"inputs as model(inputs) takes them: {_expected(model)}"
            ) from error

    return forward


def to_tensors(values: Any, floating: str) -> Any:
    """Turn nested arrays of any framework into tensors of Keras's backend, floats in the dtype `floating`."""

    def convert(value: Any) -> Any:
        if not keras.ops.is_tensor(value):
            if not hasattr(value, "__array__") and not isinstance(value, (list, int, float)):
                return value
            value = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        is_float = is_floating(keras.backend.standardize_dtype(value.dtype))
        return keras.ops.convert_to_tensor(value, dtype=floating if is_float else None)

    return keras.tree.map_structure(convert, values)


def unmixed(model: Any) -> Any:
    """The model itself, or a copy that computes in the dtype of its variables where the model does not."""
    if all(layer.compute_dtype == layer.variable_dtype for layer in model._flatten_layers()):
        return model
    body = skeleton(model)
    for layer in body._flatten_layers():
        layer.dtype_policy = keras.dtype_policies.DTypePolicy(layer.variable_dtype)
    return body


def _compiled(body: Any, compute: Any) -> Any:
    """The function compiled, where that is JAX's way: operations on their own cost it a hundred times as much."""
    if keras.backend.backend() != "jax" or not all(layer.supports_jit for layer in body._flatten_layers()):
        return compute
    import jax

    return jax.jit(compute)


def _about_inputs(error: Exception) -> bool:
    """Whether an error may be due to the inputs: not one of a compiler that may not look at values."""
    root = type(error).__module__.partition(".")[0]
    if root in ("jax", "jaxlib"):
        return False
    return isinstance(error, (ValueError, TypeError, IndexError, RuntimeError)) or root == "tensorflow"


def _expected(model: Any) -> str:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return "one array, or the nested arrays that its call() takes"
    return ", ".join(f"{x.name} of shape {tuple(x.shape)}" for x in inputs)


def _describe(inputs: Any) -> str:
    leaves = keras.tree.flatten(inputs)
    return ", ".join(f"of shape {tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__ for x in leaves)
