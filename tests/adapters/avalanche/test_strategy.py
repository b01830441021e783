"""Streams of experiences, learned and evaluated as by any strategy of Avalanche."""

import copy
import inspect
import math
import warnings

import torch
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import timing_metrics
from avalanche.training import Naive
from avalanche.training.plugins import ReplayPlugin
from rebasin_avalanche import RebasinStrategy

import rebasin_core as rb
from rebasin_core.backends.optimizers import Adam

CLASSES = ([0, 1], 0.0), ([2, 3], 0.0)
DOMAINS = ([0, 1], 0.0), ([0, 1], math.pi)


def state(strategy):
    return {name: x.clone() for name, x in strategy.model.state_dict().items()}


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


# --- what is learned --------------------------------------------------------------------------------------------------
def test_the_second_domain_is_learned_and_the_first_is_known_still_which_naive_training_forgets(ring):
    benchmark, model = ring.benchmark(*DOMAINS), ring.mlp()
    strategy = ring.strategy()
    naive = Naive(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 0.02),
        train_mb_size=40,
        train_epochs=40,
        eval_mb_size=40,
        evaluator=ring.evaluator(),
    )
    for each in (strategy, naive):
        for experience in benchmark.train_stream:
            each.train(experience)
            metrics = each.eval(benchmark.test_stream)
        first, second = (metrics[f"Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp00{i}"] for i in (0, 1))
        forgotten = metrics["ExperienceForgetting/eval_phase/test_stream/Task000/Exp000"]
        assert second > 0.9
        assert (first > 0.9, forgotten < 0.1) == (each is strategy, each is strategy)
        assert math.isfinite(metrics["StreamForgetting/eval_phase/test_stream"])


def test_new_classes_are_learned_by_a_fixed_head(ring):
    benchmark = ring.benchmark(*CLASSES)
    strategy = ring.strategy()
    strategy.train(benchmark.train_stream)
    assert strategy.eval(benchmark.test_stream)["Top1_Acc_Stream/eval_phase/test_stream/Task000"] > 0.9
    assert [len(memory) for memory in strategy.learner.memory] == [10, 10]


def test_it_learns_what_the_learner_learns_from_the_same_data(ring):
    benchmark = ring.benchmark(*DOMAINS)
    strategy = ring.strategy()
    strategy.train(benchmark.train_stream, shuffle=False)
    learner = rb.RebasinIncremental(
        ring.mlp(),
        torch.zeros(1, 2),
        loss="cross_entropy",
        num_epochs=40,
        beta=0.01,
        first_optimizer=Adam(0.02),
        progress=False,
    )
    for task in DOMAINS:
        learner.fit_task(ring.points(*task))
    torch.testing.assert_close(dict(strategy.model.state_dict()), learner.params, rtol=1e-3, atol=1e-4)


def test_a_stream_is_its_experiences_one_after_the_other(ring):
    benchmark = ring.benchmark(*DOMAINS)
    whole, each = ring.strategy(), ring.strategy()
    whole.train(benchmark.train_stream)
    for experience in benchmark.train_stream:
        each.train(experience)
        each.eval(benchmark.test_stream)
    assert same(state(whole), state(each))


def test_the_seed_alone_decides_and_no_random_state_is_left_changed(ring):
    benchmark = ring.benchmark(*CLASSES)
    found = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        strategy = ring.strategy(seed=seed, train_mb_size=8, train_epochs=3)
        strategy.train(benchmark.train_stream)
        assert torch.equal(before, torch.get_rng_state())
        found.append(state(strategy))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_users_model_stays_and_the_strategys_is_one_object_throughout(ring):
    model = ring.mlp()
    before = copy.deepcopy(model.state_dict())
    strategy = ring.strategy(model, train_epochs=2)
    current = strategy.model
    strategy.train(ring.benchmark(*DOMAINS).train_stream)
    assert same(before, model.state_dict())
    assert strategy.model is current
    assert same(strategy.learner.params, state(strategy))
    assert not same(before, state(strategy))


def test_statistics_of_batch_normalization_come_into_the_model(ring):
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    strategy = ring.strategy(model)
    benchmark = ring.benchmark(*DOMAINS)
    strategy.train(benchmark.train_stream)
    assert not torch.equal(strategy.model[1].running_mean, torch.zeros(8))
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


