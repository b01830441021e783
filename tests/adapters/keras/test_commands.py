"""The command line on .keras files: the architecture is in the file."""

import json
import re
import shlex
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from rebasin_core.commands.app import app


def rebasin(*arguments):
    result = CliRunner().invoke(app, [str(x) for x in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for seed, name in enumerate("abc"):
        keras.utils.set_random_seed(seed)
        model = network()
        model.set_weights([w + rng.uniform(0.1, 0.2, w.shape) for w in model.get_weights()])
        model.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(40, 6)).astype("float32"), y=rng.integers(0, 3, 40))
    return [tmp_path / f"{name}.keras" for name in "abc"]


def test_a_file_is_aligned_and_is_the_same_function(files, tmp_path):
    out = tmp_path / "out.keras"
    done = rebasin("align", *files[:2], "-o", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["difference"] < 1e-5
    x = np.ones((2, 6), "float32")
    old, new = (keras.saving.load_model(path) for path in (files[1], out))
    np.testing.assert_allclose(new.predict(x, verbose=0), old.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    assert rebasin("verify", files[1], out).exit_code == 0
    assert rebasin("verify", files[0], out).exit_code == 1
    assert rebasin("verify", out).exit_code == 0


def test_three_files_are_merged_with_a_table(files, tmp_path):
    out = tmp_path / "merged.keras"
    done = rebasin("merge", *files, "-o", out, "--data", tmp_path / "data.npz", "--reestimate", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["measured"]
    assert len(rows) == 7
    model = keras.saving.load_model(out)
    with np.load(tmp_path / "data.npz") as data:
        right = model.predict(data["x"], verbose=0).argmax(-1) == data["y"]
    assert rows["merged, re-estimated statistics"]["accuracy"] == pytest.approx(right.mean())


def test_the_barrier_needs_a_loss_by_name(files, tmp_path):
    command = ("barrier", *files[:2], "--data", tmp_path / "data.npz", "--lambdas", 3, "--align", "--json")
    done = rebasin(*command, "--loss", "sparse_categorical_crossentropy", "--metric", "accuracy")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["aligned"]["lambdas"] == [0, 0.5, 1]


def test_what_the_pages_show_on_keras_files_runs(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy("data.npz", "test.npz")
    root = Path(__file__).parents[3]
    text = "".join((root / page).read_text(encoding="utf-8") for page in ("README.md", "docs/command_line.md"))
    lines = [line for line in re.findall(r"^rebasin (.*)$", text, flags=re.M) if ".keras" in line]
    assert len(lines) == 3
    for line in lines:
        done = rebasin(*shlex.split(line))
        assert done.exit_code == 0, f"{line}\n{done.stderr}"
    assert keras.saving.load_model("merged.keras").count_params() == network().count_params()


def test_groups_are_shown_and_a_factory_is_not_needed(files):
    done = rebasin("inspect", files[0], "--json")
    assert done.exit_code == 0, done.stderr
    assert [group["size"] for group in json.loads(done.stdout)["graph"]["groups"]] == [8]
    refused = rebasin("verify", files[0], "--model", "nets:net")
    assert refused.exit_code == 1
    assert "leave out --model" in refused.stderr


def test_a_lambda_in_a_file_is_not_run(files, tmp_path):
    trap, path = tmp_path / "run", tmp_path / "trap.keras"
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Lambda(lambda x, place=str(trap): (open(place, "a").close(), x)[1])]
    )
    trap.unlink(missing_ok=True)
    model.save(path)
    done = rebasin("align", files[0], path, "-o", tmp_path / "out.keras")
    assert done.exit_code == 1
    assert "trap.keras" in done.stderr
    assert not trap.exists()
    assert not (tmp_path / "out.keras").exists()


@pytest.mark.parametrize("length", [0, 50, 3000])
def test_a_truncated_file_is_refused(files, tmp_path, length):
    files[1].write_bytes(files[1].read_bytes()[:length])
    done = rebasin("merge", *files, "-o", tmp_path / "out.keras")
    assert done.exit_code == 1
    assert "b.keras" in done.stderr
    assert not (tmp_path / "out.keras").exists()
