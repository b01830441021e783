"""Losses on the straight line between the two networks: objectives that need data.

On the line, the variance of activations collapses, and interpolated running statistics of batch normalization are
wrong: the loss then says how far they are off, not how well the weights agree. By default, these objectives therefore
see a network as it is once its statistics are re-estimated (`rebasin_core.reestimate`): its batch normalization
normalizes by the batch, which a gradient goes through.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from rebasin_core.backends.protocol import Array
from rebasin_core.line.mean import lerp
from rebasin_core.models.batch_norms import forward_with
from rebasin_core.models.data import as_batches, batch_size
from rebasin_core.models.model import Model
from rebasin_core.objectives.activations import Activations
from rebasin_core.objectives.base import BoundObjective, Params, Sample, check_batches
from rebasin_core.support.settings import at_least, one_of
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Midpoint", "RandomPoint"]


@dataclass(frozen=True)
class Midpoint:
    """Loss at the middle of the line (Eq. 8 of the paper).

    ``C_Mid = C((theta_A + pi_P(theta_B)) / 2)``. Choose it when only the merged model at the middle matters;
    elsewhere on the line the loss may stay high (section 3 of the paper), which `RandomPoint` avoids.

    Parameters
    ----------
    loss : callable or name
        ``loss(outputs, targets) -> scalar``, the framework's own; None for the model's own, where it has one.
    data : pair of arrays or iterable of pairs
        ``(inputs, targets)`` or batches of it.
    batch_size : int, optional
        Cut a pair of arrays into batches of this size; default: one batch.
    evaluation_batches : int, default 8
        How many batches, the first ones, hard plans are compared on.
    normalization : {"running", "batch"}, optional
        What batch normalization layers normalize by. "batch": mean and variance of the batch, for a network whose
        statistics will be re-estimated; batches should be as large as in training. "running": the running statistics,
        interpolated like weights, for a network that will be used as it is. Default: "batch", but "running" for a
        mapping of arrays or a forward function of yours. Of no effect where there is no batch normalization.

    Raises
    ------
    SettingError, DataError
        A setting is out of range, the data are no batches, or, with "batch", one has a single value per channel.
    SpecError
        "batch", and the model is a mapping of arrays, which does not say what to normalize.
    """

    loss: Any
    data: Any
    _: KW_ONLY
    batch_size: int | None = None
    evaluation_batches: int = 8
    normalization: str | None = None
    name: ClassVar[str] = "midpoint"

    def __post_init__(self) -> None:
        check_batches(self.batch_size, self.evaluation_batches)
        _check_normalization(self.normalization)

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        loss, forward = model.loss(self.loss), forward_with(model, self.normalization)
        batches = as_batches(self.data, self.batch_size)
        fixed = batches.first(self.evaluation_batches)

        def value(a: Params, b: Params, batch: Sample) -> Array:
            return loss(forward(lerp(a, b, 0.5), batch[0]), batch[1])

        def evaluation() -> Iterator[tuple[float, Sample]]:
            for batch in fixed:
                yield float(batch_size(batch)), batch

        hint = Activations(fixed).hint(model, graph)
        return BoundObjective(self.name, value, batches.shuffled, evaluation, hint=hint, computes_once=True)


@dataclass(frozen=True)
class RandomPoint:
    """Loss at random places of the line (Eq. 9 of the paper).

    ``C_Rnd = C((1 - lambda) theta_A + lambda pi_P(theta_B))`` with lambda uniform on (0, 1), drawn again at each step.
    The draws are stratified: the line is cut into `strata` equal parts, and each round of as many steps visits every
    part once, which leaves every single draw uniform and the average over steps less noisy. Choose it when the whole
    line is to be free of a barrier.

    Parameters
    ----------
    loss : callable or name
        ``loss(outputs, targets) -> scalar``, the framework's own; None for the model's own, where it has one.
    data : pair of arrays or iterable of pairs
        ``(inputs, targets)`` or batches of it.
    batch_size : int, optional
        Cut a pair of arrays into batches of this size; default: one batch.
    strata : int, default 5
        Equal parts of the line; their centers are the fixed places at which hard plans are compared.
    evaluation_batches : int, default 8
        How many batches, the first ones, hard plans are compared on.
    normalization : {"running", "batch"}, optional
        What batch normalization layers normalize by. "batch": mean and variance of the batch, for a network whose
        statistics will be re-estimated; batches should be as large as in training. "running": the running statistics,
        interpolated like weights, for a network that will be used as it is. Default: "batch", but "running" for a
        mapping of arrays or a forward function of yours. Of no effect where there is no batch normalization.

    Raises
    ------
    SettingError, DataError
        A setting is out of range, the data are no batches, or, with "batch", one has a single value per channel.
    SpecError
        "batch", and the model is a mapping of arrays, which does not say what to normalize.
    """

    loss: Any
    data: Any
    _: KW_ONLY
    batch_size: int | None = None
    strata: int = 5
    evaluation_batches: int = 8
    normalization: str | None = None
    name: ClassVar[str] = "random point"

    def __post_init__(self) -> None:
        at_least(1, strata=self.strata)
        check_batches(self.batch_size, self.evaluation_batches)
        _check_normalization(self.normalization)

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        loss, forward = model.loss(self.loss), forward_with(model, self.normalization)
        batches = as_batches(self.data, self.batch_size)
        fixed = batches.first(self.evaluation_batches)

        def value(a: Params, b: Params, sample: Sample) -> Array:
            (inputs, targets), place = sample
            return loss(forward(lerp(a, b, place), inputs), targets)

        def stream(rng: np.random.Generator) -> Iterator[Sample]:
            samples = batches.shuffled(rng)
            while True:
                for stratum in rng.permutation(self.strata):
                    yield next(samples), float((stratum + rng.random()) / self.strata)

        def evaluation() -> Iterator[tuple[float, Sample]]:
            for batch in fixed:
                for stratum in range(self.strata):
                    yield float(batch_size(batch)), (batch, (stratum + 0.5) / self.strata)

        hint = Activations(fixed).hint(model, graph)
        return BoundObjective(self.name, value, stream, evaluation, hint=hint, computes_once=True)


def _check_normalization(normalization: str | None) -> None:
    if normalization is not None:
        one_of(("running", "batch"), normalization=normalization)
