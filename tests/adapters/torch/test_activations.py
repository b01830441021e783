"""Activation matching: where groups are produced, and plans from what their units say."""

import pytest
import torch
from rebasin_torch.activations import producers
from torch import nn

import rebasin_core as rb
from rebasin_core.errors import SettingError, UnsupportedModelError
from rebasin_core.models.model import open_model


@pytest.fixture
def planted(conv_nets, pictures):
    model = conv_nets[0]
    graph = rb.permutation_graph(model, pictures[0])
    plan = rb.Plan.random(graph, seed=1)
    return model, rb.permute(model, plan, graph), graph, plan


def test_producers_are_the_layers_whose_output_is_a_group(planted):
    model, _, graph, _ = planted
    first, second = graph.groups
    assert producers(model, graph) == {"0": (first, 1), "1": (first, 1), "3": (second, 1), "4": (second, 1)}


def test_one_assignment_per_group_finds_a_planted_permutation(planted, pictures, record):
    a, b, graph, plan = planted
    watch = record(a, b)
    objective = rb.objectives.Activations(pictures)
    for solver in (rb.solvers.ActivationMatching(), rb.solvers.Sinkhorn(max_steps=1, num_rounds=1)):
        result = rb.align(a, b, pictures[0], graph=graph, objective=objective, solver=solver, progress=False)
        assert plan.compose(result.plan).is_identity
        assert result.objective < 1e-5
    watch.check()


def test_activation_matching_names_the_objective_it_needs(planted, pictures):
    a, b, graph, _ = planted
    with pytest.raises(SettingError, match=r"needs objectives\.Activations\(data\).*'L2'"):
        rb.align(a, b, pictures[0], graph=graph, solver=rb.solvers.ActivationMatching(), progress=False)


def test_it_is_zero_where_the_networks_agree_and_falls_when_they_are_aligned(planted, mlps, blobs, pictures, record):
    a, _, graph, _ = planted
    bound = rb.objectives.Activations(pictures).bind(open_model(a), graph)
    params = open_model(a).params
    assert abs(float(bound.value(params, params, pictures))) < 1e-5
    watch = record(*mlps)
    result = rb.align(
        *mlps,
        blobs[0],
        objective=rb.objectives.Activations(blobs),
        solver=rb.solvers.Sinkhorn(max_steps=10, num_rounds=1),
        progress=False,
    )
    watch.check()
    assert 0.0 < result.objective < result.initial_objective < 2.0


def test_groups_that_no_known_layer_produces_are_refused(blobs):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return torch.relu(x @ self.w1.T) @ self.w2.T

    with pytest.raises(UnsupportedModelError, match="no group of this graph is the output"):
        rb.align(Bare(), Bare(), blobs[0], objective=rb.objectives.Activations(blobs), progress=False)
    arrays = {"w": blobs[0].numpy()}
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, arrays)
    with pytest.raises(UnsupportedModelError, match="does not tell where activations are produced"):
        rb.align(arrays, arrays, graph=graph, objective=rb.objectives.Activations(blobs), progress=False)


def test_settings_are_checked(mlps, blobs):
    with pytest.raises(SettingError, match="evaluation_batches"):
        rb.align(*mlps, blobs[0], objective=rb.objectives.Activations(blobs, evaluation_batches=0), progress=False)
