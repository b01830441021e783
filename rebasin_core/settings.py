"""Checks of settings, with one wording."""

from typing import Any

import numpy as np

from rebasin_core.errors import SettingError

__all__ = ["at_least"]


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
