"""An experience as `RebasinIncremental` reads data: pairs of inputs and targets, as often as there are epochs."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from rebasin_core.errors import DataError

__all__ = ["ExperienceBatches"]


class ExperienceBatches:
    """Mini-batches of a loader of Avalanche as pairs, read again each time, so that augmentation differs by epoch.

    Parameters
    ----------
    loader : iterable
        Of lists that begin with inputs and targets and, in benchmarks with task labels, end with these.
    with_labels : bool
        Whether the model takes the task label of each sample beside its input.

    Examples
    --------
    >>> import torch
    >>> loader = [[torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([4, 4])]]
    >>> for (x, task), y in ExperienceBatches(loader, with_labels=True):
    ...     print(tuple(x.shape), task.tolist(), y.tolist())
    (2, 3) [4, 4] [0, 1]
    """

    def __init__(self, loader: Iterable[Any], with_labels: bool) -> None:
        self._loader, self._with_labels = loader, with_labels

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self._loader:
            inputs, targets = batch[0], batch[1]
            yield ((inputs, batch[-1]) if self._with_labels else inputs), targets

    def example(self) -> Tensor:
        """Return the inputs of at most two samples, to follow the model with.

        Raises
        ------
        DataError
            There are none.
        """
        for batch in self._loader:
            found: Tensor = batch[0][:2]
            return found
        raise DataError(
            "the experience holds no batch; expected at least one sample, and with drop_last=True at least "
            "train_mb_size of them. Leave the experience out of the stream, or lower train_mb_size"
        )
