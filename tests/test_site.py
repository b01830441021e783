"""The built site: anchors for all public names and methods, a page for every room, links that lead somewhere."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rebasin_core as rb

from .import_graph import ROOMS, modules, room

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "rebasin_core": "index",
    "rebasin_core.objectives": "objectives",
    "rebasin_core.solvers": "solvers",
    "rebasin_core.backends.optimizers": "backends",
    "rebasin_core.inference.layers": "inference",
    "rebasin_core.continual": "continual",
    "rebasin_core.errors": "errors",
    "rebasin_core.testing": "testing",
    "rebasin_torch": "adapters",
    "rebasin_keras": "adapters",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def anchors(site, page):
    file = site / "api" / ("index.html" if page == "index" else f"{page}/index.html")
    return set(re.findall(r'\bid="([^"]+)"', file.read_text()))


def methods(kind):
    """What a class defines itself for its users: methods and properties, each with a docstring."""
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield name


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_and_method_has_an_anchor(module, site):
    if not module.startswith("rebasin_core"):
        pytest.importorskip(module.removeprefix("rebasin_"))
    found, where = anchors(site, PUBLIC[module]), importlib.import_module(module)
    pages = {"errors", "layers", "objectives", "optimizers", "solvers", "testing", "__version__"}
    elsewhere = {"RebasinIncremental", *rb.errors.__all__} if module == "rebasin_core" else set()
    for name in sorted(set(where.__all__) - pages - elsewhere):
        thing = getattr(where, name)
        assert f"{module}.{name}" in found
        if inspect.isclass(thing):
            for method in methods(thing):
                assert f"{module}.{name}.{method}" in found


def test_every_room_has_a_page_with_all_its_files(site):
    for name in ROOMS:
        inside = [module for module in modules() if room(module) == name and "." in module]
        if not inside or name == "commands":  # the commands have a page of their own, written by hand
            continue
        found = anchors(site, name)
        if name != "testing":
            assert {f"rebasin_core.{module}" for module in inside} <= found, name


def test_the_tour_names_every_room_and_its_links_lead_into_the_site(site):
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert all(f"{name}" in text for name in ROOMS)
    page = (site / "architecture" / "index.html").read_text()
    targets = re.findall(r'href="\.\./(api/[^"#]*)#([^"]+)"', page)
    assert len(targets) >= 20
    for folder, anchor in targets:
        assert f'id="{anchor}"' in (site / folder / "index.html").read_text(), anchor
