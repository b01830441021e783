"""Laws of a protocol: what is required, checked one by one, and reported all at once."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rebasin_core.errors import LawError

__all__ = ["check_laws", "refused", "require", "same"]

Law = Callable[[], None]


def check_laws(what: str, laws: Mapping[str, Law]) -> tuple[str, ...]:
    """Check every law, and return their names.

    Raises
    ------
    LawError
        Some do not hold, or could not be checked to the end; all of them are listed.

    Examples
    --------
    >>> check_laws("the clock", {"it ticks": lambda: None, "it strikes": lambda: require(False, "it is silent")})
    Traceback (most recent call last):
    ...
    rebasin_core.errors.LawError: the clock breaks 1 of 2 laws:
        it strikes: it is silent
    """
    broken: dict[str, str] = {}
    cause: Exception | None = None
    for name, law in laws.items():
        try:
            law()
        except Exception as error:  # of the backend or the adapter, which may fail in any way
            broken[name] = str(error) if isinstance(error, _BrokenError) else f"{type(error).__name__}: {error}"
            cause = cause or error
    if broken:
        lines = "".join(f"\n    {name}: {found}" for name, found in broken.items())
        raise LawError(f"{what} breaks {len(broken)} of {len(laws)} laws:{lines}", broken) from cause
    return tuple(laws)


class _BrokenError(Exception):
    """A requirement that is not met; `check_laws` says of which law."""


def require(condition: Any, message: str) -> None:
    """Break the law that is being checked unless the condition holds."""
    if not condition:
        raise _BrokenError(message)


def same(found: Any, expected: Any, what: str = "the result", rtol: float = 0.0, atol: float = 0.0) -> None:
    """Require two arrays of NumPy's to have one shape and, up to tolerances, the same numbers; NaN equals NaN."""
    found, expected = np.asarray(found), np.asarray(expected)
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}")
    if found.dtype == bool or expected.dtype == bool:
        require(np.array_equal(found, expected), f"{what} is {found}, expected {expected}")
        return
    if not np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        shown = (
            f"{found}, expected {expected}" if found.size < 5 else f"off by up to {np.abs(found - expected).max():.1e}"
        )
        require(False, f"{what} is {shown}")


def refused(error: type[Exception], words: str, action: Callable[[], Any]) -> None:
    """Require an action to raise this error, with these words in its message."""
    try:
        action()
    except error as raised:
        require(words in str(raised), f"expected the words {words!r} in the message of {error.__name__}, got: {raised}")
        return
    require(False, f"expected {error.__name__} ({words}), but nothing was raised")
