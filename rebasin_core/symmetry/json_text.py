"""Reading the JSON text of a graph or a plan: whatever the text holds, it is read, or refused in a sentence."""

import json
from collections.abc import Mapping
from typing import Any

from rebasin_core.errors import RebasinError

__all__ = ["read_json"]

_NAMES: Mapping[type, str] = {dict: "an object", list: "a list"}


def read_json(
    text: str,
    owner: str,
    form: str,
    keys: Mapping[str, type],
    error: type[RebasinError],
    optional: Mapping[str, type] | None = None,
) -> dict[str, Any]:
    """Read what ``owner.to_json`` wrote.

    Parameters
    ----------
    text : str
        The JSON text.
    owner : str
        The class that wrote it, for messages.
    form : str
        What stands under ``"format"`` in its texts.
    keys : mapping of str to type
        What else must be there, each a dict or a list.
    error : type
        What to raise where the text is not of this kind.
    optional : mapping of str to type, optional
        What may be there as well; where it is not, the result has an empty one.

    Returns
    -------
    dict
        The whole object, with everything in `keys` and `optional` of the type given there.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        raise error(f"expected JSON text written by {owner}.to_json, got {type(text).__name__}")
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as reason:  # no JSON, no text, a number without end, lists in lists in lists
        raise error(f"this is not JSON: {reason}") from None
    if not isinstance(stored, dict) or stored.get("format") != form:
        raise error(f'expected JSON text written by {owner}.to_json, with "format": "{form}"')
    stored = {key: kind() for key, kind in (optional or {}).items()} | stored
    for key, kind in {**keys, **(optional or {})}.items():
        if key not in stored:
            raise error(f"this JSON text is not a whole {_plain(owner)}, it lacks {key!r}; write it with to_json")
        if not isinstance(stored[key], kind):
            raise error(f"expected {key!r} in this JSON text as {_NAMES[kind]}, got {stored[key]!r:.80}")
    return stored


def _plain(owner: str) -> str:
    return "graph" if owner == "PermutationGraph" else "plan"
