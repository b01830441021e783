"""Concrete shapes of a model's inputs: those of its symbolic inputs, completed by example inputs."""

from collections.abc import Sequence
from typing import Any

import keras

from rebasin_core.errors import ShapeError, UnsupportedModelError

__all__ = ["BATCH", "flat_inputs", "input_shapes"]

BATCH = 3
"""Length of a batch axis that a model leaves open."""


def input_shapes(model: Any, example_inputs: Sequence[Any]) -> list[tuple[int, ...]]:
    """Shape of every input, in the order of ``model.inputs``.

    Raises
    ------
    ShapeError
        Example inputs do not fit the model.
    UnsupportedModelError
        The model leaves an axis open and there are no example inputs.
    """
    symbolic = [tuple(x.shape) for x in model.inputs]
    if not example_inputs:
        shapes = [(BATCH if s[:1] == (None,) else s[0], *s[1:]) if s else s for s in symbolic]
        for given, shape in zip(symbolic, shapes, strict=True):
            if None in shape:
                raise UnsupportedModelError(
                    f"the model leaves axes other than the batch open: it has an input of shape {given}. Pass example "
                    f"inputs, such as an array of that rank with every None replaced by a size"
                )
        return shapes
    # One structure, as `model(inputs)` takes it; or the inputs one by one.
    structure = example_inputs[0] if len(example_inputs) == 1 else list(example_inputs)
    values = flat_inputs(model, structure)
    if len(values) != len(symbolic):
        raise ShapeError(
            f"the model has {len(symbolic)} inputs, {_listed(symbolic)}; got {len(values)} example inputs. Pass them "
            f"as the model takes them, or one by one in the order of model.inputs"
        )
    shapes = [tuple(int(n) for n in getattr(x, "shape", ())) for x in values]
    for given, wanted in zip(shapes, symbolic, strict=True):
        if len(given) != len(wanted) or any(n not in (None, m) for m, n in zip(given, wanted, strict=True)):
            raise ShapeError(f"an example input has shape {given}, but the model takes {wanted} (None: any size)")
    return shapes


def flat_inputs(model: Any, structure: Any) -> list[Any]:
    """Flatten a structure of inputs into the order of ``model.inputs``."""
    names = [x.name for x in model.inputs]
    if isinstance(structure, dict) and set(names) <= set(structure):
        # A model of several inputs takes a dict by their names, whatever structure it was made with.
        return [structure[name] for name in names]
    flat: list[Any] = keras.tree.flatten(structure)
    return flat


def _listed(shapes: Sequence[tuple[int | None, ...]]) -> str:
    return " and ".join(map(str, shapes))
