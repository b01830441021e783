"""Inputs of every form, and outputs of every form: tensors, tuples, dicts, several heads, Hugging Face's habits."""

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import rebasin_core as rb
from rebasin_core.errors import SettingError, ShapeError

QUICK = rb.solvers.Sinkhorn(max_steps=4, num_rounds=1)


class TextNet(nn.Module):
    """Called with keywords, returns a mapping that holds its loss where it is given labels."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(11, 6), nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, input_ids, attention_mask=None, labels=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        h = torch.tanh(self.hidden(self.embed(input_ids))) * mask[..., None]
        logits = self.head(h.mean(1))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


class TwoHeads(nn.Module):
    """Two inputs, two outputs, one of them in a dict."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 7), nn.Linear(3, 7)
        self.classes, self.value = nn.Linear(7, 3), nn.Linear(7, 1)

    def forward(self, x, y):
        h = torch.relu(self.left(x) + self.right(y))
        return self.classes(h), {"value": self.value(h)}


def text(n=6):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 11, (n, 5), generator=generator)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.randint(0, 3, (n,), generator=generator)


@pytest.fixture
def text_nets():
    torch.manual_seed(0)
    return TextNet(), TextNet()


@pytest.fixture
def two_heads():
    torch.manual_seed(0)
    return TwoHeads(), TwoHeads()


def logits_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs["logits"], targets)


def test_dicts_are_keyword_arguments(text_nets, record):
    a, b = text_nets
    inputs, labels = text()
    watch = record(a, b)
    graph = rb.permutation_graph(a, inputs)
    assert sorted(graph.groups.values()) == [6, 10]
    rb.verify(a, graph, inputs)
    result = rb.align(
        a,
        b,
        inputs,
        objective=rb.objectives.Midpoint(logits_loss, [(inputs, labels)] * 2),
        solver=QUICK,
        progress=False,
    )
    curve = rb.connectivity(a, result.model, logits_loss, (inputs, labels), 3, batch_size=2, metrics=["accuracy"])
    watch.check()
    assert curve.losses.shape == (3,)
    assert torch.allclose(result.model(**inputs)["logits"], b(**inputs)["logits"], atol=1e-5)


def test_a_model_that_is_given_labels_brings_its_own_loss(text_nets):
    inputs, labels = text()
    batches = [({**inputs, "labels": labels}, labels)]
    own = rb.connectivity(*text_nets, None, batches, 3)
    given = rb.connectivity(*text_nets, logits_loss, [(inputs, labels)], 3)
    assert np.allclose(own.losses, given.losses)
    with pytest.raises(SettingError, match="no loss was given"):
        rb.connectivity(*text_nets, None, [(inputs, labels)], 3)


def test_inputs_may_be_a_mapping_that_is_no_dict(text_nets):
    inputs, labels = text()
    batches = [(UserDict(inputs), labels)]
    assert rb.connectivity(*text_nets, logits_loss, batches, 2).losses.shape == (2,)


def test_dummy_inputs_of_a_model_are_used_where_none_are_given(text_nets):
    class Named(TextNet):
        @property
        def dummy_inputs(self):
            return {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}

    result = rb.align(Named(), Named(), solver=rb.solvers.WeightMatching(), progress=False)
    assert result.error < 1e-4


class Pairs(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return (torch.randn(4, generator=generator), torch.randn(3, generator=generator)), i % 3


def both_losses(outputs, targets):
    classes, rest = outputs
    return nn.functional.cross_entropy(classes, targets) + rest["value"].square().mean()


def test_several_inputs_and_outputs(two_heads, record):
    a, b = two_heads
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    loader = DataLoader(Pairs(), batch_size=4)  # makes lists of the tuples
    watch = record(a, b)
    result = rb.align(a, b, x, y, objective=rb.objectives.Midpoint(both_losses, loader), solver=QUICK, progress=False)
    curve = rb.connectivity(a, result.model, both_losses, loader, 3)
    one = rb.connectivity(a, result.model, both_losses, ((x, y), torch.zeros(8).long()), 3, batch_size=3)
    watch.check()
    assert result.error < 1e-5
    assert curve.losses.shape == one.losses.shape
    graph = rb.permutation_graph(a, x, {"y": y})
    rb.verify(a, graph, x, {"y": y})
    with pytest.raises(SettingError, match="one tensor of class scores"):
        rb.connectivity(a, b, both_losses, loader, 3, metrics=["accuracy"])


def test_batches_of_unequal_length_are_weighted_by_their_samples(two_heads):
    a, b = two_heads
    loader = DataLoader(Pairs(), batch_size=4)  # 4, 4, 2
    whole = DataLoader(Pairs(), batch_size=10)
    assert np.allclose(*(rb.connectivity(a, b, both_losses, d, 3).losses for d in (loader, whole)), rtol=1e-5)


def test_numpy_arrays_become_tensors_of_the_weights_dtype(mlps, blobs):
    x, y = blobs
    curve = rb.connectivity(*mlps, "cross_entropy", blobs, 2)
    arrays = rb.connectivity(
        *mlps,
        lambda o, t: nn.functional.cross_entropy(o, torch.as_tensor(t)),
        (x.double().numpy(), y.numpy()),
        2,
        metrics=["accuracy"],
    )
    assert np.allclose(curve.losses, arrays.losses)
    assert arrays.metrics["accuracy"].min() > 0.9


def test_accuracy_finds_the_axis_of_the_classes():
    from rebasin_torch.losses import metric_function

    accuracy = metric_function("accuracy")
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1], [2, 0]]), 3).float()
    assert accuracy(scores, torch.tensor([[0, 1], [2, 1]])) == 0.75  # (batch, places, classes)
    assert accuracy(scores.mT, torch.tensor([[0, 1], [2, 1]])) == 0.75  # (batch, classes, places)
    with pytest.raises(ShapeError, match="one class per row"):
        accuracy(scores, torch.zeros(5))
