"""A progress bar on long work, where a person is watching."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rebasin_core.errors import SettingError

__all__ = ["Progress", "check_flag", "progress_bar"]


def check_flag(**flags: object) -> None:
    """Raise `SettingError` unless every flag is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise SettingError(f"expected {name} as True or False, got {value!r}")


class Progress(Protocol):
    """What a solver may tell the person who waits."""

    def update(self, message: str = "") -> None:
        """One step further, with the figure to watch."""
        ...


class _Silent:
    def update(self, message: str = "") -> None:
        """Say nothing."""


class _Bar:
    def __init__(self, bar: object) -> None:
        self._bar = bar

    def update(self, message: str = "") -> None:
        """Move the bar."""
        self._bar.set_postfix_str(message, refresh=False)  # type: ignore[attr-defined]
        self._bar.update()  # type: ignore[attr-defined]


@contextmanager
def progress_bar(total: int | None, title: str, show: bool) -> Iterator[Progress]:
    """Show a bar of `total` steps on the terminal or in a notebook; nothing where the output goes to a file."""
    if not show:
        yield _Silent()
        return
    from tqdm import tqdm as terminal_bar
    from tqdm.auto import tqdm

    # None: tqdm itself stays silent where standard error is no terminal. A notebook never is one, so there the bar is
    # forced.
    with tqdm(total=total, desc=title, leave=False, disable=None if tqdm.__mro__[1] is terminal_bar else False) as bar:
        yield _Bar(bar)
