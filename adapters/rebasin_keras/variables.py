"""The weights of a model: by which names, and whether there are any.

Keras numbers layers without a name through a whole session: two models that one function builds hold ``dense/kernel``
and ``dense_2/kernel``. Here they are renumbered within each model, so that two models of one architecture have the
same names, whatever was built in between. A name that a person gave is kept.
"""

import re
from typing import Any

import keras

from rebasin_core.errors import UnsupportedModelError

__all__ = ["check_built", "named_variables", "parameters_of"]


def named_variables(model: Any) -> dict[str, Any]:
    """Every weight of a model, trainable or not, by its ``path`` without session-wide numbers.

    Seed generators and the state of metrics and optimizers are no weights.

    Examples
    --------
    >>> import keras
    >>> def build():
    ...     return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2, name="out")])
    >>> list(named_variables(build())) == list(named_variables(build()))
    True
    >>> list(named_variables(build()))
    ['dense/kernel', 'dense/bias', 'out/kernel', 'out/bias']
    """
    renamed = _renumbered(model)
    names: dict[str, Any] = {}
    for variable in model.weights:
        # Only layers of this model count: its own name leads the path or not, depending on how it was built, and a
        # layer taken from another model still shows the other's name.
        *segments, last = variable.path.split("/")
        path = "/".join([*(renamed[segment] for segment in segments if segment in renamed), last])
        name, number = path, 2
        while name in names:  # one path in several nested models
            name, number = f"{path}#{number}", number + 1
        names[name] = variable
    return names


def parameters_of(model: Any) -> dict[str, Any]:
    """Values of the weights by name: a snapshot, which shares no memory with the model.

    Shared memory would not do: on JAX, training hands it over to the compiled step, which then deletes it.

    Raises
    ------
    UnsupportedModelError
        The model is not built.
    """
    check_built(model)
    return {
        name: keras.ops.copy(keras.ops.stop_gradient(variable.value))
        for name, variable in named_variables(model).items()
    }


def check_built(model: Any) -> None:
    """Raise `UnsupportedModelError` for a model whose weights do not exist yet."""
    if not model.built:
        raise UnsupportedModelError(
            f"the {type(model).__name__} {model.name!r} is not built: its weights do not exist yet. Call it once on a "
            f"batch, or model.build((None, ...)) with the shape of its inputs"
        )


def _renumbered(model: Any) -> dict[str, str]:
    """Names of the layers; those that Keras made up as they are when counting starts with this model."""
    counts: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for layer in model._flatten_layers(include_self=False):
        stem = _stem(type(layer).__name__)
        if layer.name in renamed:
            continue
        renamed[layer.name] = layer.name
        if re.fullmatch(rf"{re.escape(stem)}(_\d+)?", layer.name):
            number = counts.get(stem, 0)
            counts[stem] = number + 1
            renamed[layer.name] = f"{stem}_{number}" if number else stem
    return renamed


def _stem(name: str) -> str:
    """What Keras calls the first layer of a class: ``dense``, ``conv2d``, ``batch_normalization``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
