"""Rules for recurrent layers and for wrappers that repeat a layer along time."""

from typing import Any

import keras

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.activations import require_elementwise
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import find_rule, register_rule

__all__: list[str] = []

_KINDS: dict[type, str] = {
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    keras.layers.SimpleRNNCell: "rnn",
}


@register_rule("layers.LSTM", "layers.GRU", "layers.SimpleRNN", "layers.RNN")
def recurrent(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Run one cell of Keras's, or several of them stacked, along time."""
    layer = call.layer
    x = call.tensor("sequences")
    given = call.get("initial_state")
    return _outputs(p, call, layer, x, None if given is None else _flat(call, given))


def _flat(call: Call, states: Any) -> list[Tensor]:
    if not isinstance(states, (list, tuple)):
        return [call.symbolic(states)]
    return [x for state in states for x in _flat(call, state)]


def _outputs(p: Primitives, call: Call, layer: Any, x: Tensor, initial: list[Tensor] | None) -> Tensor | list[Tensor]:
    """What a recurrent layer returns: its outputs or the last one, then its states where it returns them."""
    if initial is None and layer.stateful:
        initial = _flat(call, layer.states)
    finals: list[Tensor] = []
    mask = call.optional("mask")
    if mask is not None:
        x = p.ein([x, mask], ["btf", "bt"], "btf")
    for cell in layer.cell.cells if type(layer.cell) is keras.layers.StackedRNNCells else [layer.cell]:
        kind = _KINDS.get(type(cell))
        if kind is None:
            raise NotImplementedError(f"a recurrent cell of type {type(cell).__name__}")
        for name in ("activation", "recurrent_activation"):
            require_elementwise(getattr(cell, name, None))
        count = 2 if kind == "lstm" else 1
        if initial is None:
            zeros = p.constant((1, x.shape[0], cell.units), free_axes=range(3))
            states = [zeros] * count
        else:
            states = [p.insert(state, 0) for state in initial[:count]]
            initial = initial[count:]
        x, *last = composites.recurrent(p, kind, x, [[_cell(p, call, cell, kind)]], states, time_axis=1)
        finals += [p.select(state, 0, 0) for state in last]
    out = x if layer.return_sequences else p.select(x, 1, 0)
    return [out, *finals] if layer.return_state else out


def _cell(p: Primitives, call: Call, cell: Any, kind: str) -> composites.Cell:
    """Weights of a cell in the layout of the core: gates in front of units, outputs before inputs."""
    kernel, state = (p.permute(call.weight(w), [1, 0]) for w in (cell.kernel, cell.recurrent_kernel))
    bias = None if cell.bias is None else call.weight(cell.bias)
    if bias is None or bias.ndim == 1:
        return composites.Cell(kernel, state, bias)
    # A GRU that resets after the product has a bias for the input and one for the state.
    return composites.Cell(kernel, state, p.select(bias, 0, 0), p.select(bias, 0, 1))


@register_rule("layers.Bidirectional")
def bidirectional(p: Primitives, call: Call) -> list[Tensor] | Tensor:
    """Run two recurrent layers along time, one of them backwards, and merge their outputs."""
    layer, x = call.layer, call.tensor("sequences")
    given = call.get("initial_state")
    states = None if given is None else _flat(call, given)
    half = 0 if states is None else len(states) // 2
    results = []
    for part, initial in (
        (layer.forward_layer, states and states[:half]),
        (layer.backward_layer, states and states[half:]),
    ):
        if find_rule(type(part)) is not recurrent:
            raise NotImplementedError(f"a wrapped layer of type {type(part).__name__}")
        result = _outputs(p, call, part, x, initial or None)
        results.append(result if isinstance(result, list) else [result])
    (forward, *forward_states), (backward, *backward_states) = results
    final = [*forward_states, *backward_states]
    if layer.merge_mode is None:
        return [forward, backward, *final]
    merged = p.cat([forward, backward], -1) if layer.merge_mode == "concat" else p.elementwise(forward, backward)
    return [merged, *final] if layer.return_state else merged


@register_rule("layers.TimeDistributed")
def time_distributed(p: Primitives, call: Call) -> Tensor:
    """Call a layer on every step, with the same weights."""
    x = call.tensor("inputs")
    length = x.shape[1]
    steps = p.reduce(p.pin_axes(x, [1], "steps of a sequence"), [1])
    out: Tensor = call.run(call.layer.layer, steps)
    return Tensor((*out.dims[:1], *p.constant((length,), reason="steps of a sequence").dims, *out.dims[1:]))
