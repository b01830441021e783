"""Axes as a file: the three forms say the same, and what is wrong is named with the file."""

import json

import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.checkpoints.axes_file import read_axes
from rebasin_core.errors import RebasinError

AXES = {"w": "h .", "mean": "h", "v": ". h"}
PARAMS = {"w": np.ones((4, 3)), "mean": np.ones(4), "v": np.ones((2, 4))}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "axes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_notations_alone_are_a_graph(file):
    assert read_axes(file(AXES), PARAMS) == rb.PermutationGraph.from_axes(AXES, PARAMS)


def test_buffers_and_pins_stand_beside_the_notations(file):
    long = {"axes": AXES, "buffers": ["mean"], "pin": ["h"]}
    assert read_axes(file(long), PARAMS) == rb.PermutationGraph.from_axes(AXES, PARAMS, buffers=["mean"], pin=["h"])


def test_a_graph_comes_back_as_it_was_written(file):
    graph = rb.PermutationGraph.from_axes(AXES, PARAMS, buffers=["mean"])
    assert read_axes(file(graph.to_json()), PARAMS) == graph


def test_a_tensor_called_axes_is_a_tensor(file):
    assert read_axes(file({"axes": "h ."}), {"axes": np.ones((2, 3))}).groups == {"h": 2}


def test_a_graph_for_other_shapes_is_refused(file):
    graph = rb.PermutationGraph.from_axes(AXES, PARAMS)
    with pytest.raises(rb.ShapeError, match=r"axes\.json.*'w'"):
        read_axes(file(graph.to_json()), {**PARAMS, "w": np.ones((4, 5))})


@pytest.mark.parametrize(
    "content",
    [
        {"axes": AXES, "buffer": ["mean"]},
        {"axes": AXES, "buffers": "mean"},
        {"axes": AXES, "pin": [3]},
        {"axes": AXES, "pin": ["no such group"]},
        {**AXES, "extra": "h"},
        {name: AXES[name] for name in ("w", "v")},
        {"format": "rebasin-core/graph/1", "axes": AXES},
        "null",
        "\x00",
    ],
)
def test_what_does_not_fit_is_named_with_the_file(file, content):
    with pytest.raises(RebasinError, match=r"axes\.json"):
        read_axes(file(content), PARAMS)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(rb.SpecError, match=r"none\.json: No such file"):
        read_axes(tmp_path / "none.json", PARAMS)
