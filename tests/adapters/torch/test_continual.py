"""Incremental learning of modules: heads, batch normalisation, classes that come later, ties, loaders."""

import numpy as np
import pytest
import torch
from torch import nn

import rebasin_core as rb
from rebasin_core.backends.optimizers import SGD, Adam
from rebasin_core.errors import DataError, NonFiniteError, SettingError, SpecError

F = nn.functional


class Heads(nn.Module):
    """A convolutional network with batch normalisation and a head per task."""

    def __init__(self, heads=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.heads = nn.ModuleList(nn.Linear(32, 3) for _ in range(heads))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        return [head(x) for head in self.heads]


def learner(model, x, **settings):
    given = {"loss": "cross_entropy", "num_epochs": 6, "batch_size": 24, "progress": False}
    given |= {"first_optimizer": Adam(0.01), "residual_optimizer": SGD(0.2, momentum=0.8), "beta": 0.01}
    return rb.RebasinIncremental(model, x[:2], **{**given, **settings})


def blobs(turns, n=60, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    at = turns * 2 * torch.pi + 2 * torch.pi * y / classes
    return 2 * torch.stack([at.cos(), at.sin()], 1) + 0.5 * torch.randn(n, 2, generator=generator), y


def mlp(outputs=2, width=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, outputs))


@pytest.fixture
def multi_head():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Heads()


def test_two_tasks_are_learned_and_nothing_of_the_users_changes(record):
    model, first, second = mlp(), blobs(0.0), blobs(0.25)
    everything = record(model)
    ours = learner(model, first[0], num_epochs=20)
    finetuned = learner(model, first[0], num_epochs=20, memory_per_class=None, beta=0.0)
    for each in (ours, finetuned):
        each.fit_task(first)
        each.fit_task(second)
        assert each.evaluate(second) > 0.9
    assert ours.evaluate(first) > max(0.85, finetuned.evaluate(first) + 0.1)
    everything.check()
    assert isinstance(ours.model, nn.Sequential)
    assert ours.model is not ours.model
    assert torch.equal(ours.model[0].weight, ours.params["0.weight"])
    assert ours.model[0].weight.requires_grad


def test_heads_and_batch_norms(multi_head, pictures, record):
    x, y = pictures
    everything = record(multi_head)
    inc = learner(multi_head, x, groups="linear", memory_per_class=8, num_epochs=8)
    assert list(inc.graph.groups.values()) == [8]  # what the classifiers read
    inc.fit_task((x, y), 0)
    statistics = inc.params["bn1.running_mean"]
    assert not torch.equal(statistics, multi_head.bn1.running_mean)  # measured on the first task
    assert inc.evaluate((x, y), 0) > 0.9
    flipped = (-x, y)
    inc.fit_task(flipped, 1)
    assert inc.evaluate(flipped, 1) > 0.8
    assert inc.evaluate((x, y), 0) > 0.8
    assert not torch.equal(inc.params["bn1.running_mean"], statistics)
    assert [m.task for m in inc.memory] == [0, 1]
    assert inc.memory[0].inputs.shape == (24, 1, 8, 8)
    # The statistics are those of batches of data and memory together.
    both = [(torch.cat([-x[i : i + 24], torch.tensor(inc.memory[0].inputs)]), None) for i in (0, 24)]
    wanted = rb.reestimate(inc.model, both).bn2.running_var
    torch.testing.assert_close(inc.params["bn2.running_var"], wanted, rtol=1e-4, atol=1e-5)
    everything.check()
    with pytest.raises(SettingError, match="2 heads, 0, 1, and none was named"):
        inc.fit_task((x, y))
    with pytest.raises(SettingError, match="there is no head 2"):
        inc.fit_task((x, y), 2)


def test_distillation_asks_every_head_in_inference_mode(multi_head, pictures, record):
    x, y = pictures
    drift = {}
    for weight in (0.0, 1.0):
        inc = learner(multi_head, x, groups="linear", distillation=weight, memory_weight=3.0, beta=0.0)
        inc.fit_task((x, y), 0)
        samples = torch.tensor(inc.memory[0].inputs)
        before = inc.model.eval()
        everything = record(before)
        inc.fit_task((-x, y), 1)
        with torch.no_grad():
            drift[weight] = (inc.model.eval()(samples)[0] - before(samples)[0]).square().sum(1).mean()
        everything.check()
    assert drift[1.0] < 0.7 * drift[0.0]


def test_classes_that_come_later_need_an_output_from_the_start():
    x, y = blobs(0.0, classes=4, n=80)
    inc = learner(mlp(4), x, num_epochs=30, memory_weight=1.0, beta=0.001)
    inc.fit_task((x[y < 2], y[y < 2]))
    inc.fit_task((x[y >= 2], y[y >= 2]))
    assert [sorted(set(m.targets.tolist())) for m in inc.memory] == [[0, 1], [2, 3]]
    assert inc.evaluate((x, y)) > 0.9
    before = inc.params
    with pytest.raises(
        DataError, match=r"unseen class, no head: the targets hold 4, 5, 6, and the model has .* 0 to 3"
    ):
        inc.fit_task((x, y + 3))
    assert all(torch.equal(before[name], w) for name, w in inc.params.items())


def test_nan_in_the_middle_of_a_task_loses_nothing():
    x, y = blobs(0.0)
    inc = learner(mlp(), x)
    inc.fit_task((x, y))
    before, broken = inc.params, x.clone()
    broken[-1] = torch.nan
    batches = [(x[:30], y[:30]), (broken[30:], y[30:])]
    with pytest.raises(NonFiniteError, match=r"task 1: the loss is nan at step \d+; .*still the one before this task"):
        inc.fit_task(batches, "broken")
    assert all(torch.equal(before[name], w) for name, w in inc.params.items())
    assert (inc.tasks, len(inc.memory)) == ((None,), 1)


def test_tied_weights_stay_tied_and_running_statistics_are_no_ties():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(11, 6), nn.BatchNorm1d(6)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.norm(self.embed(ids)))

    ids = torch.arange(44) % 11
    inc = learner(Tied(), ids, num_epochs=3)
    before = inc.params
    for shift in (1, 2):
        inc.fit_task((ids, (ids + shift) % 11))
        model = inc.model
        assert model.out.weight is model.embed.weight
        assert torch.equal(inc.params["out.weight"], inc.params["embed.weight"])
    assert not torch.equal(inc.params["embed.weight"], before["embed.weight"])
    assert not torch.equal(inc.params["norm.bias"], inc.params["norm.running_mean"])


