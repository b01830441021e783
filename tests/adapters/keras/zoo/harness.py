"""What every model must pass: a random plan moves nearly all parameters and leaves the outputs as they are."""

import time
from dataclasses import dataclass

import keras
import numpy as np
from rebasin_keras.tracing import trace, variable_names

from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = [
    "Report",
    "arrays_of",
    "assign",
    "balance",
    "check",
    "outputs_of",
    "permute_one_axis",
    "randomize",
    "relative_error",
]


@dataclass(frozen=True)
class Report:
    """Figures of one model."""

    graph: PermutationGraph
    parameters: int
    moved: float
    error: float
    seconds: float


def randomize(model, seed=0):
    """Give a model random weights of a useful size, so that a wrong axis shows: scales, statistics, zero starts."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        if not np.issubdtype(value.dtype, np.floating):
            continue
        noise = rng.standard_normal(value.shape)
        if "variance" in variable.path or "stddev" in variable.path:
            variable.assign((0.5 + rng.random(value.shape)).astype(value.dtype))
        elif value.ndim < 2 or value.std() < 1e-4:
            # Scales start at one, biases at zero; kernels that start constant or tiny would hide what they multiply.
            variable.assign((np.round(value.mean()) + 0.3 * noise).astype(value.dtype))
    return model


def balance(model, *inputs, steps=10):
    """Scale all normalization weights by one factor with which the outputs follow the inputs.

    A deep network with random weights either forgets its inputs, so that a wrong axis in an early layer would not show,
    or is chaotic, so that rounding alone changes the outputs. In between, a relative change of the inputs changes the
    outputs about as much.
    """
    scales = [v for v in model.weights if v.path.endswith("gamma") and len(v.shape) == 1]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in scales]
    noise = [np.random.default_rng(5).standard_normal(x.shape).astype(x.dtype) for x in inputs]
    nearby = [x + 1e-3 * x.std() * d for x, d in zip(inputs, noise, strict=True)]
    low, high = 0.2, 5.0
    for _ in range(steps if scales else 0):
        factor = float(np.sqrt(low * high))
        for variable, value in zip(scales, values, strict=True):
            variable.assign(value * factor)
        change = max(
            float(np.nan_to_num(np.abs(a - b).max() / np.abs(a).max(), nan=1.0))
            for a, b in zip(outputs_of(model, *inputs), outputs_of(model, *nearby), strict=True)
        )
        if 2e-5 < change < 5e-4:
            break
        low, high = (low, factor) if change >= 5e-4 else (factor, high)
    return model


def arrays_of(model):
    """Every weight as a NumPy array, by name."""
    return {n: np.array(keras.ops.convert_to_numpy(v)) for n, v in variable_names(model).items()}


def assign(model, arrays):
    """Write arrays into the weights of a model of the same architecture."""
    for variable, value in zip(variable_names(model).values(), arrays.values(), strict=True):
        variable.assign(value)
    return model


def outputs_of(model, *inputs):
    """Every floating-point output in eval mode, as NumPy arrays."""
    given = [keras.ops.convert_to_tensor(x) for x in inputs]
    result = model(given[0] if len(given) == 1 else given, training=False)
    found = [np.array(keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))) for x in keras.tree.flatten(result)]
    return [x.astype(np.float64) for x in found if np.issubdtype(x.dtype, np.floating)]


def relative_error(before, after):
    """Largest difference of any output, relative to the largest value of that output (dimensionless)."""
    assert len(before) == len(after) > 0
    errors = []
    for a, b in zip(before, after, strict=True):
        assert np.isfinite(a).all()
        assert a.std() > 1e-6 * np.abs(a).max() > 0, "a constant output would hide every error"
        errors.append(float(np.abs(a - b).max() / np.abs(a).max()))
    return max(errors)


def check(model, *inputs, tolerance=1e-4, moved=0.5, seed=0, clone=True, examples=(), balanced=False):
    """Trace a model, write a random plan over all groups into a copy, and compare: same outputs, other parameters."""
    randomize(model, seed)
    if balanced:
        balance(model, *inputs)
    start = time.perf_counter()
    graph = trace(model, *examples)
    seconds = time.perf_counter() - start
    old = arrays_of(model)
    assert list(graph.axes) == list(old)
    assert {n: tuple(s) for n, s in graph.shapes.items()} == {n: x.shape for n, x in old.items()}
    before = outputs_of(model, *inputs)
    new = Plan.random(graph, seed=seed).apply(old, graph)
    after = outputs_of(assign(keras.models.clone_model(model) if clone else model, new), *inputs)
    total = sum(x.size for x in old.values())
    changed = sum(int((old[n] != new[n]).sum()) for n in old)
    report = Report(graph, total, changed / total, relative_error(before, after), seconds)
    assert report.error <= tolerance, f"outputs differ by {report.error:.1e} (relative); at most {tolerance:.0e} may be"
    assert report.moved >= moved, f"only {report.moved:.1%} of the parameters moved\n{graph}"
    return report


def permute_one_axis(model, graph, inputs, group, seed=0):
    """Relative change of the outputs when a group moves one of its axes alone, the smallest over its axes."""
    rng = np.random.default_rng(seed)
    old = arrays_of(model)
    before = outputs_of(model, *inputs)
    errors = {}
    for name, axis in graph.occurrences(group):
        n = old[name].shape[axis]
        order = np.roll(rng.permutation(n), 1)
        changed = {**old, name: np.take(old[name], order, axis=axis)}
        if np.array_equal(changed[name], old[name]):
            continue
        errors[name, axis] = relative_error(before, outputs_of(assign(model, changed), *inputs))
    assign(model, old)
    return errors
