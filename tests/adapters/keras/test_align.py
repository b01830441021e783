"""The face of the library on Keras models: align, connectivity, interpolate, merge; data, losses and metrics."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rebasin_keras.adapter import KerasAdapter

import rebasin_core as rb
from rebasin_core.errors import SettingError, ShapeError, UnsupportedModelError

ADAPTER = KerasAdapter()
LOSS = "sparse_categorical_crossentropy"
SHORT = rb.solvers.Sinkhorn(max_steps=4, num_rounds=1)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def predict(model, x):
    return numpy(model(x, training=False))


# --- align ------------------------------------------------------------------------------------------------------------
OBJECTIVES = {
    "L2": lambda x, y: rb.objectives.L2(),
    "cosine": lambda x, y: rb.objectives.Cosine(),
    "midpoint": lambda x, y: rb.objectives.Midpoint(LOSS, (x, y), batch_size=48),
    "random point": lambda x, y: rb.objectives.RandomPoint(keras.losses.get(LOSS), (x, y)),
    "activations": lambda x, y: rb.objectives.Activations((x, y)),
    "custom": lambda x, y: lambda a, b: keras.ops.sum(keras.ops.abs(a["dense/kernel"] - b["dense/kernel"])),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_with_the_sinkhorn_solver(task, models, name):
    record = models.Record(task.a, task.b)
    result = rb.align(task.a, task.b, objective=OBJECTIVES[name](task.x, task.y), solver=SHORT, progress=False)
    record.check()
    assert result.objective <= result.initial_objective
    assert result.error < 1e-5
    assert_allclose(predict(result.model, task.x), predict(task.b, task.x), atol=1e-5)
    assert set(result.graph.groups) == {"dense", "dense_1"}


SOLVERS = [
    rb.solvers.FrankWolfe(num_starts=1, max_steps=4, max_swaps=0),
    rb.solvers.StraightThrough(max_steps=4),
]


@pytest.mark.parametrize("name", ["L2", "midpoint", "random point"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_the_other_solvers_that_follow_a_gradient(task, models, name, solver):
    record = models.Record(task.a, task.b)
    result = rb.align(task.a, task.b, objective=OBJECTIVES[name](task.x, task.y), solver=solver, progress=False)
    record.check()
    assert result.objective <= result.initial_objective
    assert_allclose(predict(result.model, task.x), predict(task.b, task.x), atol=1e-5)
    assert len(result.history) > 3


def test_weight_matching_finds_a_permutation_again(task):
    graph = rb.permutation_graph(task.a)
    shuffled = rb.permute(task.a, rb.Plan.random(graph, seed=3), graph)
    result = rb.align(task.a, shuffled, solver=rb.solvers.WeightMatching(), progress=False)
    for x, y in zip(result.model.get_weights(), task.a.get_weights(), strict=True):
        assert_array_equal(x, y)
    assert result.objective == 0.0


def test_activations_are_those_of_the_layers(task, models):
    graph = rb.permutation_graph(task.a)
    collect = ADAPTER.activations(task.a, graph)
    record = models.Record(task.a)
    found = collect(ADAPTER.params(task.a), task.x)
    record.check()
    hidden = keras.ops.relu(keras.ops.matmul(task.x, task.a.weights[0]) + task.a.weights[1])
    assert_allclose(numpy(found["dense"][0]), numpy(hidden), atol=1e-5)
    assert set(found) == {"dense", "dense_1"}
    net = models.scrambled(models.conv_net(), 0)
    graph = rb.permutation_graph(net)
    shuffled = rb.permute(net, rb.Plan.random(graph, seed=1), graph)
    data = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32"), np.zeros(8)
    objective = rb.objectives.Activations(data)
    result = rb.align(net, shuffled, objective=objective, solver=rb.solvers.ActivationMatching(), progress=False)
    assert_array_equal(numpy(result.model.weights[0]), numpy(net.weights[0]))
    with pytest.raises(UnsupportedModelError, match="no group"):
        ADAPTER.activations(net, graph.pin(list(graph.groups)))


def test_a_plan_for_one_model_is_a_plan_for_its_sibling(task):
    graph = rb.permutation_graph(task.a)
    assert graph == rb.permutation_graph(task.b)
    other = rb.permute(task.b, rb.Plan.random(graph, seed=0), graph)
    assert_allclose(predict(other, task.x), predict(task.b, task.x), atol=1e-5)
    assert rb.verify(task.b, graph).error < 1e-5
    assert "dense" not in rb.permutation_graph(task.a, pin=["dense"]).groups


def test_batch_norm_moves_with_its_channels(models):
    a, b = (models.scrambled(models.conv_net(), seed) for seed in (0, 1))
    graph = rb.permutation_graph(b)
    assert graph.buffers == {"batch_normalization/moving_mean", "batch_normalization/moving_variance"}
    result = rb.align(a, b, solver=rb.solvers.WeightMatching(), progress=False)
    order = result.plan["conv2d"]
    mean = "batch_normalization/moving_mean"
    assert_array_equal(numpy(ADAPTER.params(result.model)[mean]), np.take(numpy(ADAPTER.params(b)[mean]), order))


# --- the line ---------------------------------------------------------------------------------------------------------
def test_interpolate_and_merge_and_connectivity(task, models):
    record = models.Record(task.a, task.b)
    middle = rb.interpolate(task.a, task.b, 0.25)
    for x, a, b in zip(middle.get_weights(), task.a.get_weights(), task.b.get_weights(), strict=True):
        assert_allclose(x, 0.75 * a + 0.25 * b, atol=1e-6)
    merged = rb.merge([task.a, task.b], solver=rb.solvers.WeightMatching(), progress=False)
    assert merged.evaluate(task.x, task.y, verbose=0)[0] < 2.0
    curve = rb.connectivity(task.a, task.b, LOSS, (task.x, task.y), lambdas=3, metrics=["accuracy"], batch_size=40)
    record.check()
    for place, model in ((0, task.a), (2, task.b)):
        loss, accuracy = model.evaluate(task.x, task.y, verbose=0)
        assert_allclose(curve.losses[place], loss, rtol=1e-5)
        assert_allclose(curve.metrics["accuracy"][place], accuracy, rtol=1e-5)


class Dataset(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.x[i::2], self.y[i::2]


def tensorflow_dataset(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(40)


def torch_loader(x, y):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y)), 40)


DATA = {
    "list": lambda x, y: [(x[:40], y[:40]), (x[40:], y[40:])],
    "generator": lambda x, y: ((x[i::2], y[i::2]) for i in range(2)),
    "PyDataset": Dataset,
    "tf.data": tensorflow_dataset,
    "DataLoader": torch_loader,
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_any_kind(task, kind):
    expected = rb.connectivity(task.a, task.b, LOSS, (task.x, task.y), lambdas=2)
    found = rb.connectivity(task.a, task.b, LOSS, DATA[kind](task.x, task.y), lambdas=2, metrics=["accuracy"])
    assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_a_dataset_serves_an_objective(task):
    objective = rb.objectives.Midpoint(LOSS, Dataset(task.x, task.y))
    result = rb.align(task.a, task.b, objective=objective, solver=SHORT, progress=False)
    assert result.objective <= result.initial_objective


# --- losses -----------------------------------------------------------------------------------------------------------
def test_losses_by_name_object_and_function_are_the_mean(task):
    outputs = keras.ops.convert_to_tensor(predict(task.a, task.x))
    expected = float(-np.mean(np.log(predict(task.a, task.x)[np.arange(len(task.y)), task.y])))
    objects = [
        keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
        for reduction in ("sum_over_batch_size", "sum", "none")
    ]

    def of_mine(outputs, targets):
        return keras.losses.get(LOSS)(targets, outputs)[0] * 0 + expected

    for loss in (LOSS, "SparseCategoricalCrossentropy", *objects, keras.losses.sparse_categorical_crossentropy, None):
        assert float(ADAPTER.loss(task.a, loss)(outputs, task.y)) == pytest.approx(expected, rel=1e-4)
    assert float(ADAPTER.loss(task.a, of_mine)(outputs, task.y)) == pytest.approx(expected, rel=1e-5)


def test_a_function_with_the_names_of_keras_is_called_as_keras_does():
    def difference(y_true, y_pred):
        return y_true - y_pred

    assert float(ADAPTER.loss(None, difference)(keras.ops.ones(2), np.full(2, 3.0))) == 2.0


def test_losses_that_are_none_are_refused(models):
    for loss in ("cross_entropie", 3, keras.losses.Huber):
        with pytest.raises(SettingError):
            ADAPTER.loss(models.mlp(), loss)
    with pytest.raises(SettingError, match="not compiled"):
        ADAPTER.loss(models.mlp(), None)


# --- metrics ----------------------------------------------------------------------------------------------------------
def test_accuracy_by_the_shapes():
    accuracy = ADAPTER.metric(None, "accuracy")
    scores = keras.ops.convert_to_tensor(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], "float32"))
    assert accuracy(scores, np.array([1, 1, 1])) == pytest.approx(2 / 3)
    assert accuracy(scores, np.array([[1], [0], [0]])) == pytest.approx(2 / 3)
    assert accuracy(scores, np.eye(2)[[1, 0, 1]]) == 1.0
    assert accuracy(scores[:, 1:], np.array([1, 1, 1])) == pytest.approx(2 / 3)
    with pytest.raises(ShapeError, match="accuracy"):
        accuracy(scores, np.array([1, 1]))


def test_metrics_of_keras_keep_no_state():
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=1)
    scores = keras.ops.convert_to_tensor(np.array([[0.1, 0.9], [0.8, 0.2]], "float32"))
    for identifier in (metric, "sparse_categorical_accuracy", "SparseCategoricalAccuracy"):
        found = ADAPTER.metric(None, identifier)
        for _ in range(2):
            assert float(found(scores, np.array([1, 1]))) == 0.5
    assert float(metric.result()) == 0.0
    for wrong in ("accurracy", 3, keras.metrics.AUC):
        with pytest.raises(SettingError):
            ADAPTER.metric(None, wrong)


@pytest.mark.parametrize("pin", [(), ("dense", "dense_1")], ids=["units move", "nothing moves"])
def test_an_alignment_stays_as_it_is_while_its_models_are_trained_on(task, pin):
    a, b = (rb.interpolate(model, model) for model in (task.a, task.b))
    result = rb.align(a, b, pin=pin, solver="weight-matching", progress=False)
    assert pin or not result.plan.is_identity
    before = [result.merge(t).get_weights() for t in (0, 0.5, 1)]
    for model in (a, b, result.model):
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        old = model.get_weights()
        model.fit(task.x, task.y, epochs=1, verbose=0)
        assert not np.array_equal(old[0], model.get_weights()[0])
    for t, weights in zip((0, 0.5, 1), before, strict=True):
        for x, y in zip(result.merge(t).get_weights(), weights, strict=True):
            assert_array_equal(x, y)


def test_activations_of_a_single_hidden_layer_are_collected():
    def net():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)])

    a, x = net(), np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    graph = rb.permutation_graph(a)
    plan = rb.Plan.random(graph, 1)
    result = rb.align(
        a, rb.permute(a, plan, graph), objective=rb.objectives.Activations((x, x)), solver="activation-matching"
    )
    assert result.plan == plan.inverse()
