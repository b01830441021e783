"""Settings of the optimizers that every framework has, and how variables with the same settings form a group.

A backend runs the framework's own (`rebasin_core.backends.protocol.Backend.stepper`), in the loop of
`rebasin_core.backends.descent.minimize`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rebasin_core.errors import SettingError
from rebasin_core.support.settings import not_negative, positive

__all__ = ["SGD", "Adam", "Optimizer", "check_optimizer", "parameter_groups"]


@dataclass(frozen=True)
class Adam:
    """Adam, or AdamW where there is weight decay.

    Choose it where gradients differ in size from variable to variable: it divides each by its own typical size.

    Parameters
    ----------
    learning_rate : float, default 0.001
        Typical size of a step, in units of the variables.
    weight_decay : float, default 0.0
        Decoupled decay: before each step, the variables are multiplied by ``1 - learning_rate * weight_decay``.
        Dimensionless.

    Raises
    ------
    SettingError
        A setting is out of its range.

    Notes
    -----
    The moments decay by 0.9 and 0.999 per step and epsilon is 1e-8, in every framework.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba. Adam: A Method for Stochastic Optimization. ICLR 2015. arXiv:1412.6980
    .. [2] I. Loshchilov, F. Hutter. Decoupled Weight Decay Regularization. ICLR 2019. arXiv:1711.05101

    Examples
    --------
    >>> Adam(0.1)
    Adam(learning_rate=0.1, weight_decay=0.0)
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        positive(learning_rate=self.learning_rate)
        not_negative(weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """Steps against the gradient, with momentum and with a limit on its length if asked for.

    Choose it where the size of the gradient should decide how far to go: a residual under a penalty, for instance, of
    which Adam would move even the entries whose gradient is almost nothing.

    Parameters
    ----------
    learning_rate : float
        Factor of the gradient.
    momentum : float, default 0.0
        Share of the last velocity that goes into the next, ``v = momentum v + g``, ``x = x - learning_rate v``; at
        least 0 and below 1, dimensionless.
    clip : float, optional
        Largest Euclidean norm of the gradient of all variables that this optimizer drives, taken together; a longer
        one is shortened to it before it enters the velocity. Default: no limit.
    clip_value : float, optional
        Largest size of a single entry of the gradient; a larger one is cut to it, before `clip` is looked at. Unlike a
        limit on the norm, it does not depend on how many entries there are, and it bends the direction. Default: none.

    Raises
    ------
    SettingError
        A setting is out of its range.

    Examples
    --------
    >>> SGD(0.1, momentum=1.0)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected momentum as a number of at least 0 and below 1, got 1.0
    """

    learning_rate: float
    momentum: float = 0.0
    clip: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        positive(learning_rate=self.learning_rate)
        not_negative(below=1, momentum=self.momentum)
        if self.clip is not None:
            positive(clip=self.clip)
        if self.clip_value is not None:
            positive(clip_value=self.clip_value)


Optimizer: TypeAlias = Adam | SGD
"""Either of them: what every setting for an optimizer takes."""


def check_optimizer(**optimizers: Any) -> None:
    """Raise `SettingError` unless every argument is an optimizer of this module."""
    for name, optimizer in optimizers.items():
        if not isinstance(optimizer, (Adam, SGD)):
            raise SettingError(
                f"expected {name} as rebasin_core.optimizers.Adam(...) or SGD(...), the same for every framework; got "
                f"{optimizer!r}"
            )


def parameter_groups(
    optimizer: Optimizer | Mapping[str, Optimizer], names: Iterable[str]
) -> list[tuple[Optimizer, list[str]]]:
    """Sort variables by the optimizer that drives them; those whose optimizers are equal form one group.

    Parameters
    ----------
    optimizer : Adam, SGD, or mapping of str to either
        One for all variables, or one for each by its name.
    names : iterable of str
        The variables.

    Raises
    ------
    SettingError
        There is no variable, one has no optimizer, an optimizer drives none, or something else came.

    Examples
    --------
    >>> parameter_groups({"a": Adam(0.1), "b": SGD(1.0), "c": Adam(0.1)}, ["a", "b", "c"])
    [(Adam(learning_rate=0.1, weight_decay=0.0), ['a', 'c']),
     (SGD(learning_rate=1.0, momentum=0.0, clip=None, clip_value=None), ['b'])]
    """
    variables = list(names)
    if not variables:
        raise SettingError("there is no variable to optimize; pass at least one")
    chosen = dict(optimizer) if isinstance(optimizer, Mapping) else dict.fromkeys(variables, optimizer)
    for name in (*variables, *chosen):
        if name not in chosen or name not in variables:
            lacking = "variable has no optimizer" if name not in chosen else "optimizer has no variable"
            raise SettingError(f"the {lacking}: {name!r}; a mapping names an optimizer for every variable, and no more")
    groups: dict[Optimizer, list[str]] = {}
    for name in variables:
        check_optimizer(optimizer=chosen[name])
        groups.setdefault(chosen[name], []).append(name)
    return list(groups.items())
