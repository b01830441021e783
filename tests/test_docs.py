"""README, docs and examples: what they show must run."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# Those that need a data set or a framework have a test beside its adapter's.
EXAMPLES = [p for p in sorted((ROOT / "examples").glob("*.py")) if "REBASIN_DATA" not in p.read_text()]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    for framework in ("torch", "keras", "avalanche"):
        if re.search(rf"^import {framework}$", page.read_text(), flags=re.M):
            pytest.importorskip(framework)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), namespace)
        for name in [name for name in namespace if name.startswith("test_")]:
            namespace.pop(name)()  # what a page shows as a test must pass


def test_readme_has_exactly_two_set_up_commands():
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    assert commands == ['pip install -e ".[demo]" && rebasin demo', 'pip install -e ".[test]" && pytest']


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_inside_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_run(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_users_own_objective_brings_the_barrier_down(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "numpy_two_layer.py"), run_name="__main__")
    naive, rebased = (float(x) for x in re.findall(r"loss barrier ([\d.]+)", capsys.readouterr().out))
    assert rebased < 0.1 * naive
