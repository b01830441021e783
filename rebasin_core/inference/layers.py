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
from typing import Any, Literal

from rebasin_core.errors import SpecError
from rebasin_core.inference import build_graph, composites, in_order
from rebasin_core.inference.layer_record import STATISTICS, Features, Layer, NetworkRecord
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


@dataclass(frozen=True)
class Dense:
    """A dense layer; `name` owns ``weight`` (outputs, inputs) or ``kernel`` (inputs, outputs), and perhaps ``bias``."""

    name: str

    def _weight(self, network: NetworkRecord) -> tuple[str, bool]:
        name = network.need(self.name, "weight", "kernel")
        if len(network.shapes[name]) != 2:
            raise SpecError(f"parameter {name!r} of a dense layer must have two axes, got shape {network.shapes[name]}")
        return name, name.endswith("kernel")

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return how many features the layer reads."""
        name, transposed = self._weight(network)
        return network.shapes[name][0 if transposed else 1]

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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

    def _weight(self, network: NetworkRecord) -> str:
        return network.need(self.name, "weight", "kernel")

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return how many channels the layer reads."""
        name = self._weight(network)
        shape = network.shapes[name]
        if name.endswith("kernel"):
            return shape[-1] if self.transposed else shape[-2] * self.groups
        return shape[0] if self.transposed else shape[1] * self.groups

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return how many features the layer reads, where it has parameters."""
        name = network.find(self.name, "weight", "gamma", "bias", "beta", *STATISTICS)
        return None if name is None else network.shapes[name][0]

    def lower(self, network: NetworkRecord, x: Features) -> Features:
        """Record the layer."""
        p, y = network.p, x.tensor
        if self.groups is not None:
            if x.size % self.groups:
                raise SpecError(f"norm {self.name!r} cannot cut {x.size} features into {self.groups} groups")
            grouped = p.reshape(y, (self.groups, x.size // self.groups))
            y = p.reshape(p.normalize(grouped, [1]), (x.size,))
        suffixes = (("weight", "gamma"), ("bias", "beta"), *((s,) for s in STATISTICS))
        vectors = [network.optional(self.name, *names) for names in suffixes]
        y = p.elementwise(y, *(v for v in vectors if v is not None))
        return Features(y, x.flattened)


@dataclass(frozen=True)
class Activation:
    """An element-wise function, a dropout or a pooling: it has no parameters and treats all features alike.

    A softmax over the features is symmetric in them, and counts too; a GLU or a maxout is not one of these.
    """

    name: str = "activation"

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return None: any number."""
        return None

    def lower(self, network: NetworkRecord, x: Features) -> Features:
        """Return the features as they are."""
        return x


@dataclass(frozen=True)
class Flatten:
    """Flatten channels and places; the next dense layer tells how many places there are."""

    order: Literal["channels_first", "channels_last"] = "channels_first"

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return None: any number."""
        return None

    def lower(self, network: NetworkRecord, x: Features) -> Features:
        """Remember the order."""
        if self.order not in ("channels_first", "channels_last"):
            raise SpecError(f'expected order="channels_first" or "channels_last", got {self.order!r}')
        return Features(x.tensor, self.order)


@dataclass(frozen=True)
class Residual:
    """The sum of some layers and of a shortcut around them: the features themselves, or other layers."""

    layers: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return what the first layer inside reads."""
        return _first_size(network, [*self.layers, *self.shortcut])

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return what the first layer inside reads."""
        return _first_size(network, [layer for branch in self.branches for layer in branch])

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return how many features the layer reads."""
        return Dense(self.query).input_size(network)

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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

    def input_size(self, network: NetworkRecord) -> int | None:
        """Return 1: an index."""
        return 1

    def lower(self, network: NetworkRecord, x: Features) -> Features:
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
    network = NetworkRecord(shapes)
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


def _first_size(network: NetworkRecord, layers: Sequence[Layer]) -> int | None:
    """How many features the first layer reads whose parameters tell."""
    return next((size for layer in layers if (size := layer.input_size(network)) is not None), None)
