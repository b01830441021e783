"""What a command says: tables for people, or one JSON object for machines."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Report", "reporting"]


@dataclass
class Report:
    """What a command has found out so far; printed when it is done."""

    as_json: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """The JSON object."""
    _shown: list[Any] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add lines for people."""
        self._shown.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table for people: the first column is text, all others are figures."""
        table = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._shown.append(table)

    def print(self) -> None:
        """Print it to standard output."""
        if self.as_json:
            sys.stdout.write(json.dumps(_plain(self.facts)) + "\n")
            return
        # Where nobody watches there is no width to keep to, and names cut in pieces cannot be read.
        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            console = Console(highlight=False, markup=False, emoji=False, width=200)
        for shown in self._shown:
            console.print(shown, soft_wrap=isinstance(shown, str))


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[Report]:
    """Collect what a command finds, and print it once it is done: nothing is printed of work that failed.

    Meanwhile, what code of the user's prints goes to standard error if standard output is for a machine.
    """
    report = Report(as_json)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield report
    report.print()


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity, nor numbers and arrays of NumPy's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
