"""`trace`: the permutation graph of a Keras model."""

from collections.abc import Iterable
from typing import Any

import keras

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.inference import Primitives, Tensor, build_graph
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_keras.tracing.call import tensors_in
from rebasin_keras.tracing.interpreter import Interpreter, is_graph
from rebasin_keras.tracing.shapes import input_shapes
from rebasin_keras.tracing.variables import statistics_of, variable_names

__all__ = ["trace"]


def trace(model: "keras.Model", *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
    """Find the permutation graph of a Functional or Sequential model by walking its layers.

    Parameters
    ----------
    model : keras.Model
        A model that has been built; it is left as it is, and nothing is computed.
    *example_inputs : array, or nested lists and dicts of arrays
        Needed only where the model leaves axes other than the batch open. Only shapes are read. Prefer sizes that
        differ from each other and sequences of more than one element.
    pin : iterable of str, optional
        Groups, or parameters all of whose groups, stay as they are.

    Returns
    -------
    PermutationGraph
        With an entry for every weight of the model, by the names of `variable_names`; weights that are never learned,
        such as moving means, are its `buffers`.

    Raises
    ------
    UnsupportedModelError
        The model is subclassed, not built, or leaves axes open.
    ShapeError
        Example inputs do not fit the model.
    SpecError
        `pin` names nothing.

    Examples
    --------
    >>> import keras
    >>> layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(2, name="out")]
    >>> graph = trace(keras.Sequential([keras.Input((3,)), *layers]))
    >>> graph.groups
    {'hidden': 8}
    >>> graph.axes["out/kernel"]
    AxesSpec("hidden .")
    """
    _check(model, example_inputs)
    shapes = input_shapes(model, example_inputs)
    p = Primitives()
    names = variable_names(model)
    statistics = statistics_of(model)
    inside = {name: _with_module(name) for name in names}
    weights = {id(v): p.param(inside[name], tuple(v.shape), buffer=id(v) in statistics) for name, v in names.items()}
    inputs: list[Tensor | None] = [p.constant(shape, reason="an input of the network") for shape in shapes]
    outputs = Interpreter(p, weights).run(model, inputs)
    p.pin(list(tensors_in(keras.tree.flatten(outputs))), "reaches the output")
    graph = build_graph(p.recorder).rename(inside)
    return graph.pin(pin) if pin else graph


def _check(model: Any, example_inputs: tuple[Any, ...]) -> None:
    """Raise unless the model is a graph of layers that can be walked."""
    kind = type(model).__name__
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(f"expected a keras.Model, got {kind}. Wrap a layer: keras.Sequential([x, layer])")
    if is_graph(model):
        if model.built and getattr(model, "inputs", None):
            return
        shape = next((tuple(x.shape) for x in example_inputs if hasattr(x, "shape")), "(None, ...)")
        raise UnsupportedModelError(
            f"the {kind} model {model.name!r} is not built: its weights do not exist yet. Build it first: "
            f"model.build({shape}), or start it with keras.Input(...)"
        )
    weights = list(variable_names(model).items()) if model.built else []
    shown = [f"{name!r}: {' '.join('.' * len(v.shape))!r}" for name, v in weights[:3]]
    axes = ", ".join([*shown, "..."])
    raise UnsupportedModelError(
        f"{kind} is a subclassed model: what its call() does with its layers cannot be read. Either make it a "
        f"Functional model, keras.Model(inputs, outputs), or write its axes down, with the name of a group in place of "
        f"every '.' that may move:\n"
        f"    from rebasin_keras.tracing import variable_names\n"
        f"    graph = rebasin_core.PermutationGraph.from_axes({{{axes}}}, variable_names(model))"
    )


def _with_module(name: str) -> str:
    """Spell the name of a variable as ``layer.weight``, of which the core names groups after ``layer``.

    Every name as another: a dot of the weight's own is escaped, as in a JSON pointer, so that the last one tells.
    """
    layer, slash, weight = name.rpartition("/")
    weight = weight.replace("~", "~0").replace(".", "~1")
    return f"{layer}.{weight}" if slash else weight
