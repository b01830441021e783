"""Layer specifications: a network written as a list, where no tracer is at hand.

A specification names its parameters by the name of its module: ``Dense("fc1")`` reads ``fc1.weight`` and ``fc1.bias``
in the layout of PyTorch, or ``fc1.kernel`` and ``fc1.bias`` (also with ``/``) in the layout of Keras. Every
specification is lowered to the primitives of `rebasin_core.inference`, so that the groups are found by the same
algorithm as for a traced network.

Places of images and steps of sequences are left out: they stay in any case. What flows from layer to layer is the axis
of the features.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

from rebasin_core.errors import SpecError
from rebasin_core.inference import Primitives, Tensor, build_graph, composites, in_order
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.sizes import tuple_shape

__all__ = [
    "Activation",
    "Attention",
    "Concat",
    "Conv",
    "Dense",
    "Embedding",
    "Flatten",
    "Layer",
    "Norm",
    "Residual",
    "graph_from_layers",
]

_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


@runtime_checkable
class Layer(Protocol):
    """What a specification must do; write your own for a layer that is not here."""

    def input_size(self, network: "Network") -> int | None:
        """Return how many features the layer reads, where its parameters tell."""
        ...

    def lower(self, network: "Network", x: "Features") -> "Features":
        """Record the layer."""
        ...


@dataclass(frozen=True)
class Features:
    """What flows between layers: the axis of the features, and how it was flattened if it was.

    A flattened axis counts channels and places; how many places there are shows when the next dense layer reads it.
    """

    tensor: Tensor
    flattened: Literal["channels_first", "channels_last"] | None = None

    @property
    def size(self) -> int:
        """How many features there are, places not counted."""
        return self.tensor.shape[0]


class Network:
    """The parameters of a network, declared as the layers ask for them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.p = Primitives()
        self.shapes = shapes
        self.declared: dict[str, Tensor] = {}

    def find(self, owner: str, *suffixes: str) -> str | None:
        """Name of the first of these parameters of a module that exists."""
        names = [f"{owner}{separator}{suffix}" for suffix in suffixes for separator in "./"]
        return next((name for name in names if name in self.shapes), None)

    def need(self, owner: str, *suffixes: str) -> str:
        """Name of a parameter that must exist."""
        name = self.find(owner, *suffixes)
        if name is None:
            near = [n for n in self.shapes if n.startswith(owner)] or list(self.shapes)
            raise SpecError(
                f"layer {owner!r} needs a parameter {owner}.{suffixes[0]}, which params lacks; there is "
                f"{', '.join(map(repr, near[:6]))}"
            )
        return name

    def tensor(self, name: str) -> Tensor:
        """Return a parameter; a layer that is used twice gets the same one twice."""
        if name not in self.declared:
            buffer = name.replace("/", ".").rpartition(".")[2] in _STATISTICS
            self.declared[name] = self.p.param(name, self.shapes[name], buffer=buffer)
        return self.declared[name]

    def optional(self, owner: str, *suffixes: str) -> Tensor | None:
        """Return a parameter, or None where there is none of that name."""
        name = self.find(owner, *suffixes)
        return None if name is None else self.tensor(name)

    def run(self, layers: Sequence[Layer], x: Features) -> Features:
        """Record layers one after the other."""
        for layer in layers:
            x = layer.lower(self, x)
        return x

    def unflattened(self, x: Features, size: int, owner: str) -> Tensor:
        """Return the features as a layer of `size` inputs reads them: with their places, if they were flattened."""
        if x.flattened is None:
            if x.size != size:
                raise SpecError(
                    f"layer {owner!r} reads {size} features, but gets {x.size}; is a layer missing before it?"
                )
            return x.tensor
        if size % x.size:
            raise SpecError(f"layer {owner!r} reads {size} features, which are not a multiple of {x.size} channels")
        places = size // x.size
        spread = self.p.constant((places,), reason="places of a flattened image")
        labels = "cs" if x.flattened == "channels_first" else "sc"
        return self.p.reshape(self.p.ein([x.tensor, spread], ["c", "s"], labels), (size,))


