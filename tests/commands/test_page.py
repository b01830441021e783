"""The page on the command line: files, programs and commands of it, from top to bottom in one folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
README = PAGE.parents[1] / "README.md"
NETWORK = """
from torch import nn


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 4))
"""
FENCE = re.compile(r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```", flags=re.M | re.S)


def commands(text):
    """Command lines of a block, with the exit code that is written beside them."""
    for line in text.splitlines():
        command, _, comment = line.partition("#")
        code = re.search(r"exit code (\d+)", comment)
        program, *arguments = shlex.split(command.removeprefix("$ "))
        assert program == "rebasin"
        yield line, arguments, int(code[1]) if code else 0


def test_every_command_of_the_page_ends_as_it_says(rebasin, tmp_path, monkeypatch):
    for needed in ("torch", "transformers", "matplotlib"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    namespace, count = {"__name__": "__main__"}, 0
    for found in FENCE.finditer(PAGE.read_text(encoding="utf-8")):
        if found["title"]:
            Path(found["title"]).write_text(found["text"], encoding="utf-8")
        elif found["language"] in ("python", "py"):
            exec(compile(found["text"], str(PAGE), "exec"), namespace)
        elif found["language"] == "console":
            for line, arguments, code in commands(found["text"]):
                done = rebasin(*arguments)
                assert done.code == code, f"{line}\n{done.err}"
                count += 1
    monkeypatch.delitem(sys.modules, "nets")
    assert count > 10
    assert Path("line.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_names_every_command_and_every_exit_code(rebasin):
    text = PAGE.read_text(encoding="utf-8")
    shown = rebasin("--help").out
    for name in re.findall(r"^│ (\w+) ", shown, flags=re.M):
        if name not in ("demo", "bench"):
            assert f"rebasin {name}" in text
    for code in (0, 1, 2, 130):
        assert f"| {code} |" in text


def test_the_lines_of_the_readme_do_what_they_say(rebasin, planted, tmp_path, monkeypatch):
    """Those on .keras files are run by the tests of Keras."""
    torch = pytest.importorskip("torch")
    tensors = pytest.importorskip("safetensors.numpy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    for name, params in (("a", planted.params), ("b", planted.permuted)):
        tensors.save_file(params, f"{name}.safetensors")
    Path("models.py").write_text(NETWORK, encoding="utf-8")
    namespace = {}
    exec(NETWORK, namespace)
    for name in "abc":
        torch.save(namespace["network"]().state_dict(), f"{name}.pt")
    lines = re.findall(r"^rebasin .*$", README.read_text(encoding="utf-8"), flags=re.M)
    here = [line for line in lines if ".keras" not in line]
    assert len(here) == 3
    for line, arguments, code in commands("\n".join(here)):
        done = rebasin(*arguments)
        assert done.code == code, f"{line}\n{done.err}"
    assert rebasin("verify", "b.safetensors", "aligned.safetensors", "--axes", "axes.json").code == 0
    assert torch.load("merged.pt", weights_only=True).keys() == torch.load("a.pt", weights_only=True).keys()
