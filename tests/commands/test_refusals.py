"""Damaged, mismatched and hostile files: exit code 1, one sentence, and nothing written or run."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest


def refused(done, *words):
    assert done.code == 1, done
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1, "one sentence"
    for word in words:
        assert word in done.err


def align(rebasin, planted, **files):
    found = {"a": planted.a, "b": planted.b, "axes": planted.axes} | files
    return rebasin("align", found["a"], found["b"], "-o", planted.out(), "--axes", found["axes"])


@pytest.mark.parametrize("length", [0, 1, 100, 700])
@pytest.mark.parametrize("which", ["a", "b"])
def test_a_truncated_file_is_refused(rebasin, planted, untouched, which, length):
    path = getattr(planted, which)
    path.write_bytes(path.read_bytes()[:length])
    untouched()
    refused(align(rebasin, planted), path.name)
    untouched()


def test_a_file_with_a_flipped_bit_is_refused(rebasin, planted, untouched):
    with zipfile.ZipFile(planted.b) as archive:
        place = archive.getinfo("fc1.weight.npy").header_offset + 200
    content = bytearray(planted.b.read_bytes())
    content[place] ^= 1
    planted.b.write_bytes(content)
    untouched()
    refused(align(rebasin, planted), "b.npz")
    untouched()


def test_absent_files_folders_and_other_formats_are_refused(rebasin, planted, untouched):
    other = planted.folder / "a.h5"
    other.write_bytes(b"x")
    (planted.folder / "empty").mkdir()
    untouched()
    refused(align(rebasin, planted, a=planted.folder / "absent.npz"), "there is no such file")
    refused(align(rebasin, planted, b=other), ".h5")
    refused(align(rebasin, planted, a=planted.folder / "empty"), "expected one checkpoint")
    refused(align(rebasin, planted, a=planted.folder), "a.npz, b.npz")
    untouched()


def test_a_checkpoint_in_pieces_without_the_pieces_is_refused(rebasin, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    refused(rebasin("inspect", tmp_path), "no index of safetensors files")
    index.write_text('{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')
    refused(rebasin("inspect", tmp_path), "fetch all its files")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.pop("fc1.bias"), ["fc1.bias"]),
        (lambda p: p.update(extra=np.ones(3)), ["extra"]),
        (lambda p: p.update({"fc1.bias": np.ones(15, "float32")}), ["fc1.bias", "15"]),
        (lambda p: p.update({"fc1.bias": np.full(16, np.nan, "float32")}), ["fc1.bias", "NaN"]),
        (lambda p: p.update({"fc1.weight": np.full((16, 4), np.inf, "float32")}), ["fc1.weight", "infinity"]),
    ],
    ids=["missing", "extra", "shape", "nan", "infinity"],
)
@pytest.mark.parametrize("command", ["align", "merge", "verify"])
def test_networks_that_do_not_match_are_refused(rebasin, planted, untouched, command, change, words):
    params = dict(planted.permuted)
    change(params)
    np.savez(planted.b, **params)
    untouched()
    out = () if command == "verify" else ("-o", planted.out())
    refused(rebasin(command, planted.a, planted.b, *out, "--axes", planted.axes), *words)
    untouched()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "expected a JSON object"),
        ('{"fc1.weight": 3}', "expected a JSON object"),
        ('{"axes": {"fc1.weight": "h ."}, "pins": []}', "expected a JSON object"),
        ('{"fc1.weight": "h .", "fc1.bias": "h", "fc2.weight": ". h"}', "'step'"),
        ('{"fc1.weight": "h", "fc1.bias": "h", "fc2.weight": ". h", "step": ""}', "fc1.weight"),
        ('{"fc1.weight": "h (", "fc1.bias": "h", "fc2.weight": ". h", "step": ""}', "fc1.weight"),
        ('{"fc1.weight": "h .", "fc1.bias": "h", "fc2.weight": "h .", "step": ""}', "'h'"),
    ],
)
def test_axes_that_do_not_fit_are_refused(rebasin, planted, untouched, text, words):
    planted.axes.write_text(text)
    untouched()
    done = align(rebasin, planted)
    assert done.code == 1
    assert words in done.err
    assert "axes.json" in done.err
    untouched()


def test_without_an_architecture_the_ways_to_one_are_told(rebasin, planted, untouched):
    untouched()
    refused(rebasin("align", planted.a, planted.b, "-o", planted.out()), "--axes", "--model")
    untouched()


class Hostile:
    """A pickle of it runs a command when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("place", ["a", "b"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(rebasin, trained, untouched, place, protocol):
    torch = pytest.importorskip("torch")
    trap = trained.folder / "run"
    files = {"a": trained.files[0], "b": trained.files[1]}
    torch.save({"w": torch.ones(2), "x": Hostile(trap)}, files[place], pickle_protocol=protocol)
    untouched()
    out = trained.folder / "out.pt"
    refused(rebasin("align", files["a"], files["b"], "-o", out, *trained.architecture), files[place].name, "run code")
    refused(rebasin("inspect", files[place]), files[place].name, "run code")
    assert not trap.exists()
    untouched()


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_a_bare_pickle_under_any_name_is_not_run(rebasin, tmp_path, ending):
    if ending == "pt":
        pytest.importorskip("torch")
    trap = tmp_path / "run"
    (tmp_path / f"a.{ending}").write_bytes(pickle.dumps(Hostile(trap)))
    refused(rebasin("inspect", tmp_path / f"a.{ending}"), f"a.{ending}")
    assert not trap.exists()


def test_arrays_of_objects_are_refused_and_not_run(rebasin, planted, untouched):
    trap = planted.folder / "run"
    np.savez(planted.b, **planted.params, extra=np.array([Hostile(trap)], dtype=object))
    untouched()
    refused(align(rebasin, planted), "b.npz")
    assert not trap.exists()
    untouched()


def test_data_with_objects_are_refused_and_not_run(rebasin, trained):
    trap = trained.folder / "run"
    np.savez(trained.data, x=np.array([Hostile(trap)], dtype=object), y=np.ones(1))
    refused(rebasin("barrier", *trained.files[:2], *trained.model(), "--data", trained.data), "data.npz")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{factory}:absent", "it has"),
        ("{factory}:breaks", "RuntimeError: the disk of the factory is full (nets.py, line"),
        ("{factory}", "file.py:name"),
        ("absent.py:net", "no file"),
        ("no_such_package:net", "no module"),
        ("owner/model", "neither a folder nor"),
        (".", "config.json"),
        ("math:pi", "expected"),
        ("math:factorial", "TypeError"),
        ("builtins:dict", "torch.Module"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_sentence(rebasin, trained, untouched, monkeypatch, model, words):
    monkeypatch.chdir(trained.folder)
    untouched()
    done = rebasin("verify", *trained.files[:2], "--model", model.format(factory="nets.py"))
    assert done.code == 1
    assert words.replace("torch.Module", "") in done.err
    assert "Traceback" not in done.err
    untouched()


def test_a_model_of_another_size_lists_what_differs(rebasin, trained, untouched):
    untouched()
    command = ("align", *trained.files[:2], "-o", trained.folder / "out.pt", *trained.architecture)
    refused(rebasin(*command, "--kwargs", '{"width": 4}'), "'0.weight' has shape (8, 1, 3, 3)", "(4, 1, 3, 3)")
    untouched()


@pytest.mark.parametrize("form", ["x", "1,", "1.5", "complex64:1,2", "float32", ""])
def test_an_input_that_cannot_be_read_is_refused(rebasin, trained, form):
    refused(rebasin("verify", trained.files[0], *trained.model(), "--input", form), "--input")


def test_inputs_are_asked_for_where_the_model_does_not_tell_them(rebasin, trained):
    refused(rebasin("verify", trained.files[0], *trained.model()), "--input 1,3,32,32")


def test_an_input_the_model_cannot_take_is_one_sentence(rebasin, trained):
    done = rebasin("verify", trained.files[0], *trained.model(), "--input", "1,3,8,8")
    assert done.code == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("kwargs", ["{", "[1]", "3"])
def test_arguments_that_are_no_object_are_wrong_usage(rebasin, trained, kwargs):
    assert rebasin("verify", trained.files[0], *trained.model(), "--kwargs", kwargs).code == 2


def test_a_name_that_would_leave_the_folder_is_only_a_name(rebasin, planted):
    np.savez(planted.a, **{"../../w": np.ones(2)})
    assert rebasin("inspect", planted.a, "--json").json["tensors"][0]["name"] == "../../w"
    planted.axes.write_text(json.dumps({"../../w": "h"}))
    assert rebasin("align", planted.a, planted.a, "-o", planted.out(), "--axes", planted.axes).code == 0
    assert sorted(path.name for path in planted.folder.iterdir()) == ["a.npz", "axes.json", "b.npz", "out.npz"]
