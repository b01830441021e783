"""README and docs: what they show must run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


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