def test_a_model_that_knows_its_first_experience_is_told_so(ring):
    benchmark = ring.benchmark(*CLASSES)
    teacher = ring.strategy()
    teacher.train(benchmark.train_stream[0])
    strategy = ring.strategy(teacher.model)
    strategy.remember(benchmark.train_stream[0])
    assert same(state(teacher), state(strategy))
    assert [report.steps for report in strategy.learner.reports] == [0]
    strategy.train(benchmark.train_stream[1])
    assert strategy.learner.reports[1].residual > 0  # a re-basin, not plain training
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


# --- data -------------------------------------------------------------------------------------------------------------
def test_augmentation_is_drawn_anew_for_every_epoch(ring):
    seen = []

    def watch(x):
        seen.append(x)
        return x

    ring.strategy(train_epochs=3).train(ring.benchmark(DOMAINS[0], train_transform=watch).train_stream)
    # Each epoch, the choice of what is remembered, and the first batch to follow the model with.
    assert len(seen) == (3 + 1 + 1) * 40


def test_benchmarks_without_task_labels(ring):
    benchmark = ring.unlabeled(*CLASSES)
    strategy = ring.strategy()
    strategy.train(benchmark.train_stream)
    assert not hasattr(benchmark.train_stream[0], "task_labels")
    assert strategy.learner.tasks == (0, 0)
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


def test_a_replay_of_avalanches_may_take_the_place_of_the_memory(ring):
    benchmark = ring.benchmark(*CLASSES)
    strategy = ring.strategy(memory_per_class=None, plugins=[ReplayPlugin(mem_size=20)])
    with warnings.catch_warnings(record=True):  # Avalanche 0.6 calls what it has deprecated, whatever the filters say
        strategy.train(benchmark.train_stream)
    assert strategy.learner.memory == ()
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


# --- callbacks and checkpoints ----------------------------------------------------------------------------------------
class Recorder(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.calls = []

    def before_training(self, strategy, **kwargs):
        self.calls.append("training")

    def before_training_exp(self, strategy, **kwargs):
        self.calls.append("experience")

    def before_eval(self, strategy, **kwargs):
        self.calls.append("eval")

    def after_eval_iteration(self, strategy, **kwargs):
        self.calls.append("eval iteration")

    def after_training_exp(self, strategy, **kwargs):
        self.calls.append(("learned", strategy.clock.train_exp_iterations, strategy.clock.train_iterations))


def test_callbacks_around_experiences_and_in_evaluation_come(ring):
    recorder = Recorder()
    strategy = ring.strategy(train_epochs=2, plugins=[recorder], eval_every=0)
    strategy.train(ring.benchmark(*DOMAINS).train_stream[0])
    evaluation = ["eval", "eval iteration"]
    assert recorder.calls == ["training", *evaluation, "experience", ("learned", 2, 2), *evaluation]
    strategy.train(ring.benchmark(*DOMAINS).train_stream[1], eval_streams=[])
    assert recorder.calls[7:] == ["training", "experience", ("learned", 2, 4)]


def test_metrics_of_the_users_choice_are_measured_against_iterations(ring):
    benchmark = ring.benchmark(*DOMAINS)
    strategy = ring.strategy(train_epochs=2, metrics=[timing_metrics(experience=True)])
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    curves = strategy.evaluator.get_all_metrics()
    assert curves["Top1_Acc_Stream/eval_phase/test_stream/Task000"][0] == [2, 4]
    assert "Time_Exp/eval_phase/test_stream/Task000/Exp000" in curves


def test_a_checkpoint_of_avalanches_goes_on_as_the_strategy_would_have(ring, tmp_path, capsys):
    benchmark = ring.benchmark(*CLASSES)
    strategy = ring.strategy(train_epochs=3)
    strategy.train(benchmark.train_stream[0])
    save_checkpoint(strategy, tmp_path / "run.pkl")
    loaded, experiences = maybe_load_checkpoint(ring.strategy(), tmp_path / "run.pkl")
    assert experiences == 1
    for each in (strategy, loaded):
        each.train(benchmark.train_stream[1])
    assert same(state(strategy), state(loaded))
    assert len(loaded.learner.memory) == 2


def test_every_setting_of_the_learner_is_one_of_the_strategy():
    given = inspect.signature(RebasinStrategy).parameters
    wanted = inspect.signature(rb.RebasinIncremental).parameters
    absent = {"example_inputs", "forward", "loss", "num_epochs", "batch_size", "settings"}  # Avalanche's, or one by one
    assert set(wanted) - set(given) == absent
    assert all(given[name].default == wanted[name].default for name in set(wanted) - absent - {"model"})
