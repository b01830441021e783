"""The permutation graph as a file that a person can write: JSON, a notation for every tensor."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebasin_core.errors import RebasinError, SpecError
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["read_axes"]

EXPECTED = (
    'expected a JSON object such as {"fc1.weight": "h .", "fc1.bias": "h", "fc2.weight": ". h"}, or '
    '{"axes": {...}, "buffers": [...], "pin": [...]}, or what `rebasin inspect --axes-out` wrote'
)
KEYS = {"axes", "buffers", "pin"}


def read_axes(path: Path, tensors: Mapping[str, Any]) -> PermutationGraph:
    """Read the axes of every tensor of a file.

    Parameters
    ----------
    path : Path
        JSON: notations by name; or these under ``"axes"``, beside the lists ``"buffers"`` (moved, but not compared:
        running statistics) and ``"pin"`` (groups or tensors that stay); or a whole graph of `PermutationGraph.to_json`.
    tensors : mapping of str to something with a shape
        The tensors of the checkpoint.

    Raises
    ------
    SpecError
        The file cannot be read, or does not fit the tensors.
    ShapeError
        The graph was made for other shapes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {_reason(error)}; {EXPECTED}") from None
    if not isinstance(stored, dict) or not stored:
        raise SpecError(f"{path}: {EXPECTED}")
    try:
        if "format" in stored and isinstance(stored.get("axes"), dict):
            graph = PermutationGraph.from_json(text)
            graph.check_params(tensors, "the checkpoint")
            return graph
        parts = stored if isinstance(stored.get("axes"), dict) else {"axes": stored}
        axes, lists = parts["axes"], {key: parts.get(key, []) for key in ("buffers", "pin")}
        if (
            parts.keys() - KEYS
            or not all(isinstance(notation, str) for notation in axes.values())
            or not all(_is_list_of_names(names) for names in lists.values())
        ):
            raise SpecError(EXPECTED)
        return PermutationGraph.from_axes(axes, tensors, **lists)
    except RebasinError as error:
        raise type(error)(f"{path}: {error}") from None


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"this is not JSON: {error}"
