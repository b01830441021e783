"""Showing a value in one line, and in a notebook as a small table."""

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["counted", "html_table", "shortened"]

MOST_ROWS = 20


def counted(n: int, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun.

    Examples
    --------
    >>> counted(1, "group"), counted(1200, "entry", "entries")
    ('1 group', '1,200 entries')
    """
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def shortened(parts: Sequence[str], separator: str = " ", width: int = 72) -> str:
    """As many parts as fit into a line, one at least, and how many are left out.

    Examples
    --------
    >>> shortened(["w[0]", "b[0]", "v[1]"], width=10)
    'w[0] b[0] and 1 more'
    """
    count, length = 0, -len(separator)
    while count < len(parts) and (count == 0 or length + len(separator) + len(parts[count]) <= width):
        length += len(separator) + len(parts[count])
        count += 1
    more = f" and {len(parts) - count:,} more" if len(parts) > count else ""
    return separator.join(parts[:count]) + more


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table for a notebook: everything escaped, cut after 20 rows with a count of the others."""
    rows = list(rows)
    shown = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        shown.append(f'<td colspan="{len(header)}">and {len(rows) - MOST_ROWS:,} more</td>')
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{row}</tr>" for row in shown)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
