"""Results are compared before anything is timed, and a wrong one gets no ratio."""

import os
from dataclasses import replace

import numpy as np
import pytest
from rebasin_bench import matching_rows, operator_rows, tracing_rows, training_rows
from rebasin_bench.agreement import Outcome, agree, marginal_error
from rebasin_bench.comparison import Entry, Opponent, calibrated, compare, outcome
from rebasin_bench.implementations import Case, inputs, ours, peer_operator
from rebasin_bench.memory import Order, peak_of_process, run_order
from rebasin_bench.operators import OPERATORS, numpy_operator
from rebasin_bench.peers import AUTHORS, POT, Peers
from rebasin_bench.rows import Row, Settings

QUICK = Settings(Peers(), ("torch", "numpy"), seconds=0.01, repeats=3, quick=True)
GIVEN = pytest.mark.skipif("REBASIN_PEERS" not in os.environ, reason="REBASIN_PEERS does not say where the peers are")
CASE = Case(12)
MODES = ("forward", "backward", "both")


def rows(label="ours"):
    return tuple(Row("operator", {"n": 12, "mode": mode}, label, "peer") for mode in MODES)


def against(peer, same_iterations=True, build=None):
    entry = Entry("ours", build or (lambda error: ours("numpy", CASE, num_iters=20)), same_iterations)
    return {row.case["mode"]: row for row in compare(rows(), CASE, peer, (entry,), QUICK, 1e-5)}


def opponent(operator):
    return Opponent(operator, outcome(operator), 20)


def test_the_marginal_error_is_the_largest_deviation_of_a_sum():
    assert marginal_error(np.eye(3)) == 0.0
    assert marginal_error(np.array([[[0.9, 0.1], [0.3, 0.7]], np.eye(2)])) == pytest.approx(0.2)


@pytest.mark.parametrize("way", ["torch", "numpy"])
def test_ways_agree_and_get_ratios(way):
    done = against(opponent(ours(way, CASE, num_iters=20)))
    assert all(row.ratio is not None and not row.note for row in done.values())
    assert all(row.figures["plans differ by"] < 1e-6 for row in done.values())


def test_a_wrong_plan_gets_no_ratio():
    operator = ours("numpy", CASE, num_iters=20)
    wrong = replace(operator, both=lambda: (lambda P, G: (P + 1e-3, G))(*operator.both()))
    done = against(opponent(wrong))
    assert all(row.ratio is None and "plans differ" in row.note for row in done.values())
    assert all(row.ours_measured and row.peer_measured for row in done.values()), "both are still shown"


def test_a_wrong_gradient_spoils_the_backward_pass_only():
    operator = ours("numpy", CASE, num_iters=20)
    wrong = replace(operator, both=lambda: (lambda P, G: (P, 1.01 * G))(*operator.both()))
    done = against(opponent(wrong))
    assert done["forward"].ratio is not None
    assert done["backward"].ratio is None
    assert "gradients differ" in done["both"].note


def test_a_gradient_that_is_not_a_number_is_a_disagreement():
    operator = ours("numpy", CASE, num_iters=20)
    wrong = replace(operator, both=lambda: (lambda P, G: (P, np.nan * G))(*operator.both()))
    assert against(opponent(wrong))["both"].ratio is None


def test_a_backward_pass_that_raises_is_named():
    def fail():
        raise RuntimeError("singular")

    done = against(opponent(replace(ours("numpy", CASE, num_iters=20), both=fail)))
    assert done["forward"].ratio is not None
    assert "singular" in done["both"].note
    assert done["both"].peer_measured is None


def test_ours_must_reach_the_error_of_the_peer():
    good = ours("numpy", Case(12, tau=0.1), tol=1e-6)
    poor = ours("numpy", Case(12, tau=0.1), num_iters=20)
    _, objections = agree(Case(12, tau=0.1), outcome(poor), outcome(good), same_iterations=False)
    assert "is above theirs" in objections["forward"] or "differ" in objections["forward"]
    _, objections = agree(Case(12, tau=0.1), outcome(good), outcome(good), same_iterations=False)
    assert not objections


def test_ours_is_asked_for_the_error_the_peer_reached():
    asked = []

    def build(error):
        asked.append(error)
        return ours("numpy", CASE, tol=error)

    peer = opponent(ours("numpy", CASE, num_iters=2))
    against(peer, same_iterations=False, build=build)
    assert asked == [peer.outcome.error]


def test_without_a_peer_ours_is_measured_alone():
    done = against(None)
    assert all(row.ratio is None and row.ours_measured and row.peer_measured is None for row in done.values())


def test_peers_are_iterated_until_they_converge_or_it_takes_too_long():
    case, built = Case(8, tau=0.5), []

    def build(iterations):
        built.append(iterations)
        return ours("numpy", case, num_iters=iterations)

    found = calibrated(build, 1e-4, seconds=10.0)
    assert found.outcome.error <= 1e-4
    assert built == [20 * 2**k for k in range(len(built))]
    hopeless = ours("numpy", Case(8, tau=0.01), num_iters=20)
    assert calibrated(lambda _: hopeless, 1e-9, seconds=10.0).iterations == 160, "the error has stopped to fall"


