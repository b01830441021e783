"""The continual experiments run from end to end at their quickest, and measure what they say they do."""

import importlib
import re

import numpy as np
import pytest
import torch

import rebasin_core as rb


@pytest.fixture(autouse=True)
def folder(run_script):
    """The scripts' modules."""
    run_script.folder("continual")
    return importlib.import_module


@pytest.fixture
def data(store_pictures):
    """A few hundred pictures in the files of the experiments: classes are stripes."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = np.arange(n).astype(np.uint8) % 10
        x = rng.integers(0, 60, (n, 28, 28))
        x[np.arange(n), 4 + 2 * y, 4:24] += 180
        colors = rng.integers(0, 60, (n, 32, 32, 3))
        colors[np.arange(n), 3 * y] += 180
        return y, x, colors

    store_pictures({"train": 600, "test": 200}, draw)


@pytest.fixture
def run(run_script):
    return lambda script, *arguments: run_script(f"continual/{script}", *arguments)


def rows(text):
    """Cells of the table that was printed, by the first one."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines[2:]}


KEYS = ("replay", "replay-distilled", "paper", "distilled", "frozen", "replay-fast", "fast", "joint")


def test_a_quick_table_and_the_runs_it_keeps(run, data, tmp_path):
    found = rows(run("table3.py", "--quick", "--methods", *KEYS))
    assert len(found) == len(KEYS)
    for name, (accuracy, forgotten, _) in found.items():
        assert 20.0 < float(accuracy.split()[0]) <= 100.0  # far above chance
        assert (forgotten == "–") == (name == "joint training")
    folder = tmp_path / "results"
    assert (folder / "table3-rotated-mnist.png").stat().st_size > 3000
    files = {file: file.stat().st_mtime_ns for file in (folder / "runs").iterdir()}
    assert len(files) == len(KEYS)
    again = rows(run("table3.py", "--quick", "--methods", *KEYS))
    assert again == found
    assert {file: file.stat().st_mtime_ns for file in (folder / "runs").iterdir()} == files


def test_heads_of_a_convolutional_network(run, data):
    arguments = ("--experiment", "split-cifar10", "--width", "4", "--epochs", "6", "--tasks", "2", "--seeds", "0")
    found = rows(run("table3.py", *arguments, "--methods", "replay-distilled", "distilled"))
    for accuracy, _, _ in found.values():
        assert float(accuracy.split()[0]) > 60.0


def test_a_quick_ablation(run, data, tmp_path):
    text = run("ablation.py", "--quick")
    for title in ("alpha, residual scaled", "alpha, residual whole", "beta", "keep, replay alone"):
        assert text.count(f"\n| {title} ") == 2
    assert (tmp_path / "results" / "ablation.png").exists()


def test_a_quick_ablation_of_a_network_with_heads(run, data, tmp_path):
    text = run("ablation.py", "--quick", "--experiment", "split-cifar10")
    for title in ("alpha, residual scaled, heads", "keep, replay alone, heads"):
        assert text.count(f"\n| {title} ") == text.count(f"\n| {title.replace('heads', 'lighter')} ") == 2
    assert (tmp_path / "results" / "ablation.png").exists()


def test_one_sweep_with_values_of_ones_own(run, data):
    text = run("ablation.py", "--quick", "--only", "keep", "--values", "0.3", "0.4")
    assert re.findall(r"^\| (\w+), .*? \| ([\d.]+) ", text, flags=re.M) == [("keep", "0.3"), ("keep", "0.4")]
    with pytest.raises(SystemExit):
        run("ablation.py", "--quick", "--values", "0.3")
    with pytest.raises(SystemExit):
        run("ablation.py", "--quick", "--experiment", "split-cifar10", "--only", "beta")


def test_a_row_that_the_experiment_does_not_have(run, data, capsys):
    for script, *arguments in (["ablation.py", "--rows", "heads"], ["table3.py", "--methods", "replay", "heads"]):
        with pytest.raises(SystemExit):
            run(script, "--quick", *arguments)
        assert "rotated-mnist has no row heads" in capsys.readouterr().err


