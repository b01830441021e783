"""`rebasin align`: B in the order of A, in B's own format, or nothing at all."""

import json
import subprocess
import sys

import numpy as np
import pytest

import rebasin_core as rb


def test_a_planted_permutation_is_undone_in_a_file_like_b(rebasin, planted):
    done = rebasin("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    assert (done.code, done.err) == (0, "")
    with np.load(planted.out()) as stored:
        assert stored.files == [*planted.params, "note"]
        assert str(stored["note"]) == "of B"
        for name, x in planted.params.items():
            np.testing.assert_array_equal(stored[name], x)
            assert stored[name].dtype == x.dtype


def test_what_is_there_is_overwritten_only_when_forced(rebasin, planted, untouched):
    command = ("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    assert rebasin(*command).code == 0
    untouched()
    refused = rebasin(*command)
    assert refused.code == 1
    assert "--force" in refused.err
    untouched()
    assert rebasin(*command, "--force", "--seed", 1).code == 0


def test_an_input_is_overwritten_only_when_forced(rebasin, planted, untouched):
    untouched()
    command = ("align", planted.a, planted.b, "-o", planted.b, "--axes", planted.axes)
    refused = rebasin(*command)
    assert refused.code == 1
    assert "one of the files to read" in refused.err
    untouched()
    assert rebasin(*command, "--force").code == 0
    with np.load(planted.b) as stored:
        np.testing.assert_array_equal(stored["fc1.weight"], planted.params["fc1.weight"])


@pytest.mark.parametrize(
    ("out", "words"),
    [("out.safetensors", ".npz"), ("out", ".npz"), ("missing/out.npz", "does not exist"), (".", ".npz")],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(rebasin, planted, untouched, out, words):
    untouched()
    done = rebasin("align", planted.a, planted.b, "-o", planted.folder / out, "--axes", planted.axes)
    assert done.code == 1
    assert words in done.err
    untouched()


@pytest.mark.parametrize("command", ["align", "merge"])
def test_a_command_that_is_interrupted_writes_nothing(rebasin, planted, untouched, monkeypatch, command):
    """The library returns the best plan so far; a person who stops a command wants no file of it."""
    from rebasin_core.solvers import weight_matching

    def interrupt(scores):
        raise KeyboardInterrupt

    untouched()
    monkeypatch.setattr(weight_matching, "linear_assignment", interrupt)
    files = (planted.a, planted.b) if command == "align" else (planted.a, planted.b, planted.a, "--method", "star")
    assert rebasin(command, *files, "-o", planted.out(), "--axes", planted.axes).code == 130
    untouched()


def test_the_plan_is_written_too(rebasin, planted):
    plan = planted.folder / "plan.json"
    command = ("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes, "--plan-out", plan)
    done = rebasin(*command, "--json")
    assert done.code == 0
    assert done.json["plan_out"] == str(plan)
    assert (done.json["after"], done.json["units"]) == (0, 16)
    graph = rb.PermutationGraph.from_axes(json.loads(planted.axes.read_text()), planted.params)
    moved = rb.permute(planted.permuted, rb.Plan.from_json(plan.read_text()), graph)
    np.testing.assert_array_equal(moved["fc2.weight"], planted.params["fc2.weight"])
    assert rebasin(*command, "--force").code == 0
    planted.out().unlink()
    assert "plan.json exists" in rebasin(*command).err


@pytest.mark.parametrize("solver", ["sinkhorn", "frank-wolfe", "straight-through"])
def test_every_solver_works_on_arrays_alone(rebasin, planted, solver):
    command = ("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    done = rebasin(*command, "--solver", solver, "--objective", "cosine", "--json")
    assert done.code == 0
    assert done.json["after"] < 1e-6 < done.json["before"]


def test_two_safetensors_files_are_aligned_without_any_framework(planted):
    safetensors = pytest.importorskip("safetensors.numpy")
    for name, params in (("a", planted.params), ("b", planted.permuted)):
        safetensors.save_file(params, planted.folder / f"{name}.safetensors", metadata={"made": "here"})
    code = """
import runpy, sys
sys.argv = ["rebasin", "align", "a.safetensors", "b.safetensors", "-o", "out.safetensors", "--axes", "axes.json"]
try:
    runpy.run_module("rebasin_core.cli", run_name="__main__")
finally:
    heavy = {"torch", "tensorflow", "keras", "jax", "sklearn", "matplotlib", "transformers", "safetensors"}
    assert not heavy & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=planted.folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = safetensors.load_file(planted.folder / "out.safetensors")
    there = safetensors.load_file(planted.folder / "b.safetensors")
    assert list(found) == list(there)
    np.testing.assert_array_equal(found["fc1.weight"], planted.params["fc1.weight"])
    with open(planted.folder / "out.safetensors", "rb") as file:
        assert b'"made":"here"' in file.read(300)


def test_a_file_of_torch_keeps_what_stands_beside_the_weights(rebasin, trained):
    torch = pytest.importorskip("torch")
    a, b, _ = trained.files
    out = trained.folder / "out.pth"
    done = rebasin("align", a, b, "-o", out, *trained.architecture, "--json")
    assert done.code == 0
    assert done.json["difference"] < 1e-5
    before, after = torch.load(b), torch.load(out)
    assert after["epoch"] == 20
    assert list(after["state_dict"]) == list(before["state_dict"])
    assert any(not torch.equal(x, after["state_dict"][name]) for name, x in before["state_dict"].items())
    assert rebasin("verify", b, out, *trained.architecture).code == 0


@pytest.mark.parametrize(
    ("objective", "solver"),
    [("activations", "activation-matching"), ("midpoint", "straight-through"), ("random-point", "sinkhorn")],
)
def test_objectives_with_data_compute_with_the_model(rebasin, trained, objective, solver, monkeypatch):
    from rebasin_core import solvers
    from rebasin_core.solvers import resolve

    quick = {
        "straight-through": solvers.StraightThrough(max_steps=3),
        "sinkhorn": solvers.Sinkhorn(max_steps=3, num_rounds=1, num_starts=1),
    }
    if solver in quick:
        monkeypatch.setitem(resolve.SOLVERS, solver, lambda: quick[solver])
    command = ("align", *trained.files[:2], "-o", trained.folder / "out.pt", *trained.architecture)
    chosen = ("--objective", objective, "--solver", solver)
    data = ("--data", f"{trained.factory}:pairs", "--loss", "cross_entropy")
    done = rebasin(*command, *chosen, *data, "--json")
    assert done.code == 0
    assert done.json["after"] <= done.json["before"]
    assert rebasin(*command, *chosen, "--force").code == 2  # without data


def test_an_objective_with_data_needs_more_than_axes(rebasin, planted, untouched):
    untouched()
    command = ("align", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    done = rebasin(*command, "--objective", "midpoint")
    assert done.code == 1
    assert "--model" in done.err
    untouched()


def test_a_module_of_the_current_folder_is_found(trained):
    command = 'align a.pt b.pt -o out.pt --model nets:with_inputs --kwargs {"width":8}'
    done = subprocess.run(
        [sys.executable, "-m", "rebasin_core.cli", *command.split()],
        cwd=trained.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "the same function" in done.stdout
    assert (trained.folder / "out.pt").exists()
