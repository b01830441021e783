"""What has been learned so far as a file: NumPy's npz, without pickle, written whole or not at all."""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rebasin_core.continual.memory import TaskMemory
from rebasin_core.continual.nested import flatten, unflatten
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.settings import Settings
from rebasin_core.errors import DataError, SettingError, ShapeError, SpecError
from rebasin_core.models.model import Model
from rebasin_core.support.atomic import replacing
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Saved", "check_same", "read", "restore_run", "write"]

FORMAT = "rebasin-core/incremental/1"


@dataclass(frozen=True)
class Saved:
    """Everything a run is made of, apart from the model's code and the loss."""

    settings: Settings
    loss: str | None
    loss_is_function: bool
    graph: PermutationGraph
    params: Mapping[str, np.ndarray[Any, Any]]
    memory: Sequence[TaskMemory]
    reports: Sequence[TaskReport]


def write(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a file; what was there before stays until the new one is complete."""
    arrays: dict[str, Any] = {f"param_{i}": x for i, x in enumerate(saved.params.values())}
    memories = []
    for i, memory in enumerate(saved.memory):
        leaves, structure = flatten(memory.inputs)
        arrays |= {f"memory_{i}_input_{j}": x for j, x in enumerate(leaves)}
        arrays[f"memory_{i}_targets"] = memory.targets
        memories.append({"task": memory.task, "structure": structure, "count": len(leaves)})
    header = {
        "format": FORMAT,
        "settings": saved.settings.to_dict(),
        "loss": saved.loss,
        "loss_is_function": saved.loss_is_function,
        "graph": saved.graph.to_json(),
        "params": list(saved.params),
        "memory": memories,
        "reports": [asdict(report) for report in saved.reports],
    }
    with replacing(path) as file:
        np.savez(file, header=np.array(json.dumps(header, default=_number)), **arrays)


def read(path: str | os.PathLike[str]) -> Saved:
    """Read a file written by `write`.

    Raises
    ------
    DataError
        The file is of another kind, or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            if header.get("format") != FORMAT:
                raise DataError(f"{path} is of format {header.get('format')!r}; expected {FORMAT!r}")
            arrays = {name: stored[name] for name in stored.files if name != "header"}
        memory = [
            TaskMemory(
                found["task"],
                unflatten([arrays[f"memory_{i}_input_{j}"] for j in range(found["count"])], found["structure"]),
                arrays[f"memory_{i}_targets"],
            )
            for i, found in enumerate(header["memory"])
        ]
        return Saved(
            settings=Settings.from_dict(header["settings"]),
            loss=header["loss"],
            loss_is_function=header["loss_is_function"],
            graph=PermutationGraph.from_json(header["graph"]),
            params={name: arrays[f"param_{i}"] for i, name in enumerate(header["params"])},
            memory=memory,
            reports=[TaskReport(**{**found, "losses": tuple(found["losses"])}) for found in header["reports"]],
        )
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} was not written by RebasinIncremental.save, or is damaged ({type(error).__name__}: {error})"
        ) from error


def check_same(settings: Settings, given: Mapping[str, Any]) -> None:
    """Raise `SettingError` where a setting differs from the one in the file."""
    for name, value in given.items():
        if name not in settings.to_dict():
            raise SettingError(f"there is no setting {name!r}; settings: {', '.join(settings.to_dict())}")
        stored = getattr(settings, name)
        if value != stored and (not isinstance(stored, tuple) or tuple(value or ()) != stored):
            raise SettingError(
                f"the file was saved with {name}={stored!r}, got {name}={value!r}; a run goes on with its own "
                f"settings. Leave {name} out"
            )


def restore_run(model: Model, params: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return the stored parameters as arrays like those of the model.

    Raises
    ------
    SpecError, ShapeError
        The model has other parameters.
    """
    for name in (*model.params, *params):
        if name not in params or name not in model.params:
            there, lacking = ("model", "file") if name in model.params else ("file", "model")
            raise SpecError(f"the {there} has a parameter {name!r}, the {lacking} has none; load with the same model")
        here, stored = tuple(model.params[name].shape), params[name].shape
        if here != stored:
            raise ShapeError(f"parameter {name!r} has shape {here} in the model and {stored} in the file")
    return {name: model.backend.asarray(params[name], like=x) for name, x in model.params.items()}


def _number(value: Any) -> Any:
    """NumPy's numbers, which JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    raise SettingError(f"cannot save {value!r}; expected numbers and names")
