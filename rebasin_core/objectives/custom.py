"""A user's own objective: any differentiable function of two networks."""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError
from rebasin_core.models.data import as_batches, batch_size
from rebasin_core.models.model import Model
from rebasin_core.objectives.base import BoundObjective, Params, Sample, check_batches
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Custom"]


@dataclass(frozen=True)
class Custom:
    """Minimize a function of your own.

    Choose it when none of the others says what you want; `rebasin_core.align` wraps a bare function in it for you.

    Parameters
    ----------
    function : callable
        ``function(params_a, params_b)`` or ``function(params_a, params_b, batch)``; both arguments are dictionaries of
        the framework's arrays (the second re-based), the result a scalar of that framework. It must be differentiable
        by the framework: with NumPy arrays, compute with ``autograd.numpy``.
    data : pair of arrays or iterable of pairs, optional
        Batches to call it with; without data, `batch` is None.
    batch_size : int, optional
        Cut a pair of arrays into batches of this size; default: one batch.
    name : str, optional
        For tables and messages; default: the function's own name.
    evaluation_batches : int, default 8
        How many batches, the first ones, hard plans are compared on.

    Raises
    ------
    SettingError
        The function takes neither two nor three arguments, or a setting is out of range.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> def largest_gap(a, b):
    ...     return anp.sum((a["w"] - b["w"]) ** 4)
    >>> Custom(largest_gap).name
    'largest_gap'
    """

    function: Callable[..., Array]
    data: Any = None
    _: KW_ONLY
    batch_size: int | None = None
    name: str = ""
    evaluation_batches: int = 8

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise SettingError(f"expected a function of (params_a, params_b), got {self.function!r}")
        _takes_batch(self.function)
        check_batches(self.batch_size, self.evaluation_batches)
        if not self.name:
            object.__setattr__(self, "name", getattr(self.function, "__name__", type(self.function).__name__))

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        takes_batch = _takes_batch(self.function)

        def value(a: Params, b: Params, sample: Sample) -> Array:
            return self.function(a, b, sample) if takes_batch else self.function(a, b)

        if self.data is None:
            return BoundObjective(self.name, value, lambda rng: itertools.repeat(None), lambda: iter([(1.0, None)]))
        batches = as_batches(self.data, self.batch_size)
        fixed = batches.first(self.evaluation_batches)
        return BoundObjective(self.name, value, batches.shuffled, lambda: ((float(batch_size(b)), b) for b in fixed))


def _takes_batch(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature: the documented form
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    # A third argument with a value of its own, such as power=2, is a setting and no place for the batch.
    third = positional[2].default if len(positional) > 2 else None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    if len(required) <= 3 <= len(positional) and (third is inspect.Parameter.empty or third is None):
        return True
    if len(required) <= 2 <= len(positional):
        return False
    raise SettingError(
        f"an objective takes (params_a, params_b) or (params_a, params_b, batch), but "
        f"{getattr(function, '__name__', function)} takes {len(required)} arguments"
    )
