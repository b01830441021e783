"""Copies of models: the same architecture in new layers, with the weights one wants.

``keras.models.clone_model`` does the work. Around it: custom classes and functions are found in the model, so that they
need no registration; ``Lambda`` layers keep their function itself, not its byte code; and the random state that new
layers draw from is given back.
"""

import inspect
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from rebasin_core.errors import UnsupportedModelError
from rebasin_keras.random_state import keep_random_state
from rebasin_keras.variables import named_variables

__all__ = ["rebuild_model", "skeleton"]


def rebuild_model(model: Any, params: Mapping[str, Any]) -> Any:
    """Copy of a model, of its type, that holds `params`; trainable flags and seed generators as in the original.

    A compiled model gives a compiled copy, with an optimizer that starts afresh. Where the loss or a metric cannot be
    copied (a lambda), the copy is not compiled.

    Raises
    ------
    UnsupportedModelError
        The model cannot be copied; the message says which layer is in the way.
    """
    copy = skeleton(model)
    with _custom_objects(model):
        for (name, old), new in zip(named_variables(model).items(), copy.weights, strict=True):
            new.assign(keras.ops.copy(params.get(name, old.value)))
        for old, new in zip(_other_state(model), _other_state(copy), strict=False):
            if tuple(old.shape) == tuple(new.shape):
                new.assign(keras.ops.copy(old.value))
        _copy_flags(model, copy)
        if model.compiled:
            _compile_alike(model, copy)
    return copy


def skeleton(model: Any) -> Any:
    """Copy of a model with new weights of arbitrary values, in the order of the old; it is not compiled.

    Raises
    ------
    UnsupportedModelError
        The model cannot be copied.
    """
    try:
        with keep_random_state(), _custom_objects(model):
            copy = _clone(model)
    except Exception as error:  # whatever a user's layer raises
        raise UnsupportedModelError(
            f"the {type(model).__name__} {model.name!r} cannot be copied: {type(error).__name__}: {_first_part(error)} "
            f"Give custom layers and models a get_config() that returns the arguments of their __init__"
        ) from error
    shapes, wanted = ([tuple(v.shape) for v in m.weights] for m in (copy, model))
    if shapes != wanted:
        raise UnsupportedModelError(
            f"the {type(model).__name__} {model.name!r} cannot be copied: a copy made from its get_config() has weights"
            f" of shapes {shapes}, the model has {wanted}. Create all weights in __init__ or build(), as get_config() "
            f"says"
        )
    return copy


def _first_part(error: Exception) -> str:
    """What an error says, on one line, without the examples that Keras adds."""
    return " ".join(str(error).partition("Example:")[0].split())


def _clone(model: Any) -> Any:
    if type(model) is keras.Sequential:
        first = model._layers[0]
        entry = []
        if isinstance(first, keras.layers.InputLayer):
            entry = [keras.Input(batch_shape=first.batch_shape, dtype=first.dtype, name=first.name)]
        copy = keras.Sequential([*entry, *map(_clone_operation, model.layers)], name=model.name)
        if not copy.built:
            copy.build(model.input_shape)
        return copy
    if _is_functional(model):
        # A twin over the same tensors: clone_model would compile the copy of a compiled model, and not every loss can
        # be copied. It shares the layers and adds nothing to them.
        twin = model
        if model.compiled:
            twin = type(model)(model._inputs_struct, model._outputs_struct, name=model.name)
        return keras.models.clone_model(twin, clone_function=_clone_operation, recursive=True)
    copy = type(model).from_config(model.get_config())
    if not copy.built or len(copy.weights) < len(model.weights):
        copy.build_from_config(model.get_build_config() or {})
    return copy


def _is_functional(model: Any) -> bool:
    """Whether a model is a graph of layers that its class builds from inputs and outputs alone."""
    parameters = list(inspect.signature(type(model).__init__).parameters)[1:3]
    is_graph = hasattr(model, "_run_through_graph") and not isinstance(model, keras.Sequential)
    return is_graph and parameters == ["inputs", "outputs"]


def _clone_operation(layer: Any) -> Any:
    if type(layer) is keras.layers.Lambda:
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=dict(layer.arguments),
            name=layer.name,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
        )
    if isinstance(layer, keras.Model):
        return _clone(layer)
    return type(layer).from_config(layer.get_config())


def _copy_flags(model: Any, copy: Any) -> None:
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        # From the outside in: a container's flag would overwrite those of its layers.
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for old, new in zip(model.weights, copy.weights, strict=True):
        if new.trainable != old.trainable:
            new.trainable = old.trainable


def _other_state(model: Any) -> list[Any]:
    """Variables that are no weights: seed generators."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.non_trainable_variables if id(v) not in weights]


def _compile_alike(model: Any, copy: Any) -> None:
    with warnings.catch_warnings(), keep_random_state():
        warnings.simplefilter("ignore")  # lambdas, and models with a compile() of their own
        try:
            copy.compile_from_config(model.get_compile_config())
        except Exception:  # whatever a loss of the user's raises; the caller can compile by hand
            copy.compiled = False


@contextmanager
def _custom_objects(model: Any) -> Iterator[None]:
    """Make the classes and functions a model uses known to Keras by the names it looks them up by."""
    found: dict[str, Any] = {}
    compiled = getattr(model, "_compile_config", None)
    settings = types.SimpleNamespace(**getattr(compiled, "config", {}))
    for owner in (*model._flatten_layers(), settings):
        for value in (type(owner), *_inside(list(vars(owner).values()))):
            kind = value if isinstance(value, (type, types.FunctionType)) else type(value)
            if not _is_known(kind):
                found[kind.__name__] = found[keras.saving.get_registered_name(kind)] = kind
    with keras.saving.custom_object_scope(found):
        yield


def _inside(value: Any) -> Iterator[Any]:
    """Whatever lies in nested lists, tuples and the values of dictionaries."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item)
    elif isinstance(value, dict):
        yield from _inside(list(value.values()))
    else:
        yield value


def _is_known(kind: Any) -> bool:
    return str(kind.__module__).partition(".")[0] in (
        "keras",
        "builtins",
        "types",
        "numpy",
        "tensorflow",
        "jax",
        "torch",
    )
