"""What is imported: nothing heavy with the core, and one way only."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_core

from . import import_graph
from .import_graph import CORE, ROOMS, arrows, circles, imported, modules, room

ADAPTERS = Path(__file__).parents[1] / "adapters"
HEAVY = {
    "torch",
    "tensorflow",
    "keras",
    "jax",
    "sklearn",
    "matplotlib",
    "typer",
    "rich",
    "tqdm",
    "pandas",
    "hypothesis",
}

OPTIONAL = {  # what else than NumPy, SciPy and autograd a module of the core may import
    "commands": {"typer", "rich", "rebasin_sklearn", "rebasin_bench"},  # programs of their own, loaded by name
    "cli": {"typer", "rich"},
    "line": {"matplotlib"},
    "support": {"tqdm"},
    "testing": {"hypothesis", "pytest"},
}


def roots(path):
    """Root modules that a file imports, anywhere in it."""
    return {name.partition(".")[0] for name in imported(path)}


def test_importing_the_core_imports_nothing_heavy():
    code = "import sys, rebasin_core; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY.isdisjoint(done.stdout.split())
    assert "rebasin_core" in done.stdout.split()


def test_aligning_mappings_imports_no_framework_either():
    code = """
import sys
import numpy as np, rebasin_core as rb
a = {"w": np.eye(3)}
rb.align(a, a, graph=rb.PermutationGraph.from_axes({"w": "h ."}, a), progress=False)
print(*sorted({m.partition('.')[0] for m in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("module", modules())
def test_a_file_of_the_core_imports_no_framework(module):
    allowed = {"rebasin_core", "numpy", "scipy", "autograd", *sys.stdlib_module_names}
    assert roots(modules()[module]) <= allowed | OPTIONAL.get(room(module), set())


def test_every_room_is_on_the_list_and_says_who_may_import_it():
    rooms = {room(module) for module in modules()}
    assert rooms == set(ROOMS), "give a new room its place in tests/import_graph.py, and in docs/architecture.md"
    for name in rooms:
        if (CORE / name).is_dir():
            first = ast.get_docstring(ast.parse((CORE / name / "__init__.py").read_text())).partition("\n")[0]
            assert "may import" in first, name


@pytest.mark.parametrize(("importing", "imported"), arrows(), ids=" -> ".join)
def test_a_room_imports_only_rooms_below_it(importing, imported):
    """Also inside functions and for types; no two rooms are on one level, where each could import the other."""
    assert ROOMS.index(imported) < ROOMS.index(importing), arrows()[importing, imported]


def test_no_file_imports_itself_by_way_of_others():
    assert circles() == []


def test_the_face_is_imported_by_programs_only():
    assert {importing for importing, imported in arrows() if imported == "face"} <= {"commands", "cli"}


def test_a_circle_would_be_found(tmp_path, monkeypatch):
    for name, code in {
        "__init__": "",
        "a": "def f():\n    import rebasin_core.b",
        "b": "from rebasin_core.a import f",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(import_graph, "CORE", tmp_path)
    assert circles() == [("a", "b")]


@pytest.mark.parametrize("package", ["rebasin_core", "rebasin_sklearn", "rebasin_torch", "rebasin_keras"])
def test_no_public_name_hides_a_module(package):
    """``import rebasin_core.alignment`` finds the module, whatever the package holds under that name."""
    pytest.importorskip(package.removeprefix("rebasin_") if package != "rebasin_core" else "numpy")
    for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if info.name.startswith("rebasin_core.testing") or "commands" in info.name:
            pytest.importorskip("hypothesis")
            pytest.importorskip("typer")
        module = importlib.import_module(info.name)
        parent, _, name = info.name.rpartition(".")
        assert getattr(sys.modules[parent], name) is module, info.name


@pytest.mark.skipif(not ADAPTERS.is_dir(), reason="an installed copy, without its source tree")
def test_adapters_never_import_each_other():
    packages = [p for p in ADAPTERS.iterdir() if p.is_dir() and p.name.startswith("rebasin_")]
    names = {p.name for p in packages}
    assert names
    for package in packages:
        for path in package.rglob("*.py"):
            assert roots(path) & names <= {package.name}, f"{path.relative_to(ADAPTERS)}"
    assert not (ADAPTERS / "__init__.py").exists()


def test_every_public_name_exists_once():
    assert sorted(rebasin_core.__all__) == sorted(set(rebasin_core.__all__))
    for name in rebasin_core.__all__:
        assert getattr(rebasin_core, name) is not None
