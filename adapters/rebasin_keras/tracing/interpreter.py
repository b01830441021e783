"""Walk a model, layer by layer, with the rules of the table.

Nothing is guessed. A layer without a rule, a rule that raises, and a rule whose shapes are not those that Keras reports
pin everything the layer touches, its weights included, with a reason that names it. Nothing is computed, either: Keras
reports the shape of every output for the concrete shapes of the inputs, on any backend.
"""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import keras

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call, describe, tensors_in
from rebasin_keras.tracing.registry import find_rule
from rebasin_keras.tracing.shapes import BATCH, flat_inputs
from rebasin_keras.tracing.variables import captured_variables, variables_of

__all__ = ["Interpreter", "is_graph"]


def is_graph(op: Any) -> bool:
    """Whether an object is a graph of layers whose ``call`` is Keras's own: Functional or Sequential."""
    if not isinstance(op, (keras.Function, keras.Sequential)):
        return False
    return str(type(op).call.__module__).partition(".")[0] == "keras"


class Interpreter:
    """Runs a model symbolically.

    Parameters
    ----------
    p : Primitives
        Where layers are recorded.
    weights : dict of int to Tensor
        The symbolic tensor of every weight, by the id of its variable: a layer that is called twice finds the same.
    """

    def __init__(self, p: Primitives, weights: dict[int, Tensor]) -> None:
        self.p = p
        self.weights = weights

    def run(self, model: Any, inputs: Sequence[Tensor | None]) -> Any:
        """Record a Functional or Sequential model and return its outputs, in the structure it returns."""
        if isinstance(model, keras.Sequential):
            return self._run_chain(model, inputs)
        return self._run_functional(model, inputs)

    def _run_chain(self, model: Any, inputs: Sequence[Tensor | None]) -> Any:
        value: Any = inputs[0] if len(inputs) == 1 else list(inputs)
        for layer in model.layers:
            value = self.run_layer(layer, value)
        return value

    def _run_functional(self, model: Any, inputs: Sequence[Tensor | None]) -> Any:
        values: dict[int, Tensor | None] = {}
        for symbolic, value in zip(model.inputs, inputs, strict=True):
            values[id(symbolic)] = None if value is None else self._with_rank(value, len(symbolic.shape))
        # The order in which Keras itself runs the nodes; a layer that is called twice has two.
        by_depth = model._nodes_by_depth
        for depth in sorted(by_depth, reverse=True):
            for node in by_depth[depth]:
                if node.is_input or any(id(x) not in values for x in node.input_tensors):
                    continue
                result = self._run_node(node, values)
                for symbolic, value in zip(node.outputs, keras.tree.flatten(result), strict=True):
                    values[id(symbolic)] = value
        return keras.tree.map_structure(lambda x: values[id(x)], model._outputs_struct)

    def _run_node(self, node: Any, values: dict[int, Tensor | None]) -> Any:
        def spec(x: Any) -> Any:
            value = values[id(x)] if isinstance(x, keras.KerasTensor) else x
            return _spec(value, x.dtype) if isinstance(value, Tensor) else value

        def value(x: Any) -> Any:
            return values[id(x)] if isinstance(x, keras.KerasTensor) else x

        arguments = node.arguments.args, node.arguments.kwargs
        specs = keras.tree.map_structure(spec, arguments)
        reported = [tuple(x.shape) for x in node.outputs]
        return self._call(node.operation, keras.tree.map_structure(value, arguments), specs, reported)

    def run_layer(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Record a layer that is called on symbolic tensors."""
        dtype = getattr(layer, "compute_dtype", None) or keras.config.floatx()
        specs = keras.tree.map_structure(lambda x: _spec(x, dtype) if isinstance(x, Tensor) else x, (args, kwargs))
        return self._call(layer, (args, kwargs), specs, None)

    def _call(self, op: Any, arguments: Any, specs: Any, reported: Sequence[tuple[int | None, ...]] | None) -> Any:
        args, kwargs = arguments
        rule = find_rule(type(op))
        if rule is None and is_graph(op):
            return self.run(op, flat_inputs(op, args[0] if args else kwargs["inputs"]))
        if not getattr(op, "built", True):
            raise UnsupportedModelError(
                f"{describe(op)} is not built: its weights do not exist yet. Call the model once on an array first"
            )
        shapes = _output_shapes(op, specs, reported)
        bound = _bind(op, args, kwargs)
        call = Call(self.p, op, bound, shapes, self.weights, self.run_layer)
        if rule is None:
            return self._unsupported(call, specs, f"no rule for {describe(op)}")
        try:
            with self.p.recorder.during(describe(op)):
                result = rule(self.p, call)
        except UnsupportedModelError:
            raise
        except Exception as error:  # a rule of a user's, or one that met an argument it does not know
            reason = f"the rule for {describe(op)} failed: {type(error).__name__}: {error}"
            return self._unsupported(call, specs, reason)
        got = [x.shape if isinstance(x, Tensor) else None for x in keras.tree.flatten(result)]
        if len(got) != len(shapes) or not all(map(_fits, got, shapes)):
            reason = f"the rule for {describe(op)} gives shapes {_shown(got)}, Keras {_shown(shapes)}"
            return self._unsupported(call, specs, reason)
        return result

    def _unsupported(self, call: Call, specs: Any, reason: str) -> Any:
        """Pin whatever a layer reads, its weights included, and let its results stay."""
        read = [call.symbolic(x) for x in tensors_in(call.arguments)]
        if isinstance(call.layer, keras.layers.Layer):
            read += [call.weight(variable) for variable in variables_of(call.layer)]
        read += [call.weight(variable) for variable in captured_variables(call.layer)]
        self.p.pin(read, reason)
        if not any(x.blocks() for x in read):
            # Nothing could have moved: whatever kept the inputs in place is the reason further on, too.
            reasons = [atom.reason for x in read for atom in x.atoms() if atom.reason]
            reason = reasons[0] if reasons else reason
        results = [self.p.constant(shape, reason=reason) for shape in _complete(call.layer, specs, call.shapes)]
        return results[0] if len(results) == 1 else results

    def _with_rank(self, x: Tensor, ndim: int) -> Tensor:
        """Add or drop a last axis of length 1, as a Functional model does with its inputs."""
        if x.ndim == ndim - 1:
            return self.p.insert(x, -1)
        if x.ndim == ndim + 1 and x.shape[-1] == 1:
            return self.p.reshape(x, x.shape[:-1])
        return x


def _spec(x: Tensor, dtype: Any) -> Any:
    return keras.KerasTensor(x.shape, dtype=dtype)


def _output_shapes(
    op: Any, specs: Any, reported: Sequence[tuple[int | None, ...]] | None
) -> list[tuple[int | None, ...]]:
    """Shape of every output for the concrete shapes of the inputs; None where the layer leaves an axis open."""
    args, kwargs = specs
    try:
        outputs = keras.tree.flatten(op.compute_output_spec(*args, **kwargs))
        return [tuple(x.shape) for x in outputs]
    except Exception as error:  # an operation of a user's that Keras can trace only with an open batch axis
        if reported is None:
            raise UnsupportedModelError(f"Keras cannot tell the output shape of {describe(op)}: {error}") from error
        return [(BATCH if s[:1] == (None,) else s[0], *s[1:]) if s else s for s in reported]


def _complete(op: Any, specs: Any, shapes: Sequence[tuple[int | None, ...]]) -> list[tuple[int, ...]]:
    """Output shapes without open axes, for which Keras traces the layer on its backend if need be."""
    if any(None in shape for shape in shapes):
        args, kwargs = specs
        with suppress(Exception):
            traced = keras.Operation.compute_output_spec(op, *args, **kwargs)
            shapes = [tuple(x.shape) for x in keras.tree.flatten(traced)]
    if any(None in shape for shape in shapes):
        given = [tuple(x.shape) for x in keras.tree.flatten(specs) if isinstance(x, keras.KerasTensor)]
        raise UnsupportedModelError(
            f"Keras cannot tell the output shape of {describe(op)}: it reports {_shown(shapes)} for inputs of shape "
            f"{_shown(given)}. Give the layer a compute_output_shape method that returns every size"
        )
    return [tuple(n for n in shape if n is not None) for shape in shapes]


def _fits(got: tuple[int, ...] | None, wanted: tuple[int | None, ...]) -> bool:
    """Whether a rule gave a tensor, and one of the shape that Keras reports."""
    return got is not None and len(got) == len(wanted) and all(m in (None, n) for n, m in zip(got, wanted, strict=True))


def _bind(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of ``call``, with its defaults; the items of ``*args`` and ``**kwargs`` count as well."""
    signature = inspect.signature(op.call)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        # Arguments that Keras takes out before `call`, such as a mask.
        known = {name: value for name, value in kwargs.items() if name in signature.parameters}
        bound = signature.bind(*args, **known)
    bound.apply_defaults()
    return dict(bound.arguments)


def _shown(shapes: Sequence[Any]) -> str:
    return ", ".join(map(str, shapes)) or "nothing"
