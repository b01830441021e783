"""REPAIR: every unit of a merged network is given the mean and the deviation it should have; the rule."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rebasin_core.backends.dtypes import resolution, widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import DataError, NonFiniteError, SettingError
from rebasin_core.line.mean import as_shares, mean
from rebasin_core.line.reestimation import inputs_of
from rebasin_core.models.data import Batches
from rebasin_core.models.model import Model, open_pair
from rebasin_core.models.unit_layers import Outputs, UnitLayer, check_unit_layers, find_unit_layers
from rebasin_core.support.progress import Progress, check_flag, progress_bar
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["repair", "repair_params"]

Params = dict[str, Array]
Vector = np.ndarray[Any, np.dtype[np.float64]]


def repair(
    model: Any,
    models: Sequence[Any],
    data: Any,
    *,
    weights: Sequence[float] | None = None,
    graph: PermutationGraph | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> Any:
    """Return a copy of a merged model whose units have the mean and the deviation of the models it was merged from.

    An average of units that agree in part only says less than each of them: its variance collapses, layer after layer.
    Here the weights of every unit are multiplied by a number, and its bias is shifted, so that mean and standard
    deviation of what it says are the weighted means of those of the models. Choose it for networks without batch
    normalization; where there is some, `rebasin_core.reestimate` does as much in one pass. `rebasin_core.merge` and
    `rebasin_core.Alignment.merge` take ``repair=`` and do it along the way. It needs inputs, no targets and no
    training.

    Parameters
    ----------
    model : any model an adapter carries
        The merged network; it is not changed.
    models : sequence of models
        Those that were averaged, *re-based*: their units are in the order of `model`.
    data : pair of arrays, iterable of pairs, or an array
        ``(inputs, targets)``, batches of it, or inputs alone; targets are not read.
    weights : sequence of float, optional
        What each of the models counts, positive; they are divided by their sum. Default: all alike.
    graph : PermutationGraph, optional
        Its groups say which units are hidden; default: found in the model, with the first batch as example inputs.
    batch_size : int, optional
        Cut arrays into batches of this size; default: one batch. The result is the same, but for rounding.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Returns
    -------
    model
        Of the same type, with other values in its weights.

    Raises
    ------
    SpecError
        The model is a mapping of arrays, which does not say what its layers give.
    UnsupportedModelError
        No layer can be repaired, or the adapter cannot tell.
    DataError
        No data, or a single sample, which has no deviation.
    NonFiniteError
        What a layer gives holds NaN or infinity.

    Notes
    -----
    Repaired is every layer that produces a group of the graph: linear, convolutional, embedding and norm layers, before
    the activation function. The layer of the outputs stays as it is, and so do layers that share their parameters with
    others, and groups that were pinned. With ``m`` and ``s`` for mean and deviation over all samples (and places of an
    image), the weights of a unit become ``w s* / s`` and its bias ``(b - m) s* / s + m*``, where ``s*`` and ``m*`` are
    the weighted means of the models'. Without a bias the weights are rescaled only: the deviation is then right, the
    mean is not. A unit whose activation is the same for every sample keeps its weights.

    Layers are repaired in the order in which they compute, each measured behind those before it: one pass over the data
    for each of the models and for each layer, after which every mean and deviation is what it should be on these data,
    to rounding. A layer that is called several times is measured over all calls at once, and where what it gives comes
    back to it, the result is nearly that. The paper's code measures all layers in one pass, in which each is normalized
    by the batch; for a single batch, the two agree. Data that differ from pass to pass, such as images shifted at
    random, blur the result.

    References
    ----------
    .. [1] K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted Activations for
       Interpolation Repair. ICLR 2023. arXiv:2211.08403

    Examples
    --------
    ``repaired = rb.repair(merged, [a, rebased], inputs)``; the page on merging runs it. Plain arrays do not say which
    of them make a layer:

    >>> import numpy as np, rebasin_core as rb
    >>> a, b = {"w": np.ones(2)}, {"w": np.zeros(2)}
    >>> rb.repair(rb.interpolate(a, b), [a, b], np.ones((4, 2)))
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SpecError: a plain mapping of arrays, or a forward= of your own, does not say what its ...
    """
    check_flag(progress=progress)
    models = list(models)
    if not models:
        raise SettingError("expected models as the networks that were averaged, re-based onto each other; got none")
    shares, batches = as_shares(None, weights, len(models)), inputs_of(data, batch_size)
    pairs = [open_pair(model, other) for other in models]
    opened = pairs[0][0]
    check_unit_layers(opened)
    if graph is None:
        graph = opened.adapter.graph(model, *_examples(opened, batches))
    graph.check_params(opened.params, "the model")
    ends = [b.params for _, b in pairs]
    return opened.rebuild(repair_params(opened, opened.params, ends, shares, graph, batches, progress))


def _examples(model: Model, batches: Batches) -> tuple[Any, ...]:
    """Inputs to trace with, where their shape is not known from the model."""
    if model.adapter.example_inputs(model.source) is not None:
        return ()
    ((inputs, _),) = batches.first(1)
    return inputs if isinstance(inputs, tuple) else (inputs,)


def repair_params(
    model: Model,
    params: Mapping[str, Array],
    ends: Sequence[Mapping[str, Array]],
    shares: Sequence[float],
    graph: PermutationGraph,
    batches: Batches | None,
    show: bool = False,
) -> Params:
    """Parameters whose units have the weighted mean statistics of the ends; as they are where there are no data.

    Parameters
    ----------
    model : Model
        A network of this architecture.
    params : mapping of str to array
        The merged parameters.
    ends : sequence of mappings of str to array
        What they are the mean of, in the same order of units.
    shares : sequence of float
        What each end counts, not negative, summing to 1.
    graph : PermutationGraph
        Whose groups are the hidden units.
    batches : Batches or None
        What to measure on.
    show : bool, default False
        Show a progress bar.

    Raises
    ------
    SettingError, SpecError, UnsupportedModelError, DataError, NonFiniteError
    """
    if batches is None:
        return dict(params)
    if min(shares) < 0:
        raise SettingError(
            f"between two networks every unit has a deviation of its own; beyond them there is none to repair to: "
            f"expected t from 0 to 1 with repair=, got {shares[-1]!r}"
        )
    found = find_unit_layers(model, graph)
    params = dict(params)
    with model.keep_random_state(), progress_bar(len(ends) + len(found.layers), "repair", show) as bar:
        measured = [_measured(model.backend, found.outputs, end, batches, None, bar) for end in ends]
        for name in measured[0]:
            moments = [{"mean": layers[name].mean, "deviation": layers[name].deviation} for layers in measured]
            now = _measured(model.backend, found.outputs, params, batches, name, bar)[name]
            params |= _moved(model.backend, params, found.layers[name], now, **mean(moments, shares))
    return params


class _Moments:
    """Mean and deviation per unit over all rows that were added, in double precision."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, backend: Backend, x: Array) -> None:
        x = widened(backend, x)
        n = backend.shape(x)[0]
        center = backend.sum(x, axis=0, keepdims=True) / n
        squares = backend.to_numpy(backend.sum((x - center) * (x - center), axis=0)).astype(np.float64)
        shift = backend.to_numpy(center)[0].astype(np.float64) - self.mean
        total = self.count + n
        # Chan's update: batches of any sizes give what one batch of all would.
        self._squares = self._squares + squares + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    @property
    def deviation(self) -> Vector:
        return np.sqrt(self._squares / self.count)