def test_a_run_that_is_resumed_is_the_run_without_interruption(tmp_path):
    x = blobs(0.0)[0]
    whole = learner(mlp(), x)
    whole.fit_task(blobs(0.0))
    whole.save(tmp_path / "run.npz")
    torch.manual_seed(99)
    resumed = rb.RebasinIncremental.load(tmp_path / "run.npz", mlp(), progress=False)
    for each in (whole, resumed):
        each.fit_task(blobs(0.2))
    assert all(torch.equal(whole.params[name], w) for name, w in resumed.params.items())
    with pytest.raises(SpecError, match="has a parameter"):
        rb.RebasinIncremental.load(tmp_path / "run.npz", nn.Sequential(nn.Linear(2, 16)))


def test_loaders_and_numpy_pairs_are_read(record):
    x, y = blobs(0.0)
    model = mlp()
    inc = learner(model, x)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20, shuffle=True)
    everything = record(model)
    assert inc.fit_task(loader).steps == 18
    everything.check()
    pair = (x.numpy().astype(np.float64), y.numpy())
    assert inc.fit_task(pair).steps == 18
    assert inc.evaluate(pair) == inc.evaluate(loader) > 0.9
    assert inc.evaluate((inc.memory[0].inputs, inc.memory[0].targets)) > 0.9
    assert inc.params["0.weight"].dtype == torch.float32


def test_half_precision_models_are_learned_too():
    x, y = blobs(0.0)
    inc = learner(mlp().to(torch.bfloat16), x.to(torch.bfloat16), num_epochs=20)
    inc.fit_task((x.numpy(), y.numpy()))
    inc.fit_task(tuple(v.numpy() for v in blobs(0.2)))
    assert inc.params["0.weight"].dtype == torch.bfloat16
    assert inc.evaluate((x.numpy(), y.numpy())) > 0.85


def test_inside_no_grad_and_inference_mode():
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            inc = learner(mlp(), blobs(0.0)[0], num_epochs=20)
            for turn in (0.0, 0.2):
                inc.fit_task(blobs(turn))
            assert inc.evaluate(blobs(0.2)) > 0.9
