"""Objects that a person names on the command line: ``package.module:function`` or ``file.py:function``."""

import importlib
import importlib.util
import sys
import traceback
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from rebasin_core.errors import SettingError

__all__ = ["call_object", "load_object"]


def load_object(name: str, what: str) -> Any:
    """Import what is named; modules in the current folder are found too.

    Parameters
    ----------
    name : str
        ``package.module:attribute`` or ``path/to/file.py:attribute``.
    what : str
        What it is wanted for, as messages say it.

    Raises
    ------
    SettingError
        No such module, file or attribute, or code that fails while it is imported.

    Examples
    --------
    >>> load_object("math:sqrt", "--loss")(9.0)
    3.0
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise SettingError(f"expected {what} as package.module:name or file.py:name, got {name!r}")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_name(place, what)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [known for known in vars(module) if not known.startswith("_")]
            raise SettingError(f"{what}: {place} has no {attribute!r}; it has {', '.join(names[:12]) or 'nothing'}")
        found = getattr(found, part)
    return found


def call_object(function: Any, arguments: dict[str, Any], what: str) -> Any:
    """Call a function of the user's; what it raises comes as one sentence with the place it was raised at.

    Raises
    ------
    SettingError
        It is no function, or it raised something.
    """
    if not callable(function):
        raise SettingError(f"expected {what} to name a function, got {type(function).__name__}")
    try:
        return function(**arguments)
    except Exception as error:
        raise SettingError(f"{what} failed: {_told(error)}") from error


def _from_name(name: str, what: str) -> ModuleType:
    with_here = str(Path.cwd())
    if with_here not in sys.path:  # as for `python -m`; code of the user's may import from there later, too
        sys.path.insert(0, with_here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module does while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise SettingError(
                f"{what}: there is no module {error.name!r}, neither installed nor in the current folder; expected "
                f"package.module:name or file.py:name"
            ) from None
        raise SettingError(f"{what}: importing {name} failed: {_told(error)}") from error


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise SettingError(f"{what}: there is no file {str(path)!r}")
    # A name of its own, so that a file called torch.py hides nothing; in sys.modules, where dataclasses look it up.
    name = f"rebasin_user_{path.stem}_{zlib.crc32(bytes(path.resolve())):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError(f"{what}: {str(path)!r} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SettingError(f"{what}: importing {path} failed: {_told(error)}") from error
    return module


def _told(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
