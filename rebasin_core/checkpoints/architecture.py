"""What the tensors of a checkpoint are to each other: which axes belong together, and what the network computes.

It comes from a file of axes, from a function that builds the model, from the folder of a Hugging Face model, or from
the checkpoint itself, where its format holds a model (.keras).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.checkpoints.axes_file import read_axes
from rebasin_core.checkpoints.example_inputs import drawn_inputs
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.checkpoints.objects import call_object, load_object
from rebasin_core.continual.ties import find_ties
from rebasin_core.errors import CheckpointError, SettingError
from rebasin_core.models.model import Model, find_adapter
from rebasin_core.symmetry.axes import AxesSpec, Fixed
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Architecture", "Source", "find_architecture"]

# What builds the model of a folder with config.json; imported when such a folder is met.
FOLDERS = "rebasin_torch.architectures:from_folder"
MOST_SHOWN = 8

Read = Callable[[str], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Source:
    """What a person said about the architecture.

    Attributes
    ----------
    axes : Path, optional
        A file of axes.
    model : str, optional
        ``package.module:factory``, ``file.py:factory``, or a folder with config.json.
    kwargs : mapping
        Of the factory.
    inputs : sequence of str
        Shapes of example inputs, as `rebasin_core.checkpoints.example_inputs` reads them.
    """

    axes: Path | None = None
    model: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()


@dataclass(frozen=True)
class Architecture:
    """A graph over the tensors of a file and, where there is one, a model to compute with.

    Attributes
    ----------
    graph : PermutationGraph
        Over the names of the file.
    model : model or None
        Of any framework; what values it holds does not matter. None: only the axes are known.
    whole : PermutationGraph
        Over the names of the model, those of tied tensors that the file leaves out among them.
    names : mapping of str to str
        For every tensor of the model, its name in the file; of tied tensors, the one that the file holds.
    inputs : tuple
        Example inputs; empty where the model knows its own.
    """

    graph: PermutationGraph
    model: Any = None
    whole: PermutationGraph | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()

    def load(self, file: Checkpoint) -> Any:
        """Return the model with the tensors of a file; a mapping of arrays where only the axes are known.

        Raises
        ------
        SpecError, ShapeError
            The file holds other tensors than the one the architecture was found for.
        """
        self.graph.check_params(file.tensors, str(file.path))
        own = getattr(file, "model", None)
        return self.filled(file.read) if own is None else own

    def filled(self, tensor: Read) -> Any:
        """Return a model with the values ``tensor(name)`` returns for the names of the file."""
        if self.model is None:
            return {name: tensor(name) for name in self.graph.axes}
        adapter = find_adapter(self.model)
        params = adapter.params(self.model)
        backend = Model(self.model, adapter, params).backend
        values = {
            name: backend.asarray(tensor(self.names[name]), like=x, dtype=backend.dtype(x))
            for name, x in params.items()
        }
        return adapter.rebuild(self.model, values)


def find_architecture(file: Checkpoint, source: Source, inputs: tuple[Any, ...] = ()) -> Architecture | None:
    """Find the architecture of a checkpoint; None where nothing tells it.

    Parameters
    ----------
    file : Checkpoint
        The file.
    source : Source
        What the person said. Without a word, a .keras file tells by itself, and so does a config.json beside the file
        that names the class of the model.
    inputs : tuple, optional
        Inputs to trace and verify with where `source` names none and the model does not know its own.

    Raises
    ------
    RebasinError
        The model cannot be built, does not fit the file, or cannot be traced.
    """
    own = getattr(file, "model", None)
    if own is not None and source.model is not None:
        raise SettingError(f"{file.path} holds its architecture; leave out --model")
    if own is None and source.model is None:
        if source.axes is not None:  # then no framework is needed
            return Architecture(read_axes(source.axes, file.tensors))
        if not _has_config(file.path.parent):
            return None
    model, told, stored, origin = (own, (), {}, str(file.path)) if own is not None else _built(file.path.parent, source)
    example = drawn_inputs(source.inputs) or told
    adapter = find_adapter(model)
    params = adapter.params(model)
    opened = Model(model, adapter, params)
    names = _names(opened, file, stored)
    _check_fits(file, opened, names, origin)
    if not example and adapter.example_inputs(model) is None:
        example = inputs
    if source.axes is not None:
        graph = read_axes(source.axes, file.tensors)
        whole = _of_model(graph, names)
    else:
        whole = _traced(adapter, model, example, origin)
        graph = _of_file(whole, file, names)
    return Architecture(graph, model, whole, names, example)


def _built(folder: Path, source: Source) -> tuple[Any, tuple[Any, ...], Mapping[str, str], str]:
    """The model, inputs that came with it, names of tensors that differ in files, and where the model is from."""
    named = None if source.model is None else Path(source.model)
    if named is None or named.is_dir():
        place = folder if named is None else named
        if not _has_config(place):
            raise SettingError(
                f"--model: the folder {str(place)!r} has no config.json that names the class of a model under "
                f'"architectures"; expected the folder of a Hugging Face model, or package.module:factory'
            )
        try:
            from_folder = EntryPoint(name="", value=FOLDERS, group="").load()
        except ModuleNotFoundError as error:
            raise SettingError(
                f"{place / 'config.json'}: building the model needs {error.name}; install torch and transformers, or "
                f"pass --axes, which needs neither"
            ) from None
        return *from_folder(place, needs_inputs=not source.inputs), str(place / "config.json")
    assert source.model is not None
    if ":" not in source.model and not source.model.endswith(".py"):
        raise SettingError(
            f"--model: {source.model!r} is neither a folder nor package.module:factory. Models of the Hugging Face hub "
            f"are read from a local folder only: download it first"
        )
    origin = f"--model {source.model}"
    made = call_object(load_object(source.model, "--model"), dict(source.kwargs), origin)
    model, *inputs = made if isinstance(made, tuple) else (made,)
    if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
        inputs = list(inputs[0])
    return model, tuple(inputs), {}, origin


def _has_config(folder: Path) -> bool:
    """Whether a folder holds the config.json of a model; other programs have files of this name, too."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("architectures"))


