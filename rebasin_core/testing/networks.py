"""Random networks that come with everything a test of equivalence needs: layers, parameters, a graph and a forward.

A network is a list of `rebasin_core.layers`, from which its graph is found, and is computed here, with NumPy, from the
same list: the graph and the function know nothing of each other.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import autograd.numpy as anp
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SpecError
from rebasin_core.inference.layers import Activation, Concat, Conv, Dense, Flatten, Layer, Norm, Residual
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.testing.strategies import seeds

__all__ = ["LayerGraph", "layer_graphs"]

_FUNCTIONS = {
    "tanh": anp.tanh,
    "relu": lambda x: anp.maximum(x, 0.0),
    "sigmoid": lambda x: 1.0 / (1.0 + anp.exp(-x)),
}


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A network: what it computes, with which parameters, and which of their axes may be permuted together.

    Attributes
    ----------
    layers : tuple of Layer
        The network; activations are named after what they compute.
    params : dict of str to array
        Its parameters, in the layout of PyTorch (``dense1.weight``) or of Keras (``dense1/kernel``).
    graph : PermutationGraph
        Found from the layers.
    inputs : array
        A few inputs: ``(samples, features)`` or ``(samples, channels, places, ...)``.
    """

    layers: tuple[Layer, ...]
    params: dict[str, np.ndarray[Any, Any]]
    graph: PermutationGraph
    inputs: np.ndarray[Any, Any]

    def forward(self, params: Mapping[str, Array], inputs: Array) -> Array:
        """Compute the network, with NumPy or under autograd."""
        return _run(self.layers, params, inputs)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in self.params.items())
        return f"LayerGraph({list(self.layers)}, inputs {self.inputs.shape}, {shapes})"


@st.composite
def layer_graphs(
    draw: DrawFn, *, max_blocks: int = 4, max_width: int = 5, layout: str | None = None, dtype: str = "float64"
) -> LayerGraph:
    """Random networks of dense layers, convolutions (grouped too), norms, residuals, concatenations and a flatten.

    Norms, statistics and biases are random numbers of a useful size, so that a wrong axis shows in the outputs.

    Parameters
    ----------
    draw : callable
        Given by Hypothesis; leave it out.
    max_blocks : int
        How many blocks between the first layer and the last at most.
    max_width : int
        How many units or channels a layer has at most.
    layout : {"torch", "keras"}, optional
        Names and layout of the parameters; default: drawn.
    dtype : str
        Of parameters and inputs.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from rebasin_core.testing import check_equivalent
    >>> @settings(max_examples=5, deadline=None)
    ... @given(layer_graphs())
    ... def test_the_graph_is_right(net):
    ...     check_equivalent(net.params, net.inputs, graph=net.graph, forward=net.forward)
    >>> test_the_graph_is_right()
    """
    at_least(0, max_blocks=max_blocks)
    at_least(1, max_width=max_width)
    places = draw(st.sampled_from([(), (3,), (2, 3)]))
    build = _Builder(draw, draw(st.sampled_from(["torch", "keras"])) if layout is None else layout, max_width, places)
    inputs = build.width()
    build.layers += [build.layer(inputs, build.width()), build.activation()]
    for _ in range(draw(st.integers(0, max_blocks))):
        build.block()
    build.flatten()
    build.layers.append(build.layer(build.size, draw(st.integers(1, 3))))
    rng = np.random.default_rng(draw(seeds()))
    params = {name: _values(rng, name, shape).astype(dtype) for name, shape in build.shapes.items()}
    graph = PermutationGraph.from_layers(build.layers, params)
    return LayerGraph(tuple(build.layers), params, graph, rng.normal(size=(4, inputs, *places)).astype(dtype))


