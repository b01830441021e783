"""`rebasin inspect`: what a file holds, and the axes of its tensors for a later run."""

import json

import pytest

import rebasin_core as rb


def test_tensors_are_listed_without_an_architecture(rebasin, planted):
    done = rebasin("inspect", planted.a, "--json")
    assert done.code == 0
    assert [tensor["name"] for tensor in done.json["tensors"]] == list(planted.params)
    assert done.json["tensors"][0] == {"name": "fc1.weight", "shape": [16, 4], "dtype": "float32", "bytes": 256}
    assert done.json["entries"] == 16 * 4 + 16 + 3 * 16 + 1
    assert done.json["graph"] is None
    shown = rebasin("inspect", planted.a)
    assert all(name in shown.out for name in ("fc1.weight", "16 x 4", "float32", "--axes"))


def test_groups_and_what_stays_are_shown(rebasin, planted):
    done = rebasin("inspect", planted.a, "--axes", planted.axes, "--json")
    graph = done.json["graph"]
    assert graph["groups"] == [
        {"name": "h", "size": 16, "parent": None, "reorders": [["fc1.weight", 0], ["fc1.bias", 0], ["fc2.weight", 1]]}
    ]
    assert ["fc2.weight", 0, "kept by the notation"] in graph["pinned"]
    shown = rebasin("inspect", planted.a, "--axes", planted.axes)
    assert "1 group over 4 parameters" in shown.out


def test_axes_found_once_serve_a_run_without_the_model(rebasin, trained, untouched):
    a, b, _ = trained.files
    spec, with_model, with_axes = (trained.folder / name for name in ("axes.json", "model.pt", "axes.pt"))
    assert rebasin("inspect", a, *trained.architecture, "--axes-out", spec).code == 0
    graph = rb.PermutationGraph.from_json(spec.read_text())
    assert graph.coverage > 0.9
    assert rebasin("align", a, b, "-o", with_model, *trained.architecture).code == 0
    assert rebasin("align", a, b, "-o", with_axes, "--axes", spec).code == 0
    assert rebasin("verify", with_model, with_axes, *trained.architecture).code == 0
    untouched()
    assert rebasin("inspect", a, *trained.architecture, "--axes-out", spec).code == 1
    untouched()


def test_axes_out_needs_an_architecture(rebasin, planted, untouched):
    untouched()
    done = rebasin("inspect", planted.a, "--axes-out", planted.folder / "new.json")
    assert done.code == 1
    assert "--model" in done.err
    untouched()


def test_a_config_of_another_program_is_not_taken_for_a_model(rebasin, planted):
    (planted.folder / "config.json").write_text(json.dumps({"learning_rate": 0.1}))
    assert rebasin("inspect", planted.a, "--json").json["graph"] is None


def test_tied_tensors_are_counted_once(rebasin, tmp_path):
    torch = pytest.importorskip("torch")
    w = torch.ones(4, 3)
    torch.save({"encoder": w, "decoder": w}, tmp_path / "a.pt")
    done = rebasin("inspect", tmp_path / "a.pt", "--json")
    assert done.json["entries"] == 12
    assert done.json["tensors"][1]["tied_to"] == "encoder"
    assert "tied to encoder" in rebasin("inspect", tmp_path / "a.pt").out


def test_what_a_file_says_beside_its_tensors_is_shown(rebasin, tmp_path):
    header = b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert rebasin("inspect", path, "--json").json["metadata"] == {"format": "pt"}
    assert "metadata: format = pt" in rebasin("inspect", path).out