def _traced(adapter: Any, model: Any, example: tuple[Any, ...], origin: str) -> PermutationGraph:
    try:
        graph: PermutationGraph = adapter.graph(model, *example)
    except SettingError as error:
        if example:
            raise
        raise SettingError(
            f"{origin}: the network is traced by following example inputs, whose shape it does not say; pass "
            f"--input, for instance --input 1,3,32,32, or --input int64:1,16 for numbers of tokens"
        ) from error
    return graph


def _names(model: Model, file: Checkpoint, stored: Mapping[str, str]) -> dict[str, str]:
    """For every name of the model the one in the file; for one that is left out, that of what it is tied to."""
    names = {name: stored.get(name, name) for name in model.params}
    left_out = [name for name in names if names[name] not in file.tensors]
    if left_out:
        still = PermutationGraph.from_axes(_still(model.params), model.params, buffers=left_out)
        names |= {name: names[owner] for name, owner in find_ties(model, still).items()}
    return names


def _still(params: Mapping[str, Any]) -> dict[str, AxesSpec]:
    return {name: AxesSpec.of(*(Fixed(n) for n in x.shape)) for name, x in params.items()}


def _check_fits(file: Checkpoint, model: Model, names: Mapping[str, str], origin: str) -> None:
    faults = []
    wanted = {names[name]: tuple(x.shape) for name, x in model.params.items()}
    floating = {names[name]: is_floating(model.backend.dtype(x)) for name, x in model.params.items()}
    missing = [name for name in wanted if name not in file.tensors]
    unexpected = [name for name in file.tensors if name not in wanted]
    if missing:
        faults.append(f"the file lacks {_listed(missing)}")
    if unexpected:
        faults.append(f"the model has no {_listed(unexpected)}")
    for name, info in file.tensors.items():
        if wanted.get(name, info.shape) != info.shape:
            faults.append(f"{name!r} has shape {info.shape} in the file and {wanted[name]} in the model")
        elif floating.get(name, False) and not is_floating(info.dtype):
            faults.append(f"{name!r} holds {info.dtype} in the file and floating numbers in the model")
    if faults:
        more = [f"and {len(faults) - MOST_SHOWN} more"] if len(faults) > MOST_SHOWN else []
        told = "; ".join([*faults[:MOST_SHOWN], *more])
        raise CheckpointError(f"{file.path} does not fit the model of {origin}: {told}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(map(repr, names[:MOST_SHOWN])) + more


def _of_file(whole: PermutationGraph, file: Checkpoint, names: Mapping[str, str]) -> PermutationGraph:
    """The graph of the model under the names of the file."""
    owners: dict[str, list[str]] = {}
    for name in names:
        owners.setdefault(names[name], []).append(name)
    first = {name: owners[name][0] for name in file.tensors}
    return replace(
        whole.rename(first),
        # A tied tensor counts under the one name that is left of it.
        buffers=frozenset(name for name in first if whole.buffers.issuperset(owners[name])),
    )


def _of_model(graph: PermutationGraph, names: Mapping[str, str]) -> PermutationGraph:
    """The graph of the file under the names of the model; a tensor of several names is counted under the first."""
    seen = {names[name]: name for name in reversed(list(names))}
    return replace(
        graph.rename(names),
        buffers=frozenset(name for name in names if names[name] in graph.buffers or seen[names[name]] != name),
    )