class _Builder:
    """A network under construction: `size` features at `places`, which are none once it is flattened."""

    def __init__(self, draw: DrawFn, layout: str, max_width: int, places: tuple[int, ...]) -> None:
        if layout not in ("torch", "keras"):
            raise SpecError(f'expected layout as "torch" or "keras", got {layout!r}')
        self.draw, self.layout, self.max_width, self.places = draw, layout, max_width, places
        self.size = 0
        self.layers: list[Layer] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.numbers = itertools.count(1)

    def width(self) -> int:
        return self.draw(st.integers(1, self.max_width))

    def activation(self) -> Activation:
        return Activation(self.draw(st.sampled_from(sorted(_FUNCTIONS, reverse=True))))

    def block(self) -> None:
        """Add one block, of those that fit what there is."""
        kinds = ["plain", "norm", "residual", "concat", *(["grouped", "flatten"] if self.places else [])]
        match self.draw(st.sampled_from(kinds)):
            case "plain":
                self.layers += [self.layer(self.size, self.width()), self.activation()]
            case "norm":
                self.layers.append(self.norm())
            case "grouped":
                groups = self.draw(st.sampled_from([g for g in range(1, self.size + 1) if self.size % g == 0]))
                self.layers += [self.layer(self.size, groups * self.width(), groups), self.activation()]
            case "flatten":
                self.flatten()
                self.layers += [self.layer(self.size, self.width()), self.activation()]
            case "residual":
                self.residual()
            case _:
                self.concat()

    def residual(self) -> None:
        start, inside, end = self.size, self.width(), self.width()
        shortcut = [] if self.draw(st.booleans()) else [self.layer(start, end)]
        first = self.layer(start, inside)
        self.layers.append(
            Residual([first, self.activation(), self.layer(inside, end if shortcut else start)], shortcut)
        )

    def concat(self) -> None:
        start, branches, total = self.size, [], 0
        for _ in range(2):
            branch: list[Layer] = []
            if self.draw(st.booleans()):
                branch = [self.layer(start, self.width()), self.activation()]
            total += self.size if branch else start
            branches.append(branch)
        self.layers.append(Concat(branches))
        self.size = total

    def flatten(self) -> None:
        if self.places:
            self.layers.append(Flatten("channels_first" if self.layout == "torch" else "channels_last"))
            self.size *= int(np.prod(self.places))
            self.places = ()

    def layer(self, inputs: int, outputs: int, groups: int = 1) -> Layer:
        """Make a dense layer, or a convolution where there are places."""
        kernel = tuple(self.draw(st.sampled_from([1, 3])) for _ in self.places)
        name = f"{'conv' if self.places else 'dense'}{next(self.numbers)}"
        if self.layout == "torch":
            self.shapes[f"{name}.weight"] = (outputs, inputs // groups, *kernel)
        else:
            self.shapes[f"{name}/kernel"] = (*kernel, inputs // groups, outputs)
        if self.draw(st.booleans()):
            self.shapes[f"{name}{'.' if self.layout == 'torch' else '/'}bias"] = (outputs,)
        self.size = outputs
        return Conv(name, groups=groups) if self.places else Dense(name)

    def norm(self) -> Norm:
        """Make a batch norm, or a norm over groups of features, of which a layer norm has one."""
        name = f"norm{next(self.numbers)}"
        batch = self.draw(st.booleans())
        names = ["weight", "bias", *(["running_mean", "running_var"] if batch else [])]
        if self.layout == "keras":
            names = ["gamma", "beta", *(["moving_mean", "moving_variance"] if batch else [])]
        separator = "." if self.layout == "torch" else "/"
        self.shapes |= {f"{name}{separator}{suffix}": (self.size,) for suffix in names}
        divisors = [g for g in range(1, self.size + 1) if self.size % g == 0]
        return Norm(name, None if batch else self.draw(st.sampled_from(divisors)))


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if len(shape) > 1:
        return np.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape) / max(shape)))
    positive = name.startswith("norm") and not name.endswith(("bias", "beta", "mean"))
    return rng.uniform(0.5, 1.5, size=shape) if positive else rng.normal(size=shape)


# --- computing --------------------------------------------------------------------------------------------------------
def _run(layers: Sequence[Layer], params: Mapping[str, Array], x: Array) -> Array:
    for layer in layers:
        x = _compute(layer, params, x)
    return x


def _compute(layer: Layer, params: Mapping[str, Array], x: Array) -> Array:
    match layer:
        case Dense(name):
            return _biased(params, name, anp.dot(x, _matrices(params, name).T))
        case Conv(name, groups):
            return _biased(params, name, _convolve(_matrices(params, name), x, groups))
        case Norm(name, norm_groups):
            return _normalize(params, name, norm_groups, x)
        case Activation(name):
            return _FUNCTIONS[name](x)
        case Flatten(order):
            return anp.reshape(x if order == "channels_first" else anp.moveaxis(x, 1, -1), (len(x), -1))
        case Residual(inside, shortcut):
            return _run(inside, params, x) + _run(shortcut, params, x)
        case Concat(branches):
            return anp.concatenate([_run(branch, params, x) for branch in branches], axis=1)
    raise SpecError(f"layer_graphs() draws no {type(layer).__name__}")


def _find(params: Mapping[str, Array], owner: str, *suffixes: str) -> Array | None:
    names = (f"{owner}{separator}{suffix}" for suffix in suffixes for separator in "./")
    return next((params[name] for name in names if name in params), None)


def _matrices(params: Mapping[str, Array], owner: str) -> Array:
    """Weight of a layer, outputs and inputs first."""
    kernel = _find(params, owner, "kernel")
    if kernel is None:
        return _find(params, owner, "weight")
    return anp.transpose(kernel, (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2)))


def _biased(params: Mapping[str, Array], owner: str, y: Array) -> Array:
    bias = _find(params, owner, "bias")
    return y if bias is None else y + _per_channel(bias, y)


def _per_channel(vector: Array, x: Array) -> Array:
    return anp.reshape(vector, (-1, *(1,) * (x.ndim - 2)))


def _convolve(weight: Array, x: Array, groups: int) -> Array:
    """Correlate with zeros around, so that the places stay as many."""
    samples, _, *places = x.shape
    outputs, inputs, *kernel = weight.shape
    padded = anp.pad(x, [(0, 0), (0, 0), *((k // 2, k // 2) for k in kernel)], mode="constant")
    total = 0.0
    for offset in np.ndindex(*kernel):
        window = tuple(slice(o, o + n) for o, n in zip(offset, places, strict=True))
        part = anp.reshape(padded[(slice(None), slice(None), *window)], (samples, groups, inputs, -1))
        matrix = anp.reshape(weight[(slice(None), slice(None), *offset)], (groups, outputs // groups, inputs))
        total = total + anp.einsum("ngip,goi->ngop", part, matrix)
    return anp.reshape(total, (samples, outputs, *places))


def _normalize(params: Mapping[str, Array], name: str, groups: int | None, x: Array) -> Array:
    mean = _find(params, name, "running_mean", "moving_mean")
    variance = _find(params, name, "running_var", "moving_variance")
    if groups is None:
        x = (x - _per_channel(mean, x)) / anp.sqrt(_per_channel(variance, x) + 1e-3)
    else:
        grouped = anp.reshape(x, (len(x), groups, -1))
        grouped = grouped - anp.mean(grouped, axis=2, keepdims=True)
        grouped = grouped / anp.sqrt(anp.mean(grouped**2, axis=2, keepdims=True) + 1e-3)
        x = anp.reshape(grouped, x.shape)
    scale, shift = _find(params, name, "weight", "gamma"), _find(params, name, "bias", "beta")
    return x * _per_channel(scale, x) + _per_channel(shift, x)
