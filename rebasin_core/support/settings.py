"""Checks of settings, with one wording."""

import math
from collections.abc import Collection
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np

from rebasin_core.errors import SettingError

__all__ = ["at_least", "no_class", "not_negative", "one_of", "positive"]


def at_least(least: int, **settings: Any) -> None:
    """Raise `SettingError` unless every setting is a whole number of at least `least`.

    Examples
    --------
    >>> at_least(1, num_iters=0)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected num_iters as a whole number of at least 1, got 0
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingError(f"expected {name} as a whole number of at least {least}, got {value!r}")


def no_class(**settings: Any) -> None:
    """Raise `SettingError` for a class where an object made from it, or a function, is meant.

    Examples
    --------
    >>> no_class(loss=dict)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: the loss came as a class; write dict() with brackets
    """
    for name, value in settings.items():
        if isinstance(value, type):
            raise SettingError(f"the {name} came as a class; write {value.__name__}() with brackets")


def positive(**settings: Any) -> None:
    """Raise `SettingError` unless every setting is a finite number above 0.

    Examples
    --------
    >>> positive(tau=float("inf"))
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected tau as a positive number, got inf
    """
    for name, value in settings.items():
        if not (_is_number(value) and value > 0):
            raise SettingError(f"expected {name} as a positive number, got {value!r}")


def not_negative(below: float = math.inf, **settings: Any) -> None:
    """Raise `SettingError` unless every setting is a finite number of at least 0, and below `below`.

    Examples
    --------
    >>> not_negative(tol=-1.0)
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected tol as a number of at least 0, got -1.0
    """
    for name, value in settings.items():
        if not (_is_number(value) and 0 <= value < below):
            limit = "" if below == math.inf else f" and below {below}"
            raise SettingError(f"expected {name} as a number of at least 0{limit}, got {value!r}")


def one_of(names: Collection[str], **setting: Any) -> str:
    """Return a setting that is one of these names; raise `SettingError` if it is none of them.

    Examples
    --------
    >>> one_of(["weight-matching", "sinkhorn"], solver="weight_matching")
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SettingError: expected solver as one of 'weight-matching', 'sinkhorn', got 'weight_matching'; \
did you mean 'weight-matching'?
    """
    ((what, value),), known = setting.items(), [str(name) for name in names]
    if isinstance(value, str) and value in known:
        return value
    close = get_close_matches(value.lower(), known, 1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SettingError(f"expected {what} as one of {', '.join(map(repr, known))}, got {value!r}{hint}")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