@dataclass(frozen=True)
class Dense:
    """A dense layer; `name` owns ``weight`` (outputs, inputs) or ``kernel`` (inputs, outputs), and perhaps ``bias``."""

    name: str

    def _weight(self, network: Network) -> tuple[str, bool]:
        name = network.need(self.name, "weight", "kernel")
        if len(network.shapes[name]) != 2:
            raise SpecError(f"parameter {name!r} of a dense layer must have two axes, got shape {network.shapes[name]}")
        return name, name.endswith("kernel")

    def input_size(self, network: Network) -> int | None:
        """Return how many features the layer reads."""
        name, transposed = self._weight(network)
        return network.shapes[name][0 if transposed else 1]

    def lower(self, network: Network, x: Features) -> Features:
        """Record the layer."""
        name, transposed = self._weight(network)
        weight = network.tensor(name)
        if transposed:
            weight = network.p.permute(weight, [1, 0])
        read = network.unflattened(x, weight.shape[1], self.name)
        return Features(composites.linear(network.p, read, weight, network.optional(self.name, "bias")))


@dataclass(frozen=True)
class Conv:
    """A convolution of any number of dimensions.

    `name` owns ``weight`` (outputs, inputs / groups, places ...), with the first two axes exchanged where `transposed`;
    or ``kernel`` (places ..., inputs / groups, outputs), with the last two exchanged where `transposed`.
    """

    name: str
    groups: int = 1
    transposed: bool = False

    def _weight(self, network: Network) -> str:
        return network.need(self.name, "weight", "kernel")

    def input_size(self, network: Network) -> int | None:
        """Return how many channels the layer reads."""
        name = self._weight(network)
        shape = network.shapes[name]
        if name.endswith("kernel"):
            return shape[-1] if self.transposed else shape[-2] * self.groups
        return shape[0] if self.transposed else shape[1] * self.groups

    def lower(self, network: Network, x: Features) -> Features:
        """Record the layer."""
        p, name = network.p, self._weight(network)
        weight = network.tensor(name)
        n = weight.ndim
        if x.flattened is not None or x.size != self.input_size(network):
            raise SpecError(f"convolution {self.name!r} reads {self.input_size(network)} channels, but gets {x.size}")
        if name.endswith("kernel"):
            weight = p.permute(weight, [n - 1, n - 2, *range(n - 2)])
        image = p.reshape(x.tensor, (1, x.size, *(1,) * (n - 2)))
        out = p.conv(image, weight, [1] * (n - 2), groups=self.groups, transposed=self.transposed)
        features = p.reshape(out, (out.shape[1],))
        bias = network.optional(self.name, "bias")
        return Features(features if bias is None else p.elementwise(features, bias))


