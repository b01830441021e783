"""README and docs: what they show must run, and commands that take too long for it must be understood."""

import argparse
import re
import runpy
import shlex
import sys
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


class Understood(Exception):  # noqa: N818
    """A script got as far as to have read its options."""


def commands(page: Path) -> list[list[str]]:
    """Command lines of the blocks that no other test runs, as words."""
    text = "".join(blocks(page, "text")).replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?((?:python|rebasin) .*)$", text, flags=re.M)
    return [shlex.split(line, comments=True) for line in lines]


LONG = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", LONG, ids=lambda page: page.stem)
def test_commands_that_take_long_are_understood(page, monkeypatch):
    """Programs, options and their values are read as when they run; nothing is computed."""
    pytest.importorskip("torch")
    typer = pytest.importorskip("typer")
    from rebasin_core.commands.app import app

    reading = argparse.ArgumentParser.parse_args

    def parse_args(parser, *words):
        reading(parser, *words)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.syspath_prepend(str(ROOT))
    for program, first, *words in commands(page):
        if program == "rebasin":
            group = typer.main.get_command(app)
            group.commands[first].make_context(first, words)
            continue
        monkeypatch.setattr(sys, "argv", [first, *words])
        with monkeypatch.context() as beside:
            beside.syspath_prepend(str((ROOT / first).parent))
            with pytest.raises(Understood):
                runpy.run_path(str(ROOT / first), run_name="__main__")
        for neighbour in (ROOT / "examples").glob("*/*.py"):
            sys.modules.pop(neighbour.stem, None)  # another script's may have the same name


def test_commands_are_found():
    assert {page.stem for page in LONG} == {"README", "command_line", "merging", "performance", "results"}
    assert all(word[0] != "\\" for page in LONG for words in commands(page) for word in words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_inside_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_places_that_a_contributor_is_sent_to_exist():
    named = re.findall(r"`([\w.<>*/-]+/[\w.<>*/-]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    for place in named:
        assert list(ROOT.glob(place.replace("<framework>", "torch"))), place
