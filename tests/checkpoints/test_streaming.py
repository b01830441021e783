"""Networks in files: the plan is the one found in memory, and no more is in memory than it takes."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.streaming import match_files, write_permuted
from rebasin_core.checkpoints.values import mean_reader, permuted_reader
from rebasin_core.errors import (
    CheckpointError,
    NonFiniteError,
    PlanError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
)
from rebasin_core.solvers.lazy import LazyParams

NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64"}


@pytest.fixture
def stored(tmp_path):
    """Write arrays to a file and open it."""

    def store(stem, params, suffix=".npz"):
        path = tmp_path / f"{stem}{suffix}"
        if suffix == ".npz":
            np.savez(path, **{name: np.array(x, order="C") for name, x in params.items()})
        else:
            header, data = {}, b""
            for name, x in params.items():
                offsets = [len(data), len(data) + x.nbytes]
                header[name] = {"dtype": NAMES[x.dtype.name], "shape": list(x.shape), "data_offsets": offsets}
                data += x.tobytes()
            head = json.dumps(header).encode()
            path.write_bytes(len(head).to_bytes(8, "little") + head + data)
        return open_checkpoint(path)

    return store


def in_memory(a, b, graph, seed=0):
    return rb.align(a, b, graph=graph, solver=rb.solvers.WeightMatching(), seed=seed, progress=False)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_plan_is_the_one_found_in_memory(strategies, stored, data, seed):
    """On random notations with products, sums, fixed orders and local groups, standing several times."""
    graph, params = data.draw(strategies.networks())
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=x.shape) for name, x in params.items()} for _ in range(2))
    wanted = in_memory(a, b, graph, seed)
    found = match_files(stored("a", a), stored("b", b), graph, seed=seed, progress=False)
    assert found.plan == wanted.plan
    assert_allclose(found.distance, wanted.objective, rtol=1e-12)
    assert_allclose(found.initial_distance, wanted.initial_objective, rtol=1e-12)
    assert (found.converged, found.stop_reason) == (wanted.converged, wanted.stop_reason)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_planted_permutations_are_found_and_written(mlp, stored, tmp_path, dtype, suffix):
    net = mlp((6, 40, 50, 40, 3))
    a, graph = net.params(0, dtype), net.graph()
    plan = rb.Plan.random(graph, 1)
    first, second = stored("a", a, suffix), stored("b", rb.permute(a, plan, graph), suffix)
    found = match_files(first, second, graph, progress=False)
    assert (found.plan, found.distance) == (plan.inverse(), 0.0)
    write_permuted(second, found.plan, graph, tmp_path / f"c{suffix}")
    assert (tmp_path / f"c{suffix}").read_bytes() == first.path.read_bytes()


def test_permuting_and_back_is_the_same_file(strategies, stored, tmp_path):
    path, back = tmp_path / "there.npz", tmp_path / "back.npz"

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), seed=st.integers(0, 1000))
    def check(data, seed):
        graph, params = data.draw(strategies.networks())
        rng = np.random.default_rng(seed)
        params = {name: rng.normal(size=x.shape) for name, x in params.items()}
        file, plan = stored("a", params), rb.Plan.random(graph, seed)
        write_permuted(file, plan, graph, path)
        wanted = rb.permute(params, plan, graph)
        for name in params:
            assert_array_equal(open_checkpoint(path).read(name), wanted[name], strict=True)
        write_permuted(open_checkpoint(path), plan.inverse(), graph, back)
        assert back.read_bytes() == file.path.read_bytes()

    check()


def test_what_is_not_learned_moves_and_does_not_count(stored, tmp_path):
    rng = np.random.default_rng(0)
    a = {"w": rng.normal(size=(9, 3)), "mean": rng.normal(size=9), "count": np.array(7), "order": np.arange(9)}
    axes = {"w": "h .", "mean": "h", "count": "", "order": "h"}
    graph = rb.PermutationGraph.from_axes(axes, a, buffers=["mean", "order"])
    b = {**rb.permute(a, rb.Plan.random(graph, 1), graph), "mean": np.zeros(9), "count": np.array(8)}
    first, second = stored("a", a), stored("b", b)
    found = match_files(first, second, graph, progress=False)
    assert found.distance == 0.0  # the counter is no weight
    write_permuted(second, found.plan, graph, tmp_path / "c.npz")
    assert_array_equal(open_checkpoint(tmp_path / "c.npz").read("order"), np.arange(9), strict=True)
    mean = mean_reader((first, second), (rb.Plan.identity(graph), found.plan), (0.25, 0.75), graph)
    assert_array_equal(mean("count"), np.array(7), strict=True)
    assert_array_equal(mean("order"), np.arange(9), strict=True)
    assert_allclose(mean("mean"), 0.25 * a["mean"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_mean_is_that_of_the_networks_in_memory(mlp, stored, tmp_path, dtype):
    net = mlp((6, 12, 9, 3))
    nets, graph, weights = [net.params(seed, dtype) for seed in range(3)], net.graph(), (0.5, 0.3, 0.2)
    wide = [{name: x.astype("float64") for name, x in params.items()} for params in nets]
    wanted = rb.align_many(wide, graph=graph, method="star", weights=weights, progress=False)
    files = [stored(str(i), params, ".safetensors") for i, params in enumerate(nets)]
    plans = [match_files(files[0], file, graph, progress=False).plan for file in files]
    assert tuple(plans) == wanted.plans
    files[0].write(tmp_path / "merged.safetensors", mean_reader(files, plans, weights, graph))
    merged = open_checkpoint(tmp_path / "merged.safetensors")
    assert merged.tensors == files[0].tensors
    tolerance = float(np.finfo(dtype).eps)
    for name, x in wanted.merge().items():
        assert_allclose(merged.read(name), x, rtol=tolerance, atol=4 * tolerance)


def test_between_two_files_it_is_the_line(mlp, stored):
    net = mlp((6, 12, 3))
    a, b, graph = net.params(0), net.params(1), net.graph()
    aligned = in_memory(a, b, graph)
    mean = mean_reader(
        (stored("a", a), stored("b", b)), (rb.Plan.identity(graph), aligned.plan), (1 - 1.25, 1.25), graph
    )
    for name, x in aligned.merge(1.25).items():
        assert_array_equal(mean(name), x, strict=True)


# --- what is refused --------------------------------------------------------------------------------------------------
def test_files_that_do_not_fit_are_refused_before_any_work(mlp, stored, tmp_path):
    net = mlp((4, 6, 3))
    params, graph = net.params(0), net.graph()
    file = stored("a", params)

    def refused(error, message, other, graph=graph):
        with pytest.raises(error, match=message):
            match_files(file, stored("b", other), graph, progress=False)

    lacking = {name: x for name, x in params.items() if name != "b1"}
    refused(SpecError, "model A has a parameter 'b1', model B has none", lacking)
    refused(SpecError, "model B has a parameter 'more', model A has none", {**params, "more": np.ones(1)})
    refused(ShapeError, r"'w0' has shape \(6, 4\) in model A and \(7, 4\) in model B", mlp((4, 7, 3)).params(0))
    refused(ShapeError, "but the graph was made for", params, mlp((4, 7, 3)).graph())
    refused(SpecError, r"b\.npz names 'w1', which is not in the graph", params, mlp((4, 3)).graph())
    refused(NonFiniteError, r"'b0' of .*b\.npz holds NaN", {**params, "b0": np.full(6, np.nan)})
    whole = {**params, "b0": np.arange(6)}
    refused(UnsupportedArrayError, "'b0' is of dtype int64; weights that move must be floating point", whole)
    with pytest.raises(SettingError, match="seed"):
        match_files(file, file, graph, seed=-1)
    for plan in (rb.Plan({"h1": range(7)}), rb.Plan({"other": range(6)})):
        with pytest.raises(PlanError, match="belongs to another graph"):
            write_permuted(file, plan, graph, tmp_path / "c.npz")
    with pytest.raises(SettingError, match="a plan and a weight for each of 1 files, got 1 plans and 2 weights"):
        mean_reader([file], [rb.Plan.identity(graph)], [0.5, 0.5], graph)
    assert not (tmp_path / "c.npz").exists()


def test_tied_tensors_need_the_same_axes(stored):
    file = stored("a", {"w": np.ones((3, 3)), "v": np.ones((3, 3))})
    file.tied = {"v": "w"}
    for axes, fits in ({"w": "h .", "v": "h ."}, True), ({"w": "h .", "v": ". h"}, False):
        graph = rb.PermutationGraph.from_axes(axes, file.tensors)
        if fits:
            permuted_reader(file, rb.Plan.identity(graph), graph)
        else:
            with pytest.raises(SpecError, match="'v' and 'w' are one tensor, and have axes \"\\. h\" and \"h \\.\""):
                permuted_reader(file, rb.Plan.identity(graph), graph)


def test_a_file_that_turns_out_damaged_leaves_no_output(mlp, stored, tmp_path):
    net = mlp((4, 6, 3))
    file, graph = stored("a", net.params(0), ".safetensors"), net.graph()
    file.path.write_bytes(file.path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="was changed by someone else"):
        write_permuted(file, rb.Plan.random(graph, 1), graph, tmp_path / "b.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


# --- memory, imports --------------------------------------------------------------------------------------------------
def test_lazy_parameters_are_never_kept(mlp):
    net, asked = mlp((4, 6, 3)), []
    params, graph = net.params(0), net.graph()

    def read(name):
        asked.append(name)
        return params[name].copy()

    plan = rb.Plan.random(graph, 1)
    lazy = LazyParams(read, graph).at(plan)
    wanted = rb.permute(params, plan, graph)
    assert (list(lazy), len(lazy.only(["w0"]))) == (list(params), 1)
    assert asked == []
    for _ in range(2):
        assert_array_equal(lazy["w0"], wanted["w0"])
    assert asked == ["w0", "w0"]


def test_memory_stays_below_three_times_the_largest_group(stored, tmp_path):
    """What NumPy allocates; examples/checkpoints/memory.py measures the process."""
    n, layers = 320, 12
    rng = np.random.default_rng(0)
    a = {f"w{i}": rng.normal(size=(n, n)).astype("float32") for i in range(layers)}
    units = [".", *(f"h{i}" for i in range(layers - 1)), "."]
    graph = rb.PermutationGraph.from_axes({f"w{i}": f"{units[i + 1]} {units[i]}" for i in range(layers)}, a)
    plan = rb.Plan.random(graph, 1)
    files = stored("a", a, ".safetensors"), stored("b", rb.permute(a, plan, graph), ".safetensors")
    del a
    tracemalloc.start()
    try:
        found = match_files(*files, graph, progress=False)
        write_permuted(files[1], found.plan, graph, tmp_path / "c.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.plan == plan.inverse()
    largest = 2 * n * n * 4
    assert peak < 3 * largest < layers * n * n * 4


def test_aligning_safetensors_files_imports_no_framework(mlp, stored, tmp_path):
    net = mlp((4, 20, 3))
    a, graph = net.params(0), net.graph()
    files = stored("a", a, ".safetensors"), stored("b", rb.permute(a, rb.Plan.random(graph, 1), graph), ".safetensors")
    code = """
import sys
from pathlib import Path
import rebasin_core as rb
from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.streaming import match_files, write_permuted
a, b, out, graph = *map(open_checkpoint, sys.argv[1:3]), Path(sys.argv[3]), rb.PermutationGraph.from_json(sys.argv[4])
write_permuted(b, match_files(a, b, graph, progress=False).plan, graph, out)
print(*sorted({m.partition('.')[0] for m in sys.modules}))
"""
    paths = [str(file.path) for file in files]
    command = [sys.executable, "-c", code, *paths, str(tmp_path / "c.safetensors"), graph.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert {"torch", "tensorflow", "keras", "jax", "sklearn", "safetensors"}.isdisjoint(done.stdout.split())
    assert (tmp_path / "c.safetensors").read_bytes() == files[0].path.read_bytes()
