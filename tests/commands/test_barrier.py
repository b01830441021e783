"""`rebasin barrier`: the loss on the line between two files, as they are and aligned."""

import numpy as np
import pytest


def test_aligning_lowers_the_barrier_of_two_trained_networks(rebasin, trained):
    command = ("barrier", *trained.files[:2], *trained.model(), "--data", trained.data, "--loss", "cross_entropy")
    done = rebasin(*command, "--align", "--metric", "accuracy", "--lambdas", 5, "--reestimate", "--json")
    assert done.code == 0
    before, after = done.json["as they are"], done.json["aligned"]
    assert after["barrier"] < before["barrier"]
    assert before["lambdas"] == [0, 0.25, 0.5, 0.75, 1]
    for curve in (before, after):
        assert len(curve["losses"]) == len(curve["metrics"]["accuracy"]) == 5
    np.testing.assert_allclose(after["losses"][-1], before["losses"][-1], rtol=1e-3)


def test_a_barrier_as_it_is_needs_no_search(rebasin, trained):
    done = rebasin("barrier", *trained.files[:2], *trained.model(), "--data", trained.data, "--loss", "cross_entropy")
    assert done.code == 0
    assert "as they are" in done.out
    assert "aligned" not in done.out


def test_the_picture_is_written_once(rebasin, trained, untouched):
    pytest.importorskip("matplotlib")
    picture = trained.folder / "line.svg"
    command = ("barrier", *trained.files[:2], *trained.model(), "--data", trained.data, "--loss", "cross_entropy")
    done = rebasin(*command, "--lambdas", 3, "--plot", picture)
    assert done.code == 0
    assert picture.read_text().startswith("<?xml")
    untouched()
    assert rebasin(*command, "--plot", picture).code == 1
    assert rebasin(*command, "--plot", trained.folder / "line.doc").code == 1
    untouched()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--loss", "no_such_loss"), "cross_entropy"),
        (("--loss", "nets.py:nothing"), "nets.py"),
        (("--loss", "l1_loss"), "cannot be computed"),
        ((), "no loss was given"),
        (("--data", "absent.npz"), "absent.npz"),
        (("--data", "data"), "FILE.npz"),
    ],
)
def test_a_loss_or_data_that_cannot_be_used_is_one_sentence(rebasin, trained, monkeypatch, options, words):
    monkeypatch.chdir(trained.folder)
    data = () if "--data" in options else ("--data", trained.data)
    done = rebasin("barrier", *trained.files[:2], *trained.architecture, *data, *options)
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err


def test_axes_alone_have_no_loss(rebasin, planted, trained):
    command = ("barrier", planted.a, planted.b, "--axes", planted.axes, "--data", trained.data)
    done = rebasin(*command, "--loss", "cross_entropy")
    assert done.code == 1
    assert "--model" in done.err


def test_data_are_not_optional(rebasin, trained):
    assert rebasin("barrier", *trained.files[:2], *trained.model(), "--loss", "cross_entropy").code == 2
