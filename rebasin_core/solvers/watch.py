"""What may end a search before it is done: a clock, a callback, a person at the keyboard."""

import time
from dataclasses import dataclass, field
from typing import NoReturn

__all__ = ["INTERRUPTED", "SearchEnded", "Watch", "pass_on_interruption"]

INTERRUPTED = "interrupted"


class SearchEnded(Exception):  # noqa: N818, no error: the way out of a search, which keeps the best plan so far
    """Leaves the loops of a search; `rebasin_core.solvers.search.run_search` catches it."""


@dataclass
class Watch:
    """Whether a search must end, and why; a search within a search shares the watch of the outer one.

    Attributes
    ----------
    time_limit : float, optional
        Seconds from `started` on after which the search ends.
    started : float
        A reading of ``time.perf_counter``.
    reason : str
        Why the search has to end; empty as long as it may go on.
    """

    time_limit: float | None = None
    started: float = field(default_factory=time.perf_counter)
    reason: str = ""

    def check(self) -> None:
        """Raise `SearchEnded` where the search has to end."""
        if self.reason:
            raise SearchEnded
        if self.time_limit is not None and time.perf_counter() - self.started >= self.time_limit:
            self.end(f"reached time_limit={self.time_limit:g}")

    def end(self, reason: str) -> NoReturn:
        """End the search here, and every search around it at its next check."""
        self.reason = reason
        raise SearchEnded


def pass_on_interruption(stop_reason: str) -> None:
    """Raise `KeyboardInterrupt` where that is why a search stopped: of a longer work, it shall end the whole."""
    if stop_reason == INTERRUPTED:
        raise KeyboardInterrupt