def test_an_empty_difference_of_vanishing_gradients_agrees():
    plan = np.full((4, 4), 0.25, np.float32)
    zero = Outcome(plan, np.zeros((4, 4), np.float32))
    assert not agree(Case(4), zero, zero, same_iterations=True)[1]


@pytest.mark.parametrize("way", ["torch", "numpy"])
def test_backward_alone_is_the_backward_pass_of_both(way):
    operator = ours(way, CASE, num_iters=20)
    backward = operator.prepare_backward()
    expected = np.asarray(operator.both()[1])
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(backward()), expected, rtol=1e-4, atol=1e-7)


def test_the_operator_records_nothing_in_a_forward_pass():
    assert not ours("torch", CASE, num_iters=20).forward().requires_grad
    assert set(OPERATORS) >= {"torch", "numpy", "tensorflow", "jax"}
    X, G = inputs(CASE)
    assert numpy_operator(lambda x: x, X, G).both()[1] is not None


def test_every_row_is_planned_once_under_a_key_of_its_own():
    for quick in (True, False):
        settings = replace(QUICK, quick=quick, frameworks=("torch", "numpy", "tensorflow", "jax"))
        modules = (operator_rows, training_rows, matching_rows, tracing_rows)
        keys = [row.key for module in modules for task in module.tasks(settings) for row in task.rows]
        assert len(keys) == len(set(keys))
    whole = {case.n for case in operator_rows.cases("torch", quick=False)}
    assert (min(whole), max(whole)) == (16, 4096)


def test_peak_memory_is_what_was_alive_at_once():
    def work():
        for _ in range(3):
            np.ones(4_000_000)  # 32 MB, freed each time

    assert 0.9 * 32e6 < peak_of_process(work) < 1.5 * 32e6


def test_a_process_of_its_own_measures_the_operator():
    n = 256
    assert 1.0 < run_order(Order("operator", "numpy", "both", n)) / (4 * n**2) < 12.0
    with pytest.raises(RuntimeError, match="nobody"):
        run_order(Order("operator", "nobody", "both", n))


@GIVEN
@pytest.mark.filterwarnings("ignore")
def test_the_authors_operator_agrees_with_ours():
    peer = opponent(peer_operator(AUTHORS, Peers.find(None), CASE, 20))
    assert all(row.ratio is not None for row in against(peer).values())


@GIVEN
@pytest.mark.filterwarnings("ignore")
def test_a_training_step_of_the_authors_has_our_loss():
    mine, theirs = training_rows.our_step("MLP-tiny"), training_rows.authors_step(Peers.find(None), "MLP-tiny")
    np.testing.assert_allclose([theirs() for _ in range(3)], [mine() for _ in range(3)], rtol=1e-5)


@GIVEN
@pytest.mark.filterwarnings("ignore")
def test_small_networks_are_traced_and_matched_by_both_peers():
    peers = Peers.find(None)
    sizes = tracing_rows.our_tracing("MLP-tiny")()
    assert all(trace(peers, "MLP-tiny")() == sizes for trace in tracing_rows.PEERS.values())
    for timing in (matching_rows.WITH, matching_rows.WITHOUT):
        contestant = matching_rows.snimu_matching(peers, "MLP-tiny", timing)
        assert contestant.call(contestant.prepare()) is not None


@GIVEN
@pytest.mark.filterwarnings("ignore")
def test_matching_is_measured_to_its_end_and_to_the_distance_of_the_peer(monkeypatch):
    monkeypatch.setattr(matching_rows, "NAMES", ("MLP-tiny",))
    task = matching_rows.tasks(replace(QUICK, quick=False, peers=Peers.find(None), repeats=3))[0]
    whole, fewest = task.run()
    assert (whole.ours, fewest.ours) == (matching_rows.TO_THE_END, matching_rows.TO_THEIRS)
    assert whole.ratio is not None
    assert fewest.ratio is not None
    assert whole.figures["our distance"] <= fewest.figures["our distance"] <= fewest.figures["their distance"]


@pytest.mark.filterwarnings("ignore")
def test_without_the_peer_there_is_no_distance_to_reach(monkeypatch):
    monkeypatch.setattr(matching_rows, "NAMES", ("MLP-tiny",))
    whole, fewest = matching_rows.tasks(replace(QUICK, quick=False, repeats=3))[0].run()
    assert whole.ours_measured is not None
    assert fewest.ours_measured is None
    assert whole.note == fewest.note == "rebasin is absent"


@pytest.mark.filterwarnings("ignore")
def test_pot_computes_the_same_plan():
    pytest.importorskip("ot")
    for method in ("log", "stabilized"):
        peer = opponent(peer_operator(f"{POT} {method}", Peers(), CASE, 40))
        build = lambda error: ours("torch", CASE, tol=max(error, 1e-6))  # noqa: E731
        assert all(row.ratio is not None for row in against(peer, same_iterations=False, build=build).values())
