"""`rebasin verify`: exit code 0 for the same function, 1 for another."""

import json

import numpy as np
import pytest


def test_one_file_is_verified_by_random_plans(rebasin, trained):
    done = rebasin("verify", trained.files[0], *trained.architecture, "--trials", 2, "--json")
    assert done.code == 0
    assert done.json["same"] is True
    assert done.json["trials"] == 2
    assert done.json["difference"] <= done.json["tolerance"]


def test_wrong_axes_are_blamed(rebasin, trained):
    out = trained.folder / "axes.json"
    assert rebasin("inspect", trained.files[0], *trained.architecture, "--axes-out", out).code == 0
    spec = json.loads(out.read_text())["axes"]
    group = next(text for name, text in spec.items() if name.endswith("0.bias"))
    spec["0.bias"] = "."  # it must move with the convolution it belongs to
    out.write_text(json.dumps(spec))
    done = rebasin("verify", trained.files[0], *trained.architecture, "--axes", out)
    assert done.code == 1
    assert "0.bias" in done.err
    assert group in done.err


def test_two_functions_are_told_apart(rebasin, trained):
    a, b, _ = trained.files
    assert rebasin("verify", a, a, *trained.architecture).code == 0
    done = rebasin("verify", a, b, *trained.architecture)
    assert done.code == 1
    assert "different functions" in done.err


def test_an_order_is_found_with_axes_alone(rebasin, planted):
    done = rebasin("verify", planted.a, planted.b, "--axes", planted.axes, "--json")
    assert done.code == 0
    assert done.json["same"] is True
    assert done.json["units"] == 16


def test_a_permuted_copy_in_half_precision_is_the_same_to_rounding(rebasin, planted):
    narrow = {name: x.astype("float16") if x.dtype.kind == "f" else x for name, x in planted.permuted.items()}
    np.savez(planted.b, **narrow)
    assert rebasin("verify", planted.a, planted.b, "--axes", planted.axes).code == 0


@pytest.mark.parametrize(("name", "change"), [("fc1.bias", 1e-3), ("step", 1)])
def test_what_is_more_than_an_order_is_another_network(rebasin, planted, name, change):
    np.savez(planted.b, **{**planted.permuted, name: planted.permuted[name] + np.asarray(change, "float32")})
    done = rebasin("verify", planted.a, planted.b, "--axes", planted.axes, "--json")
    assert done.code == 1
    assert name in done.json["error"]


def test_axes_alone_cannot_verify_one_file(rebasin, planted):
    done = rebasin("verify", planted.a, "--axes", planted.axes)
    assert done.code == 1
    assert "--model" in done.err
