"""The settings of re-basin incremental learning: checked once, written to a file and read back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer, check_optimizer
from rebasin_core.errors import SettingError, SpecError
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least, not_negative, positive
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["NAMES", "Settings", "choose", "choose_groups"]

KINDS: dict[str, type[Adam] | type[SGD]] = {"Adam": Adam, "SGD": SGD}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How `rebasin_core.RebasinIncremental` learns; a frozen value, checked when it is made.

    Make a variant with ``dataclasses.replace(settings, alpha=0.5)``.

    Parameters
    ----------
    groups : None, "linear" or list of str, optional
        Groups to re-base: all (default), those in weight matrices of linear layers, as the paper does for a ResNet, or
        those named. The residual is of all learned parameters in any case.
    alpha : float, default 0.8
        Place of the next model on the line, from 0 to 1, dimensionless. Near 0.5 the new task counts most, near 0 and 1
        the old ones. With a hard P (see `hard`) and no residual, 0 gives exactly the old model, and 1 its permutation.
    beta : float, default 0.1
        Weight of the squared norm of the residual, in units of the loss per squared unit of the weights.
    tau : float, default 1.0
        Temperature of the Sinkhorn operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the Sinkhorn operator.
    optimizer : Adam or SGD, optional
        Of the logits: of `rebasin_core.optimizers`. None for the default, ``Adam(0.01)``.
    residual_optimizer : Adam or SGD, optional
        Of the residual. None for the default,
        ``SGD(0.1, momentum=0.8, clip=1.0)``.
    first_optimizer : Adam or SGD, optional
        Of the plain training of the first task. None for the default, ``Adam(0.001)``.
    num_epochs : int, default 5
        Passes over the data of a task.
    batch_size : int, default 500
        Most samples per batch, where data come as a pair of arrays.
    memory_per_class : int or None, default 5
        Samples kept per class of every task (per task, where targets are no class numbers); None: keep and replay none.
    memory_weight : float, optional
        What the mean loss over past tasks counts beside that of the current one, dimensionless; both are then divided
        by the sum. Default: the number of past tasks, which is the paper's plain average over tasks.
    memory_batch_size : int, default 1000
        Most samples of the memory that a step takes along. Where there are more, as many of every task are drawn again
        for each step.
    distillation : float, default 0.0
        What the squared Euclidean distance between the outputs on the memory and those of the model before the task,
        mean over samples, counts beside the memory's loss; dimensionless [1]_. Beyond the paper. The outputs are taken
        as the model returns them: logits say more than probabilities.
    distill_heads : float, default 0.0
        For models with a head per task: what the squared Euclidean distance between the outputs of every past head on
        the samples of the current task and those of the model before it, mean over samples, counts beside the task's
        loss; dimensionless [2]_. Beyond the paper. It tells the old heads far more about their function than a few
        samples of a memory, at the price of one more pass per batch.
    average : float, default 0.0
        Share of the steps of a task after the first, the last ones, over which logits and residual are averaged;
        1 averages over the whole task, 0 takes the last iterate. Dimensionless.
    keep : float, default 0.0
        Share of the model before in the one after a task that is not the first, dimensionless:
        ``keep theta + (1 - keep) theta_next``.
    scale_residual : bool, default False
        Add ``4 alpha (1 - alpha) delta`` in Eq. 12, which is all of the residual at the middle and none at the ends, so
        that with a hard P an `alpha` of 0 or 1 is the old function with any residual. Beyond the paper.
    hard : bool, default True
        Make P a permutation, by linear assignment, before Eq. 12. The paper takes P from the transportation polytope
        (Eq. 1) and names no step that makes it a permutation; False does the same. Soft matrices mix units: an `alpha`
        of 1 is then no longer the old function.
    init_scale : float, optional
        Height of the diagonal of the first logits, in units of `tau`; they are zero elsewhere. Zero logits would make
        every unit the mean of all. Default: the height at which each unit keeps nine tenths of itself,
        ``log(9 (n - 1))`` for a group of n units.
    seed : int, default 0
        Of every random choice. What a task draws depends on the seed and its number alone.

    Raises
    ------
    SettingError
        A setting is out of its range, or two do not go together.

    References
    ----------
    .. [1] P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara. Dark Experience for General Continual Learning:
       a Strong, Simple Baseline. NeurIPS 2020. arXiv:2004.07211. There with the outputs of when a sample was stored.
    .. [2] Z. Li, D. Hoiem. Learning without Forgetting. ECCV 2016. arXiv:1606.09282. There with a cross-entropy.

    Examples
    --------
    >>> Settings(alpha=0.5).beta
    0.1
    >>> Settings(alpha=2)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected alpha as a number from 0 to 1, got 2
    """

    groups: str | tuple[str, ...] | None = None
    alpha: float = 0.8
    beta: float = 0.1
    tau: float = 1.0
    num_iters: int = 20
    optimizer: Optimizer = field(default=Adam(0.01))
    residual_optimizer: Optimizer = field(default=SGD(0.1, momentum=0.8, clip=1.0))
    first_optimizer: Optimizer = field(default=Adam(0.001))
    num_epochs: int = 5
    batch_size: int = 500
    memory_per_class: int | None = 5
    memory_weight: float | None = None
    memory_batch_size: int = 1000
    distillation: float = 0.0
    distill_heads: float = 0.0
    average: float = 0.0
    keep: float = 0.0
    scale_residual: bool = False
    hard: bool = True
    init_scale: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.name.endswith("optimizer") and getattr(self, setting.name) is None:
                object.__setattr__(self, setting.name, setting.default)
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
        found = {setting.name: getattr(self, setting.name) for setting in fields(self)}
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


NAMES = frozenset(setting.name for setting in fields(Settings))


def choose(settings: Any, keywords: Mapping[str, Any]) -> Settings:
    """Return the settings that came as one value, or else those that came by name.

    Raises
    ------
    SettingError
        One is out of its range, or came beside `settings`.
    """
    named = Settings(**keywords)
    if settings is None:
        return named
    if not isinstance(settings, Settings):
        raise SettingError(f"expected settings as a rebasin_core.continual.Settings, got {type(settings).__name__}")
    twice = [x.name for x in fields(Settings) if getattr(named, x.name) != x.default]
    if twice:
        changed = ", ".join(f"{name}={getattr(named, name)!r}" for name in twice)
        raise SettingError(
            f"{', '.join(twice)} came beside settings=, which holds all settings; write "
            f"settings=dataclasses.replace(settings, {changed})"
        )
    return settings


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
