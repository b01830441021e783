"""What is imported: nothing heavy with the core, and one way only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_core

CORE = Path(rebasin_core.__file__).parent
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
FRAMEWORKS = {"torch", "torchvision", "transformers", "tensorflow", "keras", "jax", "jaxlib", "sklearn"}

# From the bottom up: a module imports those of its own layer and below, never above.
LAYERS = [
    {"errors", "atomic", "axes", "sizes", "registry", "settings", "optimizers"},
    {"graph", "progress"},
    {"backends"},
    {"precision", "scalars", "actions", "assignment", "sinkhorn", "plan", "soft_plan", "lazy", "inference", "layers"},
    {"data", "models", "interpolation", "batch_norms", "reestimation", "repairing", "unit_layers"},
    {"objectives"},
    {"problem"},
    {"solvers", "verify"},
    {"align", "checkpoints", "connectivity", "merging", "continual", "testing"},
    {"plotting", "commands", "cli"},
]
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}
OPTIONAL = {  # what else than NumPy, SciPy and autograd a module of the core may import
    "commands": {"typer", "rich"},
    "cli": {"typer", "rich"},
    "plotting": {"matplotlib"},
    "progress": {"tqdm"},
    "testing": {"hypothesis", "pytest"},
}


def files(folder):
    return sorted(path for path in folder.rglob("*.py"))


def package_of(path, level):
    """Package that `level` leading dots mean in this file."""
    root = CORE.parent if path.is_relative_to(CORE) else ADAPTERS
    return list(path.relative_to(root).parts[:-level])


def imports(path, at_import_time):
    """Modules a file imports; with `at_import_time`, only what importing the file runs (no functions, no typing)."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path, node.level) if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            if origin == "rebasin_core":  # from the package: a module, or a name of the face
                found.update(f"rebasin_core.{alias.name}" for alias in node.names)
            else:
                found.add(origin)
        skip = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (at_import_time and skip):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def module_of(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


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


@pytest.mark.parametrize("path", files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_a_file_of_the_core_imports_no_framework(path):
    roots = {name.partition(".")[0] for name in imports(path, at_import_time=False)}
    allowed = {"rebasin_core", "numpy", "scipy", "autograd", *sys.stdlib_module_names}
    assert roots <= allowed | OPTIONAL.get(module_of(path), set())


@pytest.mark.parametrize("path", files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_imports_run_one_way(path):
    mine = module_of(path)
    if mine == "__init__":
        return
    assert mine in HEIGHT, f"{mine} is new: give it a layer in this test"
    for name in imports(path, at_import_time=True):
        package, _, rest = name.partition(".")
        if package != "rebasin_core":
            continue
        other = rest.partition(".")[0]
        if other not in HEIGHT:
            assert (mine, other) == ("commands", "__version__"), f"{mine} imports {name}"
            continue
        assert HEIGHT[other] <= HEIGHT[mine], f"{mine} imports {other}, which is above it"


def test_the_face_is_imported_by_programs_only():
    """A name of the face, imported by one of its own modules, would be a cycle."""
    modules = {module_of(path) for path in files(CORE)}
    for path in files(CORE):
        parts = {name.split(".")[1] for name in imports(path, at_import_time=False) if name.startswith("rebasin_core.")}
        assert parts <= modules or module_of(path) == "commands", path.name


@pytest.mark.skipif(not ADAPTERS.is_dir(), reason="an installed copy, without its source tree")
def test_adapters_never_import_each_other():
    packages = [p for p in ADAPTERS.iterdir() if p.is_dir() and p.name.startswith("rebasin_")]
    names = {p.name for p in packages}
    assert names
    for package in packages:
        for path in files(package):
            roots = {name.partition(".")[0] for name in imports(path, at_import_time=False)}
            assert roots & names <= {package.name}, f"{path.relative_to(ADAPTERS)}"
    assert not (ADAPTERS / "__init__.py").exists()


def test_every_public_name_exists_once():
    assert sorted(rebasin_core.__all__) == sorted(set(rebasin_core.__all__))
    for name in rebasin_core.__all__:
        assert getattr(rebasin_core, name) is not None