def _measured(
    backend: Backend,
    outputs: Outputs,
    params: Mapping[str, Array],
    batches: Batches,
    only: str | None,
    bar: Progress,
) -> dict[str, _Moments]:
    """Moments of what the layers give, or one of them, in the order in which they compute."""
    found: dict[str, _Moments] = {}
    for inputs, _ in batches:
        for name, x in outputs(params, inputs):
            if only in (None, name):
                found.setdefault(name, _Moments()).add(backend, x)
    for name, moments in found.items():
        if moments.count < 2:
            raise DataError(
                f"a deviation needs more than one sample, and layer {name!r} got {moments.count}; pass more data as "
                f"repair="
            )
        if not np.isfinite(moments.deviation).all():
            raise NonFiniteError(f"what layer {name!r} gives holds NaN or infinity; check the data and the weights")
    bar.update(only or "")
    return found


def _moved(
    backend: Backend, params: Params, layer: UnitLayer, now: _Moments, mean: Vector, deviation: Vector
) -> Params:
    """Parameters of a layer that moves its units from their present mean and deviation to other ones."""
    weight = params[layer.weight]
    # Below this, the deviation is the rounding of a unit whose activation never changes.
    least = 16.0 * resolution(backend.dtype(widened(backend, weight))) * np.abs(now.mean)
    alive = now.deviation > least
    ratio = np.where(alive, deviation / np.where(alive, now.deviation, 1.0), 1.0)
    shape = [1] * len(backend.shape(weight))
    shape[layer.axis] = len(ratio)
    found = {layer.weight: _times(backend, weight, ratio.reshape(shape))}
    if layer.bias is not None:
        bias = params[layer.bias]
        exact = (backend.to_numpy(widened(backend, bias)).astype(np.float64) - now.mean) * ratio + mean
        found[layer.bias] = _like(backend, exact, bias)
    return found


def _times(backend: Backend, x: Array, factor: Vector) -> Array:
    wide = widened(backend, x)
    return backend.astype(wide * _like(backend, factor, wide), backend.dtype(x))


def _like(backend: Backend, values: Vector, x: Array) -> Array:
    wide = widened(backend, x)
    return backend.astype(backend.asarray(values.astype(backend.dtype(wide)), like=wide), backend.dtype(x))
