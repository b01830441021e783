"""Inputs of a network, drawn by the shapes that a person writes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rebasin_core.errors import SettingError

__all__ = ["drawn_inputs"]

FORM = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<dtype>[a-z]+\d*):)?(?P<shape>\d+(?:,\d+)*)")


def drawn_inputs(forms: Sequence[str], seed: int = 0) -> tuple[Any, ...]:
    """Draw inputs: normal numbers, and zeros and ones where whole ones are asked for, of which every table has rows.

    Parameters
    ----------
    forms : sequence of str
        ``[name=][dtype:]shape``: ``1,3,32,32``, ``int64:1,16`` or ``input_ids=int64:1,16``. Inputs with a name are
        passed by keyword.
    seed : int, default 0
        Of the numbers.

    Returns
    -------
    tuple
        The positional inputs and, behind them, a dictionary of those by keyword, if there are any.

    Raises
    ------
    SettingError
        A form that cannot be read.

    Examples
    --------
    >>> x, by_name = drawn_inputs(["2,3", "ids=int64:1,4"])
    >>> x.shape, x.dtype.name, by_name["ids"].shape
    ((2, 3), 'float32', (1, 4))
    """
    rng = np.random.default_rng(seed)
    positional: list[Any] = []
    by_name: dict[str, Any] = {}
    for form in forms:
        found = FORM.fullmatch(form.replace(" ", ""))
        kind = _dtype(found["dtype"] or "float32") if found else None
        if found is None or kind is None:
            raise SettingError(
                f"expected --input as a shape, such as 1,3,32,32, with a dtype before it if it is not float32, as in "
                f"int64:1,16, and a name if it is passed by keyword, as in input_ids=int64:1,16; got {form!r}"
            )
        shape = tuple(int(n) for n in found["shape"].split(","))
        x = (rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)).astype(kind)
        if found["name"]:
            by_name[found["name"]] = x
        else:
            positional.append(x)
    return (*positional, by_name) if by_name else tuple(positional)


def _dtype(name: str) -> "np.dtype[Any] | None":
    try:
        kind = np.dtype(name)
    except TypeError:
        return None
    return kind if kind.kind in "fiub" else None
