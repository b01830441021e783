"""The peers: where they are, how to get them, and how to import two packages of one name side by side."""

import importlib
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["AUTHORS", "OTT", "POT", "SNIMU", "PeerAbsentError", "Peers", "import_isolated"]

AUTHORS = "sinkhorn-rebasin"
SNIMU = "rebasin"
POT = "POT"
OTT = "OTT-JAX"

_HOW = {
    AUTHORS: "pip install --no-deps --target FOLDER/sinkhorn-rebasin sinkhorn-rebasin==0.0.2 torchviz graphviz",
    SNIMU: "pip install --no-deps --target FOLDER/rebasin rebasin==0.0.47 torchview graphviz",
    POT: "pip install POT",
    OTT: "pip install ott-jax",
}


class PeerAbsentError(Exception):
    """A peer is not there; the message says how to get it."""


def import_isolated(folder: Path, package: str, alias: str, *submodules: str) -> ModuleType:
    """Import a package and submodules from a folder of its own, and file them under another name.

    Afterwards `package` is not in ``sys.modules`` unless it was before, and the folder is not on ``sys.path``: the
    other package of the same name can be imported next. What else the folder holds stays imported, under its own name.
    """

    def belongs(name: str) -> bool:
        return name == package or name.startswith(package + ".")

    before = {name: sys.modules.pop(name) for name in list(sys.modules) if belongs(name)}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(package)
            for submodule in submodules:
                importlib.import_module(f"{package}.{submodule}")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if belongs(name)]:
            sys.modules[alias + name.removeprefix(package)] = sys.modules.pop(name)
        sys.modules.update(before)
    return module


@dataclass
class Peers:
    """The peers that can be had, each imported once."""

    folder: Path | None = None
    _loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, folder: Path | None) -> "Peers":
        """Look in the folder given, or in that of the environment variable ``REBASIN_PEERS``."""
        variable = os.environ.get("REBASIN_PEERS")
        return cls(folder or (Path(variable) if variable else None))

    def get(self, name: str) -> ModuleType:
        """Return a peer's module.

        Raises
        ------
        PeerAbsentError
            It is not there, or cannot be imported.
        """
        if name not in self._loaded:
            try:
                self._loaded[name] = _LOADERS[name](self.folder)
            except Exception as error:  # whatever a stranger's import may raise
                self._loaded[name] = PeerAbsentError(f"{name} is skipped ({_reason(error)}). To get it: {_how(name)}")
        found = self._loaded[name]
        if isinstance(found, PeerAbsentError):
            raise found
        return found  # type: ignore[no-any-return]

    def absent(self, *names: str) -> list[str]:
        """One line for each of these peers that is not there."""
        lines = []
        for name in names:
            try:
                self.get(name)
            except PeerAbsentError as error:
                lines.append(str(error))
        return lines


def _how(name: str) -> str:
    where = "; then --peers FOLDER, or REBASIN_PEERS=FOLDER" if name in (AUTHORS, SNIMU) else ""
    return _HOW[name] + where


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ModuleNotFoundError | FileNotFoundError) else repr(error)


def _from_folder(folder: Path | None, name: str, alias: str, *submodules: str) -> ModuleType:
    place = None if folder is None else (folder / name).resolve()
    if place is None or not (place / "rebasin").is_dir():
        raise FileNotFoundError("not found in the folder of peers" if place else "no folder of peers was given")
    return import_isolated(place, "rebasin", alias, *submodules)


def _pot(folder: Path | None) -> ModuleType:
    # On import POT loads every framework it finds, which takes seconds and crashes where TensorFlow comes before torch.
    for framework in ("TENSORFLOW", "JAX", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{framework}", "1")
    import torch  # noqa: F401

    return _quietly("ot")


def _ott(folder: Path | None) -> ModuleType:
    _quietly("ott")
    for name in ("geometry.geometry", "problems.linear.linear_problem", "solvers.linear.sinkhorn"):
        module = _quietly(f"ott.{name}")
    del module
    return sys.modules["ott"]


def _quietly(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


_LOADERS = {
    AUTHORS: lambda folder: _from_folder(folder, AUTHORS, "peer_sinkhorn_rebasin", "loss"),
    SNIMU: lambda folder: _from_folder(folder, SNIMU, "peer_rebasin"),
    POT: _pot,
    OTT: _ott,
}
