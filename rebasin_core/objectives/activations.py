"""Correlation of activations: an objective that looks at what the units say, not at their weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.models.data import as_batches, batch_size
from rebasin_core.models.model import Model
from rebasin_core.objectives.base import BoundObjective, Params, Sample, Similarity, check_batches
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Activations", "Collect", "HasActivations"]

Collect: TypeAlias = Callable[[Params, Any], Mapping[str, list[Array]]]
"""``collect(params, inputs)``: per group, the activations of every layer that produces it, each (samples, units)."""


@runtime_checkable
class HasActivations(Protocol):
    """The ability of an adapter that knows where the activations of a group are produced."""

    def activations(self, model: Any, graph: PermutationGraph) -> Collect:
        """Return the function that collects them."""
        ...


@dataclass(frozen=True)
class Activations:
    """One minus the mean correlation between the units of A and those of the re-based B, over the same inputs.

    Averaged over the units of a group, over the layers that produce it, and over groups; dimensionless, 0 to 2. Choose
    it when data are at hand and weights say little, as where scales differ; it needs the inputs only, no targets.

    Parameters
    ----------
    data : pair of arrays or iterable of pairs
        ``(inputs, targets)`` or batches of it; targets are not read.
    batch_size : int, optional
        Cut a pair of arrays into batches of this size; default: one batch.
    evaluation_batches : int, default 8
        How many batches, the first ones, hard plans are compared on.

    Raises
    ------
    SettingError, DataError
        A setting is out of range, or the data are no batches.
    UnsupportedModelError
        The model's adapter cannot tell where activations are produced, or no group is produced by a layer it knows.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       section 3.1, and Y. Li et al. Convergent Learning: Do different neural networks learn the same representations?
       2015.
    """

    data: Any
    _: KW_ONLY
    batch_size: int | None = None
    evaluation_batches: int = 8
    name: ClassVar[str] = "activations"

    def __post_init__(self) -> None:
        check_batches(self.batch_size, self.evaluation_batches)

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        collect = self.collector(model, graph)
        batches = as_batches(self.data, self.batch_size)
        fixed = batches.first(self.evaluation_batches)

        def value(a: Params, b: Params, batch: Sample) -> Array:
            here, there = collect(a, batch[0]), collect(b, batch[0])
            pairs = [pair for group, xs in here.items() for pair in zip(xs, there[group], strict=True)]
            weights = [1.0 / (len(here) * len(xs)) for xs in here.values() for _ in xs]
            backend = model.backend
            return sum(w * _disagreement(backend, x, y) for w, (x, y) in zip(weights, pairs, strict=True))

        def evaluation() -> Iterator[tuple[float, Sample]]:
            for batch in fixed:
                yield float(batch_size(batch)), batch

        def similarity(a: Params, b: Params) -> dict[str, Array]:
            return _correlations(model.backend, collect, fixed, a, b)

        return BoundObjective(self.name, value, batches.shuffled, evaluation, similarity=similarity)

    def hint(self, model: Model, graph: PermutationGraph) -> Similarity:
        """Return the similarity for objectives that start from it; it has no group where none can be collected."""

        def similarity(a: Params, b: Params) -> Mapping[str, Array]:
            try:
                found = self.bind(model, graph).similarity
            except UnsupportedModelError:
                return {}
            return {} if found is None else found(a, b)

        return similarity

    def collector(self, model: Model, graph: PermutationGraph) -> Collect:
        """Ask the adapter for the function that collects activations."""
        adapter = model.ability(
            HasActivations,
            "where activations are produced",
            instead="use objectives.Midpoint(loss, data) or objectives.L2()",
        )
        return adapter.activations(model.source, graph)


def _correlations(backend: Backend, collect: Collect, batches: list[Any], a: Params, b: Params) -> dict[str, Array]:
    """Correlation of every unit of A with every unit of B, per group, shape (n, n).

    Since a group's permutation only reorders its own activations, the linear assignment that maximises it is the best
    plan for the group whatever the other groups do. Layers and batches weigh as they do in the objective.
    """
    total: dict[str, Array] = {}
    for batch in batches:
        here, there = collect(a, batch[0]), collect(b, batch[0])
        for group, xs in here.items():
            for x, y in zip(xs, there[group], strict=True):
                C = backend.matmul(backend.matrix_transpose(_standardize(backend, x)), _standardize(backend, y))
                C = batch_size(batch) * C
                total[group] = total[group] + C if group in total else C
    return total


def _standardize(backend: Backend, x: Array) -> Array:
    """Units of mean 0 and norm 1 over the samples; a unit that never changes becomes almost 0."""
    x = widened(backend, x)
    x = x - backend.sum(x, axis=0, keepdims=True) / backend.shape(x)[0]
    return x / backend.sqrt(backend.sum(x * x, axis=0, keepdims=True) + 1e-12)


def _disagreement(backend: Backend, x: Array, y: Array) -> Array:
    """One minus the mean correlation of unit i with unit i."""
    units = backend.shape(x)[1]
    return 1.0 - backend.sum(_standardize(backend, x) * _standardize(backend, y)) / units
