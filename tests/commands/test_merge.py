"""`rebasin merge`: the mean in the common order, in the format of the first file."""

import json

import numpy as np
import pytest

import rebasin_core as rb


def test_files_that_differ_by_order_alone_merge_into_the_first(rebasin, planted):
    command = ("merge", planted.a, planted.b, planted.b, "-o", planted.out(), "--axes", planted.axes)
    for method in ("iterative", "cycle", "star"):
        done = rebasin(*command, "--method", method, "--force", "--json")
        assert done.code == 0
        assert done.json["weights"] == pytest.approx([1 / 3] * 3)
        with np.load(planted.out()) as stored:
            assert stored.files == [*planted.params, "note"]
            assert str(stored["note"]) == "of A"
            for name, x in planted.params.items():
                np.testing.assert_allclose(stored[name], x, rtol=1e-6)
                assert stored[name].dtype == x.dtype


@pytest.mark.parametrize("place", [0.0, 0.25, 1.0])
def test_t_is_a_place_on_the_line(rebasin, planted, place):
    moved = {name: x * (2 if x.dtype.kind == "f" else 1) for name, x in planted.permuted.items()}
    np.savez(planted.b, **moved)
    command = ("merge", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    assert rebasin(*command, "-t", place).code == 0
    with np.load(planted.out()) as stored:
        np.testing.assert_allclose(stored["fc1.weight"], (1 + place) * planted.params["fc1.weight"], rtol=1e-6)
        assert stored["step"] == 7


@pytest.mark.parametrize("method", [None, "star", "iterative", "cycle"])
def test_a_command_writes_what_the_call_returns(rebasin, planted, method):
    rng = np.random.default_rng(5)
    other = {name: (x + rng.normal(size=x.shape)).astype(x.dtype) for name, x in planted.permuted.items()}
    np.savez(planted.b, **other)
    axes = json.loads(planted.axes.read_text())
    graph = rb.PermutationGraph.from_axes(axes, planted.params, buffers=["step"])
    command = ["merge", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes, "--force"]
    command += [] if method is None else ["--method", method]
    for place in (0.0, 0.3, 1.0):
        assert rebasin(*command, "-t", place).code == 0
        wanted = rb.merge(planted.params, other, t=place, method=method, graph=graph, progress=False)
        with np.load(planted.out()) as stored:
            for name, x in wanted.items():
                np.testing.assert_array_equal(stored[name], x)


def test_weights_are_shares(rebasin, planted):
    other = {name: x * (4 if x.dtype.kind == "f" else 1) for name, x in planted.permuted.items()}
    np.savez(planted.b, **other)
    command = ("merge", planted.a, planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    done = rebasin(*command, "--weights", "2,1,1", "--json")
    assert done.code == 0
    assert done.json["weights"] == [0.5, 0.25, 0.25]
    with np.load(planted.out()) as stored:
        np.testing.assert_allclose(stored["fc1.bias"], 1.75 * planted.params["fc1.bias"], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "0.5", "--weights", "1,1"),
        ("-t", "nan"),
        ("--weights", "1,x"),
        ("--weights", "1"),
        ("--weights", "1,-1"),
        ("--method", "magic"),
        ("--reestimate",),
        ("--repair",),
        ("--kwargs", "{}"),
    ],
)
def test_options_that_exclude_each_other_are_wrong_usage(rebasin, planted, untouched, options):
    untouched()
    done = rebasin("merge", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes, *options)
    assert done.code == 2
    untouched()


def test_one_file_is_not_merged(rebasin, planted):
    assert rebasin("merge", planted.a, "-o", planted.out(), "--axes", planted.axes).code == 2


def test_three_networks_are_merged_with_a_table_of_before_and_after(rebasin, trained):
    torch = pytest.importorskip("torch")
    out = trained.folder / "merged.pt"
    command = ("merge", *trained.files, "-o", out, *trained.model(), "--data", trained.data, "--loss", "cross_entropy")
    done = rebasin(*command, "--reestimate", "--repair", "--json")
    assert done.code == 0
    rows = done.json["measured"]
    assert list(rows) == [
        *map(str, trained.files),
        "average, not aligned",
        "average, not aligned, re-estimated statistics",
        "merged",
        "merged, re-estimated statistics",
        "merged, repaired",
    ]
    assert all(rows[str(file)]["accuracy"] > 0.9 for file in trained.files)
    merged = rows["merged, re-estimated statistics"]
    assert merged["loss"] < rows["average, not aligned, re-estimated statistics"]["loss"]
    assert merged["accuracy"] > rows["average, not aligned"]["accuracy"]
    merged = rows["merged, repaired"]
    assert merged["accuracy"] > rows["average, not aligned"]["accuracy"]

    stored = torch.load(out)
    assert stored["epoch"] == 20
    # What the table calls the merged network is what stands in the file.
    namespace = {}
    exec(trained.factory.read_text(), namespace)
    model = namespace["net"]()
    model.load_state_dict(stored["state_dict"])
    with np.load(trained.data) as data:
        x, y = torch.tensor(data["x_test"]), torch.tensor(data["y_test"])
    curve = rb.connectivity(model, model, "cross_entropy", (x, y), lambdas=2, metrics=["accuracy"])
    assert curve.losses[0] == pytest.approx(merged["loss"], rel=1e-4)
    assert curve.metrics["accuracy"][0] == pytest.approx(merged["accuracy"])


def test_the_table_is_shown_to_people(rebasin, trained):
    command = ("merge", *trained.files[:2], "-o", trained.folder / "out.pt", *trained.architecture)
    done = rebasin(*command, "--data", f"{trained.factory}:pairs", "--metric", f"{trained.factory}:gap")
    assert done.code == 0
    assert "average, not aligned" in done.out
    assert "the same function to" in done.out


def test_data_without_a_model_is_refused(rebasin, planted, trained, untouched):
    untouched()
    command = ("merge", planted.a, planted.b, "-o", planted.out(), "--axes", planted.axes)
    done = rebasin(*command, "--data", trained.data)
    assert done.code == 1
    assert "--model" in done.err
    untouched()
