"""Exit codes, and one JSON object on standard output whatever happens."""

import subprocess
import sys

import numpy as np
import pytest

from rebasin_core.commands import matching

COMMANDS = ("inspect", "align", "merge", "barrier", "verify")


def program(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "rebasin_core.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(rebasin, command):
    done = rebasin(command, "--help")
    assert done.code == 0
    assert "--model" in done.out
    assert "--json" in done.out


def test_the_exit_codes_are_told(rebasin):
    assert "130 interrupted" in rebasin("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_an_object_for_machines(rebasin, command):
    done = rebasin(command, "--json")
    assert done.code == 2
    assert list(done.json) == ["error"]
    assert "Usage" in done.err
    assert rebasin(command, "--no-such-option", "--json").json["error"]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_is_an_object_for_machines(rebasin, planted, command):
    absent = planted.folder / "absent.npz"
    files = [absent] if command == "inspect" else [planted.a, absent]
    options = {"align": ("-o", planted.out()), "merge": ("-o", planted.out()), "barrier": ("--data", "x.npz")}
    done = rebasin(command, *files, *options.get(command, ()), "--json")
    assert done.code == 1
    assert "absent.npz" in done.json["error"]
    assert "absent.npz" in done.err


def test_the_program_itself_ends_with_these_codes(planted):
    command = ("align", "a.npz", "b.npz", "-o", "out.npz", "--axes", "axes.json")
    done = program(*command, cwd=planted.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote out.npz" in done.stdout
    again = program(*command, cwd=planted.folder)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "Error: out.npz exists; choose another name, or overwrite it with --force\n"
    assert program("align", "a.npz", cwd=planted.folder).returncode == 2


def test_an_interruption_writes_nothing(rebasin, planted, untouched, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(matching, "match_files", interrupted)
    untouched()
    done = rebasin("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes, "--json")
    assert (done.code, done.json) == (130, {"error": "interrupted"})
    untouched()


def test_an_error_while_writing_leaves_nothing(rebasin, planted, untouched, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    untouched()
    done = rebasin("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    assert done.code == 1
    assert "No space left" in done.err
    untouched()


def test_what_code_of_the_user_prints_does_not_spoil_the_object(rebasin, trained):
    noisy = trained.folder / "noisy.py"
    noisy.write_text(trained.factory.read_text() + "\nprint('hello from the module')\n")
    done = rebasin("verify", trained.files[0], "--model", f"{noisy}:net", "--input", "2,1,8,8", "--json")
    assert done.json["same"] is True
    assert "hello from the module" in done.err


def test_numbers_that_json_lacks_become_null(rebasin, planted):
    from rebasin_core.commands.reporting import _plain

    assert _plain({"x": np.array([1.0, np.nan, np.inf]), 1: (np.float32(2),)}) == {"x": [1.0, None, None], "1": [2.0]}


def test_help_imports_no_framework(tmp_path):
    code = """
import sys
from rebasin_core.commands.app import app
try:
    app(["align", "--help"])
except SystemExit:
    pass
heavy = {"torch", "tensorflow", "keras", "jax", "sklearn", "matplotlib", "transformers"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
