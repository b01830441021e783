"""Running statistics of batch normalization, re-estimated: the rule; adapters measure, batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rebasin_core.backends.dtypes import all_finite, is_inexact, widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_core.line.mean import between
from rebasin_core.models.batch_norms import find_batch_norms
from rebasin_core.models.data import Batches, as_batches
from rebasin_core.models.model import Model, open_model
from rebasin_core.support.progress import check_flag, progress_bar
from rebasin_core.support.settings import at_least

__all__ = [
    "batches_to_measure",
    "check_batch_size",
    "inputs_of",
    "reestimate",
    "reestimate_params",
    "running_statistics",
]

Params = dict[str, Array]


def reestimate(model: Any, data: Any, *, batch_size: int | None = None, progress: bool = True) -> Any:
    """Return a copy of a model whose batch normalization has its statistics re-estimated on data.

    Between two networks the variance of activations collapses, which interpolated running statistics do not know of:
    in a deep network, most of the loss between the two is due to that. Choose it for every network with batch
    normalization whose weights were averaged, by whatever means; `rebasin_core.connectivity`,
    `rebasin_core.interpolate` and `rebasin_core.merge` take ``reestimate=`` and do it along the way. It needs inputs,
    no targets and no training.

    Parameters
    ----------
    model : any model an adapter carries
        The network; it is not changed. Without batch normalization, the copy is as the model is.
    data : pair of arrays, iterable of pairs, or an array
        ``(inputs, targets)``, batches of it, or inputs alone; targets are not read.
    batch_size : int, optional
        Cut arrays into batches of this size; default: one batch. As in training, statistics of a few samples are noisy.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Returns
    -------
    model
        Of the same type. New are the running mean and the running variance of every batch normalization layer with
        such statistics, whether it is frozen or not; in PyTorch also its counter of batches.

    Raises
    ------
    SpecError
        The model is a mapping of arrays, which does not say what is a statistic.
    DataError
        No data, or a batch with a single value per channel, which has no variance.
    NonFiniteError
        The model holds NaN or infinity, or its activations do.

    Notes
    -----
    One pass over the data. Batch normalization layers normalize by the statistics of the batch, as in training, so that
    deeper layers see what they will see; everything else is in inference mode, without dropout. The result is the
    cumulative average: every batch weighs the same, whatever its size, and the old statistics do not count. The running
    mean is the mean over batches of the batch's mean; the running variance is the mean over batches of the batch's
    variance, as the framework defines it for running statistics: with divisor n - 1 in PyTorch, n in Keras, for n
    values per channel. In PyTorch, that is ``torch.optim.swa_utils.update_bn`` with dropout switched off.

    References
    ----------
    .. [1] K. Jordan, H. Sedghi, O. Saukh, R. Entezari, B. Neyshabur. REPAIR: REnormalizing Permuted Activations for
       Interpolation Repair. ICLR 2023. arXiv:2211.08403 (why)
    .. [2] P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson. Averaging Weights Leads to Wider Optima and
       Better Generalization. UAI 2018. arXiv:1803.05407 (how: one pass over the data after averaging)

    Examples
    --------
    ``repaired = rb.reestimate(model, images, batch_size=128)``; the pages on PyTorch and Keras run it. Plain arrays do
    not say which of them are statistics:

    >>> import numpy as np, rebasin_core as rb
    >>> rb.reestimate({"w": np.ones(2), "mean": np.zeros(2)}, np.ones((4, 2)))
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SpecError: a plain mapping of arrays, or a forward= of your own, does not say which arrays ...
    """
    check_flag(progress=progress)
    batches = inputs_of(data, batch_size)
    opened = open_model(model)
    return opened.rebuild(reestimate_params(opened, opened.params, batches, progress))


def batches_to_measure(
    data: Any, batch_size: int | None = None, same: Batches | None = None, name: str = "reestimate"
) -> Batches | None:
    """Read what a user passed as ``reestimate=`` or ``repair=``: the data that statistics are measured on, or None.

    Parameters
    ----------
    data : pair of arrays, iterable of pairs, an array, True, False or None
        As for `rebasin_core.models.data.as_batches`, or inputs alone; True for `same`, False and None for nothing.
    batch_size : int, optional
        Cut arrays into batches of this size.
    same : Batches, optional
        What True stands for.
    name : str, default "reestimate"
        Of the argument, for messages.

    Raises
    ------
    SettingError, DataError
        True where it stands for nothing, or data that cannot be read.
    """
    if batch_size is not None:
        at_least(1, batch_size=batch_size)
    if data is None or data is False:
        return None
    if data is True and same is None:
        raise SettingError(
            f"{name}=True means the data that the loss is measured on, and here no loss is; pass the data, as in "
            f"{name}=(inputs, targets) or {name}=loader"
        )
    return same if data is True else inputs_of(data, batch_size)


def check_batch_size(batch_size: int | None, **data: Any) -> None:
    """Raise `SettingError` where a batch size was passed, and none of the data that it would cut."""
    if batch_size is not None and all(given is None or given is False for given in data.values()):
        names = " and ".join(f"{name}=" for name in data)
        raise SettingError(f"batch_size={batch_size!r} cuts the data of {names}, and there are none; leave it out")


def inputs_of(data: Any, batch_size: int | None) -> Batches:
    """Read data of which only the inputs are needed; they may come alone, as one array."""
    # Targets are never read; one array of inputs stands in for its own, cut alike.
    return as_batches((data, data) if hasattr(data, "shape") else data, batch_size)


def reestimate_params(model: Model, params: Mapping[str, Array], batches: Batches | None, show: bool = False) -> Params:
    """Parameters in which the running statistics are re-estimated on the batches; as they are where there are none.

    Raises
    ------
    SpecError, DataError, NonFiniteError
    """
    if batches is None:
        return dict(params)
    (statistics,) = running_statistics(model, [lambda: dict(params)], batches, show)
    backend = model.backend
    for name, x in statistics.items():
        if not all_finite(backend, x):
            raise NonFiniteError(
                f"the statistic {name!r} came out as NaN or infinity; check the data, and the weights of layers before"
            )
    return {**params, **statistics}


def running_statistics(
    model: Model, points: Sequence[Callable[[], Params]], batches: Batches, show: bool = False
) -> list[Params]:
    """Measure the running statistics of several networks of one architecture, in one pass over the data.

    Parameters
    ----------
    model : Model
        One of the networks.
    points : sequence of callables without arguments
        Each makes the parameters of one network when called, once per batch: only one is in memory at a time.
    batches : Batches
        What to measure on; not read where the model has no batch normalization.
    show : bool, default False
        Show a progress bar.

    Returns
    -------
    list of dict of str to array
        Per network its statistics, in the dtypes of the parameters they stand for; empty without batch normalization.
    """
    norms = find_batch_norms(model)
    averages = [_Average(model.backend) for _ in points]
    if norms is not None:
        with model.keep_random_state(), progress_bar(None, "statistics", show) as bar:
            for inputs, _ in batches:
                for point, average in zip(points, averages, strict=True):
                    average.add(norms.measure(point(), inputs))
                bar.update()
    return [average.like(model.params) for average in averages]


class _Average:
    """Cumulative average of arrays by name; integers are counts, and are summed."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._values: Params = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Array]) -> None:
        for name, x in values.items():
            n = self._counts[name] = self._counts.get(name, 0) + 1
            x = widened(self._backend, x)
            if n > 1:
                so_far = self._values[name]
                x = between(so_far, x, 1.0 / n) if is_inexact(self._backend.dtype(x)) else so_far + x
            self._values[name] = x

    def like(self, params: Mapping[str, Array]) -> Params:
        """The averages, in the dtypes of the parameters of their names."""
        backend = self._backend
        return {
            name: backend.astype(x, backend.dtype(params[name])) if name in params else x
            for name, x in self._values.items()
        }
