"""RebasinModel: compile and fit train the permutations and nothing else."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rebasin_keras import RebasinModel

import rebasin_core as rb
from rebasin_core.errors import PlanError, SettingError, SpecError, UnsupportedModelError

LOSS = "sparse_categorical_crossentropy"


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def predict(model, x):
    return numpy(model(x, training=False))


@pytest.fixture(scope="module")
def graph(task):
    return rb.permutation_graph(task.b)


def test_only_the_logits_are_trained(task, graph, models):
    net = RebasinModel(task.b, graph, anchor=task.a)
    assert [tuple(v.shape) for v in net.trainable_weights] == [(8, 8), (8, 8)]
    assert len(net.weights) == 2 + 2 * len(task.a.weights)
    record = models.Record(task.a, task.b)
    fixed = [numpy(v) for v in net.non_trainable_weights]
    logits = [numpy(v) for v in net.trainable_weights]
    net.compile(keras.optimizers.Adam(0.1), LOSS, metrics=["accuracy"])
    history = net.fit(task.x, task.y, batch_size=32, epochs=2, verbose=0, validation_split=0.2)
    record.check(random_states=False)
    assert np.isfinite(history.history["loss"]).all()
    for before, v in zip(fixed, net.non_trainable_weights, strict=True):
        assert_array_equal(numpy(v), before)
    assert all((numpy(v) != before).any() for before, v in zip(logits, net.trainable_weights, strict=True))


def test_the_hard_plan_is_the_function_of_the_model(task, graph):
    net = RebasinModel(task.b, graph, init=rb.Plan.random(graph, seed=4))
    assert net.plan() == rb.Plan.random(graph, seed=4)
    assert_allclose(net.predict(task.x, verbose=0), predict(task.b, task.x), atol=1e-5)
    assert_allclose(predict(net, task.x), predict(task.b, task.x), atol=1e-5)
    rebased = net.model()
    for alike, expected in zip(net.rebased().get_weights(), rebased.get_weights(), strict=True):
        assert_array_equal(alike, expected)
    assert type(rebased) is type(task.b)
    assert_allclose(predict(rebased, task.x), predict(task.b, task.x), atol=1e-5)
    assert_array_equal(rebased.get_weights()[1], np.take(task.b.get_weights()[1], net.plan()["dense"]))
    assert rebased.evaluate(task.x, task.y, verbose=0)[0] == pytest.approx(
        task.b.evaluate(task.x, task.y, verbose=0)[0]
    )


def test_training_mode_is_the_soft_plan(task, graph):
    net = RebasinModel(task.b, graph, tau=0.5, num_iters=30)
    from rebasin_core.models.model import open_model

    opened = open_model(task.b)
    soft = net.soft_plan()
    assert_allclose(numpy(keras.ops.sum(soft["dense"], axis=0)), 1.0, atol=1e-5)
    expected = opened.forward(soft.apply(opened.params, graph), task.x)
    assert_allclose(numpy(net(task.x, training=True)), numpy(expected), atol=1e-5)
    assert_allclose(numpy(opened.forward(net.soft_parameters(), task.x)), numpy(expected), atol=1e-5)
    assert not np.allclose(numpy(expected), predict(net, task.x), atol=1e-3)


@pytest.mark.parametrize("place", [0.25, "random"])
def test_the_anchor_puts_the_model_on_the_line(task, graph, place):
    net = RebasinModel(task.b, graph, anchor=task.a, place=place, seed=3)
    middle = rb.interpolate(task.a, task.b, 0.5 if place == "random" else place)
    assert_allclose(predict(net, task.x), predict(middle, task.x), atol=1e-5)
    first, second = (numpy(net(task.x, training=True)) for _ in range(2))
    assert np.allclose(first, second) == (place != "random")


def test_fit_finds_a_permutation_again(task, graph):
    shuffled = rb.permute(task.a, rb.Plan.random(graph, seed=7), graph)
    net = RebasinModel(shuffled, graph, anchor=task.a, place=0.5)
    before = rb.connectivity(task.a, shuffled, LOSS, (task.x, task.y), lambdas=3).losses[1]
    net.compile(keras.optimizers.Adam(0.1), LOSS)
    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=10)
    # Towards what the model itself says: that is best where the plan is right.
    net.fit(task.x, task.y, batch_size=48, epochs=15, verbose=0, callbacks=[stop])
    after = rb.connectivity(task.a, net.model(), LOSS, (task.x, task.y), lambdas=3).losses[1]
    assert after < before


def test_weights_are_saved_and_loaded(task, graph, tmp_path):
    net = RebasinModel(task.b, graph, init=rb.Plan.random(graph, seed=1))
    net.save_weights(tmp_path / "net.weights.h5")
    other = RebasinModel(task.a, graph)
    other.load_weights(tmp_path / "net.weights.h5")
    assert other.plan() == net.plan()
    assert_allclose(predict(other, task.x), predict(net, task.x), atol=1e-6)


def test_groups_local_to_another_and_mixed_policies(models):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(keras.layers.Dense(6, name="heads")(inputs)))
    axes = {"heads/kernel": ". (h d[h])", "heads/bias": "(h d[h])", "out/kernel": "(h d[h]) .", "out/bias": "."}
    graph = rb.PermutationGraph.from_axes(
        {**axes, "sizes": "h d[h]"}, {**dict(zip(axes, model.get_weights(), strict=True)), "sizes": np.ones((2, 3))}
    )
    graph = rb.PermutationGraph(
        {name: graph.axes[name] for name in axes},
        {name: graph.shapes[name] for name in axes},
        graph.groups,
        graph.parents,
        {k: v for k, v in graph.pinned.items() if k[0] in axes},
    )
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        net = RebasinModel(model, graph, init=rb.Plan.random(graph, seed=2))
    finally:
        keras.config.set_dtype_policy(policy)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    assert [tuple(v.shape) for v in net.trainable_weights] == [(2, 2), (2, 3, 3)]
    assert_allclose(predict(net, x), predict(model, x), atol=1e-5)
    assert_allclose(net.predict(x, verbose=0), predict(model, x), atol=1e-5)
    assert numpy(net(x, training=True)).dtype == np.float32


def test_settings_are_checked(task, graph, models):
    for settings in ({"tau": 0.0}, {"num_iters": 0}, {"init_scale": -1.0}, {"place": "middle"}, {"seed": -1}):
        with pytest.raises(SettingError):
            RebasinModel(task.b, graph, **settings)
    with pytest.raises(UnsupportedModelError):
        RebasinModel(keras.layers.Dense(2), graph)
    with pytest.raises(UnsupportedModelError, match="activation"):
        RebasinModel(task.b, graph, anchor=models.mlp(activation="tanh"))
    with pytest.raises(SpecError, match="expected a PermutationGraph"):
        RebasinModel(task.b, {"h": 3})
    with pytest.raises(SpecError, match="nothing to learn"):
        RebasinModel(task.b, graph.pin(list(graph.groups)))
    with pytest.raises(PlanError):
        RebasinModel(task.b, graph, init=rb.Plan({"h": [1, 0]}))