def test_the_value_a_row_has_already_is_that_row(folder):
    known = {m.key: m for m in folder("methods").methods(0.1)}
    swept = folder("ablation").sweep(known, "fast", "alpha", (0.8, 0.9))
    assert [m.key for m in swept.values()] == ["alpha-0.8", "fast"]


def test_replay_remembers_the_images_that_a_rebasin_remembers(folder):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 5, generator=rng), torch.randint(0, 3, (300,), generator=rng)
    course = folder("course").Course([], lambda: None, 7, 1, 50, 1e-3, 1e-3, per_class=4)
    memory, net = folder("replaying").Memory(course, rng), torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU())
    learner = rb.RebasinIncremental(
        torch.nn.Sequential(*net, torch.nn.Linear(4, 3)), x[:2], loss="cross_entropy", seed=7, memory_per_class=4,
        num_epochs=1, progress=False,
    )  # fmt: skip
    for k in range(2):
        memory.add(folder("tasks").Task("", (x + k, y), (x, y)), k)
        learner.fit_task((x + k, y))
    np.testing.assert_array_equal(memory.x.numpy(), np.concatenate([m.inputs for m in learner.memory]))
    assert memory.y.tolist() == np.concatenate([m.targets for m in learner.memory]).tolist()


def test_rows_of_avalanche_are_left_out_with_a_word_where_it_is_not_installed(run, data, folder, monkeypatch):
    monkeypatch.setattr(folder("avalanche_rows"), "is_installed", lambda: False)
    out = run("table3.py", "--quick", "--methods", "ewc", "replay")
    assert "left out: EWC. They are computed by Avalanche: pip install" in out
    assert list(rows(out)) == ["replay"]


def test_accuracy_and_forgetting(folder):
    metrics = folder("metrics")
    matrix = [[0.9, np.nan, np.nan], [0.5, 0.8, np.nan], [0.6, 0.4, 0.7]]
    assert metrics.average_accuracy(matrix) == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert metrics.forgetting(matrix) == pytest.approx((0.3 + 0.4) / 2)
    assert np.isnan(metrics.forgetting([[np.nan, np.nan], [0.5, 0.6]]))
    assert metrics.spread([0.5, 0.7], 1, 100.0) == "60.0 ± 10.0"
    assert metrics.spread([0.5], 1, 100.0) == "50.0"
    assert metrics.spread([np.nan], 2) == metrics.spread([], 2) == "–"


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0])
def test_quarter_turns_are_exact(folder, degrees):
    picture = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    turned = (picture.flatten() @ folder("tasks").rotation(degrees)).reshape(28, 28)
    torch.testing.assert_close(turned, torch.rot90(picture, int(degrees // 90)), rtol=0, atol=1e-4)


def test_tasks_are_turned_once_and_normalized(folder, data):
    tasks = folder("tasks").rotated_mnist(20, 50)
    assert [task.name for task in tasks[::19]] == ["0 degrees", "180 degrees"]
    first, last = (task.train[0].float().reshape(-1, 28, 28) for task in (tasks[0], tasks[-1]))
    torch.testing.assert_close(last, first.flip(1, 2), rtol=0, atol=0.02)
    assert len(tasks[0].train[1]) == len(tasks[0].test[1]) == 50
    with np.load("mnist.npz") as file:
        pixels = torch.tensor(file["x_train"][:50] / 255.0, dtype=torch.float32)
    torch.testing.assert_close(first, (pixels - 0.1307) / 0.3081, rtol=0.01, atol=0.01)


def test_classes_are_numbered_within_their_task(folder, data):
    tasks = folder("tasks").split_cifar10()
    assert [task.head for task in tasks] == list(range(5))
    assert all(set(task.train[1].tolist()) == {0, 1} for task in tasks)
    assert sum(len(task.train[1]) for task in tasks) == 600


def test_split_cifar_100_says_what_it_needs(folder, data):
    with pytest.raises(SystemExit, match=r"cifar100.npz, which is not there.*x_train and x_test"):
        folder("tasks").split_cifar100()
