"""What these experiments take from those in ``examples/paper``: data sets and tables.

Both folders have a ``tasks.py``; so these modules are loaded by their place and not by their name.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["images", "running"]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"paper_{name}", Path(__file__).parents[1] / "paper" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


images, running = _load("tasks"), _load("running")
