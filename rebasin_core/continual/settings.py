"""The settings of re-basin incremental learning: checked once, written to a file and read back."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer, check_optimizer
from rebasin_core.errors import SettingError, SpecError
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least, not_negative, positive
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Settings", "choose_groups"]

KINDS: dict[str, type[Adam] | type[SGD]] = {"Adam": Adam, "SGD": SGD}


@dataclass(frozen=True)
class Settings:
    """What `RebasinIncremental` is told, apart from the model, the loss and the graph; see there."""

    groups: str | tuple[str, ...] | None
    alpha: float
    beta: float
    tau: float
    num_iters: int
    init_scale: float | None
    hard: bool
    optimizer: Optimizer
    residual_optimizer: Optimizer
    first_optimizer: Optimizer
    num_epochs: int
    batch_size: int
    memory_per_class: int | None
    memory_weight: float | None
    memory_batch_size: int
    distillation: float
    distill_heads: float
    average: float
    keep: float
    scale_residual: bool
    seed: int

    def __post_init__(self) -> None:
        if self.groups is not None and not isinstance(self.groups, str):
            object.__setattr__(self, "groups", tuple(self.groups))
        not_negative(
            alpha=self.alpha,
            beta=self.beta,
            average=self.average,
            keep=self.keep,
            distillation=self.distillation,
            distill_heads=self.distill_heads,
        )
        for name, value in (("alpha", self.alpha), ("average", self.average), ("keep", self.keep)):
            if value > 1:
                raise SettingError(f"expected {name} as a number from 0 to 1, got {value!r}")
        positive(tau=self.tau)
        at_least(
            1,
            num_iters=self.num_iters,
            num_epochs=self.num_epochs,
            batch_size=self.batch_size,
            memory_batch_size=self.memory_batch_size,
        )
        at_least(0, seed=self.seed)
        if self.init_scale is not None:
            not_negative(init_scale=self.init_scale)
        if self.memory_weight is not None:
            not_negative(memory_weight=self.memory_weight)
        check_flag(hard=self.hard, scale_residual=self.scale_residual)
        check_optimizer(
            optimizer=self.optimizer,
            residual_optimizer=self.residual_optimizer,
            first_optimizer=self.first_optimizer,
        )
        self._check_memory()

    def _check_memory(self) -> None:
        for name in ("distillation", "distill_heads"):
            if getattr(self, name) and (self.memory_per_class is None or self.memory_weight == 0):
                nothing = "memory_per_class=None" if self.memory_per_class is None else "memory_weight=0"
                raise SettingError(
                    f"{name}={getattr(self, name)!r} goes with a replay of past tasks, and {nothing} replays none; "
                    f"leave out one of them"
                )
        if self.memory_per_class is None:
            return
        if self.memory_per_class == 0 and not isinstance(self.memory_per_class, bool):
            raise SettingError(
                "memory_per_class=0 would replay nothing; expected at least 1 sample per class and task. To learn "
                "without a memory, and forget more, write memory_per_class=None"
            )
        at_least(1, memory_per_class=self.memory_per_class)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON knows them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: {"kind": type(value).__name__, **asdict(value)} if isinstance(value, (Adam, SGD)) else value
            for name, value in found.items()
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Settings":
        """Read settings written by `to_dict`."""
        read: dict[str, Any] = {
            name: _optimizer(value) if isinstance(value, dict) else value for name, value in stored.items()
        }
        return cls(**read)


def _optimizer(stored: dict[str, Any]) -> Optimizer:
    settings = dict(stored)
    return KINDS[settings.pop("kind")](**settings)


def choose_groups(graph: PermutationGraph, groups: str | Sequence[str] | None) -> PermutationGraph:
    """Return the graph in which only the chosen groups are permuted.

    Parameters
    ----------
    graph : PermutationGraph
        Everything that could be permuted.
    groups : None, "linear" or sequence of str
        All groups; those that stand in a weight matrix of a linear layer (a learned parameter with two axes); or those
        of these names.

    Raises
    ------
    SpecError
        A name is no group, or none is left.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"conv": np.ones((4, 3, 3, 3)), "conv2": np.ones((8, 4, 3, 3)), "fc": np.ones((2, 8))}
    >>> graph = PermutationGraph.from_axes({"conv": "a . . .", "conv2": "b a . .", "fc": ". b"}, params)
    >>> choose_groups(graph, "linear").groups
    {'b': 8}
    """
    available = ", ".join(f"{name!r} ({n})" for name, n in graph.groups.items()) or "none"
    if groups is None:
        chosen = set(graph.groups)
    elif groups == "linear":
        matrices = [name for name in graph.learned if len(graph.shapes[name]) == 2]
        chosen = {group for name in matrices for group in graph.axes[name].groups}
    elif isinstance(groups, str):
        raise SpecError(f'expected groups as None, "linear" or a list of names, got {groups!r}; groups: {available}')
    else:
        chosen = set(groups)
        for name in groups:
            if name not in graph.groups:
                raise SpecError(f"there is no group {name!r}; the groups of this graph, with their sizes: {available}")
    left = graph.pin([name for name in graph.groups if name not in chosen], "not among the groups to re-base")
    if not left.groups:
        raise SpecError(
            f"no group is left to permute: groups={groups!r}, and the graph has {available}. Name at least one, with "
            f"the group it is local to, or pass groups=None for all"
        )
    return left
