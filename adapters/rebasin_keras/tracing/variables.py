"""The weights of a model: which there are, which are only statistics, and which a function reaches."""

import inspect
from typing import Any

import keras

from rebasin_keras.variables import named_variables as variable_names

__all__ = ["captured_variables", "statistics_of", "variable_names", "variables_of"]


def variables_of(layer: Any) -> list[Any]:
    """Return every weight of a layer or a model once: seed generators and metrics are none, a frozen weight is one."""
    return list(layer.weights)


def statistics_of(model: "keras.Model") -> set[int]:
    """Return the ids of the weights that no layer ever learns, such as moving means; a frozen kernel is not one."""
    # `non_trainable_weights` also holds what is frozen at the moment; the layers' own lists tell the two apart.
    layers = model._flatten_layers()
    return {id(variable) for layer in layers for variable in layer._non_trainable_variables}


def captured_variables(op: Any) -> list[Any]:
    """Return the weights that functions of a layer reach without its holding them: those in a Lambda's closure."""
    functions = [value for value in vars(op).values() if inspect.isfunction(value)]
    if inspect.isfunction(type(op).call):
        functions.append(type(op).call)
    found: list[Any] = []
    for function in functions:
        reached = inspect.getclosurevars(function)
        for value in [*reached.nonlocals.values(), *reached.globals.values()]:
            if isinstance(value, keras.Variable):
                found.append(value)
            elif isinstance(value, keras.layers.Layer):
                found += variables_of(value)
    return found
