"""What a layer specification is written with: the features that flow between layers, and the record of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rebasin_core.errors import SpecError
from rebasin_core.inference import Primitives, Tensor

__all__ = ["STATISTICS", "Features", "Layer", "NetworkRecord"]

STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


@runtime_checkable
class Layer(Protocol):
    """What a specification must do; write your own for a layer that is not here."""

    def input_size(self, network: "NetworkRecord") -> int | None:
        """Return how many features the layer reads, where its parameters tell."""
        ...

    def lower(self, network: "NetworkRecord", x: "Features") -> "Features":
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


class NetworkRecord:
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
            buffer = name.replace("/", ".").rpartition(".")[2] in STATISTICS
            self.declared[name] = self.p.param(name, self.shapes[name], buffer=buffer)
        return self.declared[name]

    def optional(self, owner: str, *suffixes: str) -> Tensor | None:
        """Return a parameter, or None where there is none of that name."""
        name = self.find(owner, *suffixes)
        return None if name is None else self.tensor(name)

    def run(self, layers: Sequence[Layer], x: Features) -> Features:
        """Record layers one after the other."""
        for layer in layers:
            with self.p.recorder.during(_title(layer)):
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


def _title(layer: Layer) -> str:
    """What kind of layer it is, and the module whose parameters it reads."""
    owner = getattr(layer, "name", None) or getattr(layer, "query", None)
    return type(layer).__name__ + (f" {owner}" if owner else "")
