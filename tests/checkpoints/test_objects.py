"""Objects by name: what is found, and one sentence for what is not."""

import math
import sys

import pytest

from rebasin_core.checkpoints.objects import call_object, load_object
from rebasin_core.errors import SettingError


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_files_and_attributes_of_attributes_are_found(tmp_path):
    assert load_object("math:sqrt", "--loss") is math.sqrt
    (tmp_path / "mine.py").write_text(
        "import beside\nclass Box:\n    @staticmethod\n    def f():\n        return beside.x\n"
    )
    (tmp_path / "beside.py").write_text("x = 3\n")
    assert load_object("mine:Box.f", "--model")() == 3
    assert load_object(f"{tmp_path / 'mine.py'}:Box.f", "--model")() == 3


def test_a_file_may_be_called_like_a_library_and_hold_dataclasses(tmp_path):
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 1\n"
    (tmp_path / "numpy.py").write_text(text)
    assert load_object("./numpy.py:A", "--model")().x == 1
    assert hasattr(sys.modules["numpy"], "ndarray")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("math", "package.module:name"),
        (":f", "package.module:name"),
        ("math:", "package.module:name"),
        ("math:no_such", "has no 'no_such'"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("no.such.module:f", "no module 'no'"),
        ("absent.py:f", "no file"),
        ("broken.py:f", r"ZeroDivisionError: .* \(broken.py, line 1\)"),
        ("broken:f", "importing broken failed: ZeroDivisionError"),
        ("lacking:f", "importing lacking failed: ModuleNotFoundError.*no_such_library"),
        ("unfinished.py:f", "SyntaxError"),
    ],
)
def test_what_is_not_found_or_fails_is_one_sentence(tmp_path, name, words):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lacking.py").write_text("import no_such_library\n")
    (tmp_path / "unfinished.py").write_text("def f(\n")
    with pytest.raises(SettingError, match=words):
        load_object(name, "--model")


def test_what_a_function_raises_comes_with_its_place():
    def fails(x):
        raise KeyError(x)

    with pytest.raises(SettingError, match=r"--model f failed: KeyError: 'a' \(test_objects.py, line \d+\)"):
        call_object(fails, {"x": "a"}, "--model f")
    with pytest.raises(SettingError, match="function, got int"):
        call_object(3, {}, "--model f")
    assert call_object(dict, {"x": 1}, "--model f") == {"x": 1}
