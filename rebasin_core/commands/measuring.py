"""Losses and metrics of a single network on data."""

from collections.abc import Mapping

from rebasin_core.backends.scalars import as_number
from rebasin_core.models.adapter import Loss
from rebasin_core.models.data import Batches, batch_size
from rebasin_core.models.model import Model
from rebasin_core.support.progress import progress_bar

__all__ = ["measure_network"]


def measure_network(network: Model, functions: Mapping[str, Loss], batches: Batches) -> dict[str, float]:
    """Measure functions of (outputs, targets), in one pass over the data.

    Parameters
    ----------
    network : Model
        The network.
    functions : mapping of str to callable
        Means over a batch, by name.
    batches : Batches
        The data.

    Returns
    -------
    dict of str to float
        The mean of every function over the samples.
    """
    forward, total = network.forward, 0
    sums = dict.fromkeys(functions, 0.0)
    with network.keep_random_state(), progress_bar(None, "measuring", True) as bar:
        for batch in batches:
            n = batch_size(batch)
            total += n
            outputs = forward(network.params, batch[0])
            for name, function in functions.items():
                sums[name] += n * as_number(function(outputs, batch[1]), name)
            bar.update()
    return {name: value / total for name, value in sums.items()}
