"""The command line: what it prints, and how it ends."""

import subprocess
import sys

import pytest

import rebasin_core
from rebasin_core import cli

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from rebasin_core.commands.app import app

RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(app, arguments)


def test_version_and_help():
    version = invoke("--version")
    assert (version.exit_code, version.output.strip()) == (0, f"rebasin-core {rebasin_core.__version__}")
    shown = invoke("--help")
    assert shown.exit_code == 0
    assert "demo" in shown.output
    options = invoke("demo", "--help")
    assert options.exit_code == 0
    assert all(name in options.output for name in ("--hidden", "--out", "--seed", "--quick"))


def test_without_arguments_the_help_is_shown():
    assert "demo" in invoke().output


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["demo", "--nonsense"], ["demo", "--seed", "-1"], ["demo", "--seed", "x"]]
)
def test_wrong_usage_ends_with_2(arguments):
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("hidden", ["", "64,x", "0", "64,-1", "64,,64", "1.5"])
def test_bad_widths_are_refused_before_any_work(hidden):
    done = invoke("demo", "--quick", "--hidden", hidden)
    assert done.exit_code == 2
    assert "widths" in done.output


def run(monkeypatch, *arguments):
    """Run the program itself; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["rebasin", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("out", "words"), [("picture.doc", ".png"), ("picture", ".png"), ("missing/picture.png", "does not exist")]
)
def test_a_bad_picture_file_is_refused_before_any_work(monkeypatch, tmp_path, capsys, out, words):
    pytest.importorskip("sklearn")
    assert run(monkeypatch, "demo", "--quick", "--out", str(tmp_path / out)) == 1
    captured = capsys.readouterr()
    assert "Error:" in captured.err
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / out).exists()


def test_a_missing_extra_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    code = run(monkeypatch, "--version")
    assert "typer" in str(code)
    assert "rebasin-core[cli]" in str(code)
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "rebasin_sklearn.demo", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run(monkeypatch, "demo", "--quick") == 1
    assert "rebasin-core[demo]" in capsys.readouterr().err


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "rebasin_core.cli", "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"rebasin-core {rebasin_core.__version__}")
    assert done.stderr == ""