@dataclass(frozen=True)
class Norm:
    """A normalization; `name` owns whichever of its scales, shifts and statistics exist.

    Parameters
    ----------
    name : str
        The module: ``weight``, ``bias``, ``running_mean``, ``running_var``, or ``gamma``, ``beta``, ``moving_mean``,
        ``moving_variance``.
    groups : int, optional
        How many groups of features are normalized each on its own: 1 for a layer norm or an RMS norm; None (batch and
        instance norm) for every feature on its own.
    """

    name: str
    groups: int | None = None

    def input_size(self, network: Network) -> int | None:
        """Return how many features the layer reads, where it has parameters."""
        name = network.find(self.name, "weight", "gamma", "bias", "beta", *_STATISTICS)
        return None if name is None else network.shapes[name][0]

    def lower(self, network: Network, x: Features) -> Features:
        """Record the layer."""
        p, y = network.p, x.tensor
        if self.groups is not None:
            if x.size % self.groups:
                raise SpecError(f"norm {self.name!r} cannot cut {x.size} features into {self.groups} groups")
            grouped = p.reshape(y, (self.groups, x.size // self.groups))
            y = p.reshape(p.normalize(grouped, [1]), (x.size,))
        suffixes = (("weight", "gamma"), ("bias", "beta"), *((s,) for s in _STATISTICS))
        vectors = [network.optional(self.name, *names) for names in suffixes]
        y = p.elementwise(y, *(v for v in vectors if v is not None))
        return Features(y, x.flattened)


@dataclass(frozen=True)
class Activation:
    """An element-wise function, a dropout or a pooling: it has no parameters and treats all features alike.

    A softmax over the features is symmetric in them, and counts too; a GLU or a maxout is not one of these.
    """

    name: str = "activation"

    def input_size(self, network: Network) -> int | None:
        """Return None: any number."""
        return None

    def lower(self, network: Network, x: Features) -> Features:
        """Return the features as they are."""
        return x


@dataclass(frozen=True)
class Flatten:
    """Flatten channels and places; the next dense layer tells how many places there are."""

    order: Literal["channels_first", "channels_last"] = "channels_first"

    def input_size(self, network: Network) -> int | None:
        """Return None: any number."""
        return None

    def lower(self, network: Network, x: Features) -> Features:
        """Remember the order."""
        if self.order not in ("channels_first", "channels_last"):
            raise SpecError(f'expected order="channels_first" or "channels_last", got {self.order!r}')
        return Features(x.tensor, self.order)


@dataclass(frozen=True)
class Residual:
    """The sum of some layers and of a shortcut around them: the features themselves, or other layers."""

    layers: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    def input_size(self, network: Network) -> int | None:
        """Return what the first layer inside reads."""
        return _first_size(network, [*self.layers, *self.shortcut])

    def lower(self, network: Network, x: Features) -> Features:
        """Record both ways and their sum."""
        a, b = network.run(self.layers, x), network.run(self.shortcut, x)
        if a.size != b.size:
            raise SpecError(
                f"a residual adds {a.size} features to {b.size}; give a shortcut= that changes their number"
            )
        if a.flattened != b.flattened:
            raise SpecError("a residual adds features of which one side is flattened; flatten before it or behind it")
        return Features(network.p.elementwise(a.tensor, b.tensor), a.flattened)


@dataclass(frozen=True)
class Concat:
    """Branches side by side, concatenated along the features; an empty branch passes its input on."""

    branches: Sequence[Sequence[Layer]]

    def input_size(self, network: Network) -> int | None:
        """Return what the first layer inside reads."""
        return _first_size(network, [layer for branch in self.branches for layer in branch])

    def lower(self, network: Network, x: Features) -> Features:
        """Record every branch."""
        parts = [network.run(branch, x) for branch in self.branches]
        # How many places each branch has, nobody tells; and channels last, the places of one follow those of the other.
        if any(part.flattened for part in parts):
            raise SpecError("a concatenation of flattened branches is not told apart by its sizes; flatten behind it")
        return Features(network.p.cat([part.tensor for part in parts], 0))


@dataclass(frozen=True)
class Attention:
    """Multi-head attention of a sequence on itself.

    Parameters
    ----------
    heads : int
        Number of heads of the queries.
    query, key, value, out : str
        The modules of its four dense layers. `query` alone, with `key` and `value` None, is one layer for all three,
        whose outputs are first all queries, then all keys, then all values.
    key_heads : int, optional
        Number of heads of keys and values, where consecutive queries share one.
    """

    heads: int
    query: str
    key: str | None
    value: str | None
    out: str
    key_heads: int | None = None

    def input_size(self, network: Network) -> int | None:
        """Return how many features the layer reads."""
        return Dense(self.query).input_size(network)

    def lower(self, network: Network, x: Features) -> Features:
        """Record the layer on a sequence of one step, which has the same heads and channels as a long one."""
        p, key_heads = network.p, self.key_heads or self.heads
        if self.key is None or self.value is None:
            fused = Dense(self.query).lower(network, x).tensor
            channels = fused.shape[0] // (self.heads + 2 * key_heads)
            starts = [0, self.heads * channels, (self.heads + key_heads) * channels, fused.shape[0]]
            parts = [p.gather(fused, 0, range(a, b)) for a, b in pairwise(starts)]
        else:
            parts = [Dense(name).lower(network, x).tensor for name in (self.query, self.key, self.value)]
        counts = (self.heads, key_heads, key_heads)
        for part, count in zip(parts, counts, strict=True):
            if part.shape[0] % count:
                raise SpecError(f"{part.shape[0]} outputs of attention {self.query!r} do not divide into {count} heads")
        q, k, v = (p.reshape(t, (h, 1, t.shape[0] // h)) for t, h in zip(parts, counts, strict=True))
        y = composites.attention(p, q, k, v)
        features = Features(p.reshape(y, (y.shape[0] * y.shape[2],)))
        return Dense(self.out).lower(network, features)


@dataclass(frozen=True)
class Embedding:
    """A table of vectors; `name` owns ``weight`` or ``embeddings`` (rows, features)."""

    name: str

    def input_size(self, network: Network) -> int | None:
        """Return 1: an index."""
        return 1

    def lower(self, network: Network, x: Features) -> Features:
        """Record the look-up."""
        table = network.tensor(network.need(self.name, "weight", "embeddings"))
        return Features(composites.embedding(network.p, table, ()))


def graph_from_layers(
    layers: Sequence[Layer], params: Mapping[str, Any], *, pin: Iterable[str] = ()
) -> PermutationGraph:
    """Find the permutation graph of a network given as a list of layers.

    Parameters
    ----------
    layers : sequence of Layer
        What the network computes, in order; the result of the last one is its output.
    params : mapping of str to array
        Its parameters, of any framework; only their shapes are read. Scalars (counters) may be left out of the layers.
    pin : iterable of str, optional
        Groups, or parameters all of whose groups, stay as they are.

    Raises
    ------
    SpecError
        A layer names a parameter that is not there, sizes do not fit, or no layer names a parameter.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"fc1.weight": np.ones((8, 3)), "fc1.bias": np.ones(8), "fc2.weight": np.ones((2, 8))}
    >>> graph = graph_from_layers([Dense("fc1"), Activation(), Dense("fc2")], params)
    >>> graph.axes["fc2.weight"]
    AxesSpec(". fc1")
    """
    for layer in layers:
        if not isinstance(layer, Layer):
            raise SpecError(f"expected layers such as Dense('fc1'), got {layer!r}")
    shapes = {name: tuple_shape(array) for name, array in params.items()}
    network = Network(shapes)
    size = _first_size(network, layers)
    if size is None:
        raise SpecError("no layer has parameters, so that there is nothing to permute")
    inputs = Features(network.p.constant((size,), reason="an input of the network"))
    outputs = network.run(layers, inputs)
    network.p.pin([outputs.tensor], "reaches the output")
    unnamed = [name for name, shape in shapes.items() if name not in network.declared and shape != ()]
    if unnamed:
        raise SpecError(
            f"no layer names {', '.join(map(repr, unnamed[:6]))}. Every parameter must belong to a layer; leave out of "
            f"params what is not a part of the network"
        )
    scalars = {name: (shape, "a scalar") for name, shape in shapes.items() if name not in network.declared}
    graph = in_order(build_graph(network.p.recorder, fixed=scalars), shapes)
    return graph.pin(pin) if pin else graph


def _first_size(network: Network, layers: Sequence[Layer]) -> int | None:
    """How many features the first layer reads whose parameters tell."""
    return next((size for layer in layers if (size := layer.input_size(network)) is not None), None)
