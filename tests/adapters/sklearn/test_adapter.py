"""scikit-learn's perceptrons: carried there and back without a change."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import (
    NonFiniteError,
    RebasinError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedModelError,
)
from rebasin_core.models.model import find_adapter
from rebasin_core.testing import check_adapter

pytest.importorskip("sklearn")

from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import BernoulliRBM, MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
SCORE = X @ RNG.normal(size=(4, 3)) + 0.3 * RNG.normal(size=(60, 3))
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
TARGETS = {
    "binary": (MLPClassifier, (SCORE[:, 0] > 0).astype(int)),
    "multiclass": (MLPClassifier, SCORE.argmax(1)),
    "strings": (MLPClassifier, np.array(["ant", "bee", "cat"])[SCORE.argmax(1)]),
    "binary strings": (MLPClassifier, np.where(SCORE[:, 0] > 0, "yes", "no")),
    "multilabel": (MLPClassifier, (SCORE > 0).astype(int)),
    "one output": (MLPRegressor, SCORE[:, 0]),
    "several outputs": (MLPRegressor, SCORE),
}


def fit(kind, activation="relu", seed=0, hidden=(6, 5), inputs=X, **settings):
    estimator, y = TARGETS[kind]
    model = estimator(hidden_layer_sizes=hidden, activation=activation, max_iter=4, random_state=seed, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs, y)


def outputs(model, inputs=X):
    return model.predict_proba(inputs) if isinstance(model, MLPClassifier) else model.predict(inputs)


def align(a, b, **settings):
    return rb.align(a, b, **{"solver": rb.solvers.WeightMatching(), "progress": False, **settings})


@pytest.fixture(params=TARGETS)
def kind(request):
    return request.param


@pytest.fixture(params=ACTIVATIONS)
def activation(request):
    return request.param


def test_the_laws_of_the_protocol(kind, activation):
    model = fit(kind, activation)
    laws = check_adapter(find_adapter(model), model, X, outputs=outputs, state=pickle.dumps)
    assert {"forward: computes what the model computes", "activations: move with their groups"} <= set(laws)


def test_the_forward_function_is_what_the_model_predicts(kind, activation):
    model = fit(kind, activation)
    adapter = find_adapter(model)
    assert_allclose(adapter.forward(model)(adapter.params(model), X), outputs(model), rtol=1e-9, atol=1e-12)


def test_a_rebased_copy_predicts_the_same(kind, activation, unchanged):
    model = fit(kind, activation)
    with unchanged(model, X):
        graph = rb.permutation_graph(model)
        assert graph.groups == {"hidden_1": 6, "hidden_2": 5}
        rb.verify(model, graph)
        rb.verify(model, graph, X)
        copy = rb.permute(model, rb.Plan.random(graph, 1), graph)
    assert type(copy) is type(model)
    assert not np.allclose(copy.coefs_[0], model.coefs_[0])
    assert_allclose(outputs(copy), outputs(model), rtol=1e-9, atol=1e-12)
    assert_array_equal(copy.predict(X), model.predict(X)) if isinstance(model, MLPClassifier) else None


def test_the_loss_is_the_model_s_own_training_loss(kind):
    """scikit-learn's ``loss_`` after full-batch steps is the loss before the last one, with a penalty of alpha = 0."""
    estimator, y = TARGETS[kind]
    settings = {"solver": "sgd", "batch_size": 60, "alpha": 0.0, "random_state": 0, "learning_rate_init": 0.1}
    model = estimator(hidden_layer_sizes=(6, 5), **settings)
    classes = {"classes": np.unique(y)} if estimator is MLPClassifier and y.ndim == 1 else {}
    classes = {"classes": np.arange(3)} if kind == "multilabel" else classes
    model.partial_fit(X, y, **classes)
    adapter = find_adapter(model)
    before = adapter.loss(model, None)(adapter.forward(model)(adapter.params(model), X), y)
    model.partial_fit(X, y)
    assert_allclose(before, model.loss_, rtol=1e-9)


def test_the_poisson_loss_of_newer_releases():
    try:
        model = MLPRegressor(
            loss="poisson", hidden_layer_sizes=(5,), solver="sgd", batch_size=60, alpha=0.0, random_state=0
        )
    except TypeError:
        pytest.skip("this scikit-learn has no poisson loss")
    y = RNG.poisson(2.0, size=60)
    model.partial_fit(X, y)
    adapter = find_adapter(model)
    assert_allclose(adapter.forward(model)(adapter.params(model), X), model.predict(X))
    before = adapter.loss(model, None)(model.predict(X), y)
    model.partial_fit(X, y)
    assert_allclose(before, model.loss_)
    rb.verify(model, rb.permutation_graph(model))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "one output"])
def test_planted_permutations_are_recovered_and_the_line_is_flat(kind):
    a = fit(kind, hidden=(12, 10))
    y = TARGETS[kind][1]
    graph = rb.permutation_graph(a)
    plan = rb.Plan.random(graph, 1)
    b = rb.permute(a, plan, graph)
    result = align(a, b)
    assert result.plan == plan.inverse()
    assert_array_equal(result.model.coefs_[1], a.coefs_[1])
    assert_allclose(outputs(result.merge()), outputs(a))
    curve = rb.connectivity(a, result.model, data=(X, y), lambdas=5)
    assert_allclose(curve.losses, curve.losses[0])
    assert curve.barrier < 1e-9


def test_every_objective_runs_on_real_models(kind):
    a, b = fit(kind, seed=1), fit(kind, seed=2)
    y = TARGETS[kind][1]
    solver = rb.solvers.Sinkhorn(max_steps=3, num_rounds=1)
    for objective in (rb.objectives.Midpoint(None, (X, y)), rb.objectives.RandomPoint(None, (X, y), batch_size=16)):
        result = align(a, b, objective=objective, solver=solver)
        assert result.objective <= result.initial_objective
        assert_allclose(outputs(result.model), outputs(b), rtol=1e-9, atol=1e-12)


def test_activation_matching_recovers_a_planted_permutation(activation):
    a = fit("multiclass", activation)
    graph = rb.permutation_graph(a)
    plan = rb.Plan.random(graph, seed=3)
    b = rb.permute(a, plan, graph)
    objective = rb.objectives.Activations((X, TARGETS["multiclass"][1]))
    result = align(a, b, objective=objective, solver=rb.solvers.ActivationMatching())
    assert plan.compose(result.plan).is_identity
    assert result.objective < 1e-9 < result.initial_objective
    assert [entry.best for entry in result.history] == [result.initial_objective, result.objective]


def test_activation_matching_leaves_a_pinned_layer_alone():
    a, b = fit("multiclass", seed=0), fit("multiclass", seed=1)
    objective = rb.objectives.Activations((X, TARGETS["multiclass"][1]))
    result = align(a, b, objective=objective, solver=rb.solvers.ActivationMatching(), pin=["hidden_1"])
    assert list(result.plan) == ["hidden_2"]


def test_accuracy_is_the_model_s_score(kind):
    a, b = fit(kind, seed=1), fit(kind, seed=2)
    y = TARGETS[kind][1]
    if isinstance(a, MLPRegressor):
        with pytest.raises(SettingError, match=r"no name for a regressor; got 'accuracy'"):
            rb.connectivity(a, b, data=(X, y), metrics=["accuracy"])
        return
    curve = rb.connectivity(a, b, data=(X, y), lambdas=3, metrics=["accuracy"], batch_size=16)
    middle = rb.interpolate(a, b)
    assert_allclose(curve.metrics["accuracy"], [a.score(X, y), middle.score(X, y), b.score(X, y)])
    accuracy = find_adapter(a).metric(a, "accuracy")
    for wrong in (y[:-1], y[:1], np.stack([y, y])):
        with pytest.raises(ShapeError, match="accuracy needs"):
            accuracy(outputs(a), wrong)


@pytest.mark.parametrize(
    "settings", [{}, {"early_stopping": True}, {"warm_start": True}, {"solver": "sgd"}, {"solver": "lbfgs"}]
)
def test_the_copy_can_be_trained_on_without_touching_the_original(settings, unchanged):
    model = fit("multiclass", **settings)
    y = TARGETS["multiclass"][1]
    graph = rb.permutation_graph(model)
    with unchanged(model, X, y), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        copy = rb.permute(model, rb.Plan.random(graph, 1), graph)
        before = outputs(copy)
        if settings.get("solver") != "lbfgs" and not settings.get("early_stopping"):
            copy.partial_fit(X, y)
            assert not np.allclose(outputs(copy), before)
        copy.fit(X, y)
    merged = rb.interpolate(model, rb.permute(model, rb.Plan.identity(graph), graph))
    assert_allclose(outputs(merged), outputs(model))


def test_one_step_of_training_commutes_with_a_permutation():
    """Plain gradient descent with a fresh optimiser is blind to the order of the units."""
    y = TARGETS["multiclass"][1]
    model = MLPClassifier(hidden_layer_sizes=(6, 5), solver="sgd", momentum=0.0, batch_size=60, random_state=0)
    model.partial_fit(X, y, classes=[0, 1, 2])
    graph = rb.permutation_graph(model)
    copy = rb.permute(model, rb.Plan.random(graph, 1), graph)
    for _ in range(3):
        model.partial_fit(X, y)
        copy.partial_fit(X, y)
    assert_allclose(outputs(copy), outputs(model), rtol=1e-9)


def test_a_copy_starts_its_optimiser_afresh():
    """Adam's moments belong to the old order: two copies in different orders must train alike."""
    y = TARGETS["multiclass"][1]
    model = MLPClassifier(hidden_layer_sizes=(6, 5), activation="tanh", batch_size=60, random_state=0)
    for _ in range(5):
        model.partial_fit(X, y, classes=[0, 1, 2])
    graph = rb.permutation_graph(model)
    copies = [rb.permute(model, plan, graph) for plan in (rb.Plan.identity(graph), rb.Plan.random(graph, 1))]
    for copy in copies:
        for _ in range(3):
            copy.partial_fit(X, y)
    assert_allclose(outputs(copies[0]), outputs(copies[1]), rtol=1e-6)


def test_early_stopping_s_best_weights_are_those_of_the_copy():
    model = fit("multiclass", early_stopping=True)
    graph = rb.permutation_graph(model)
    copy = rb.permute(model, rb.Plan.random(graph, 1), graph)
    for best, current in zip(copy._best_coefs, copy.coefs_, strict=True):
        assert_array_equal(best, current)
        assert best is not current


def test_a_copy_survives_a_pickle_and_shares_no_memory(kind):
    model = fit(kind)
    graph = rb.permutation_graph(model)
    for copy in (
        rb.permute(model, rb.Plan.identity(graph), graph),
        rb.interpolate(model, model, 0.0),
        align(model, model).model,
        align(model, model).merge(0),
    ):
        again = pickle.loads(pickle.dumps(copy))
        assert_array_equal(outputs(again), outputs(copy))
        assert_allclose(outputs(copy), outputs(model))
        for mine, theirs in zip(copy.coefs_ + copy.intercepts_, model.coefs_ + model.intercepts_, strict=True):
            assert not np.shares_memory(mine, theirs)


def test_float32_models_stay_float32():
    inputs = X.astype(np.float32)
    a, b = (fit("multiclass", seed=s, inputs=inputs) for s in (1, 2))
    solver = rb.solvers.Sinkhorn(max_steps=3, num_rounds=1)
    y = TARGETS["multiclass"][1]
    result = align(a, b, solver=solver, objective=rb.objectives.RandomPoint(None, (inputs, y)))
    for model in (result.model, result.merge(), rb.interpolate(a, b, np.float64(0.3))):
        assert {W.dtype.name for W in model.coefs_ + model.intercepts_} == {"float32"}
    assert_allclose(outputs(result.model, inputs), outputs(b, inputs), rtol=1e-3, atol=1e-5)


def test_the_classes_keep_their_labels():
    a, b = fit("strings", seed=1), fit("strings", seed=2)
    model = align(a, b).model
    assert_array_equal(model.classes_, ["ant", "bee", "cat"])
    assert set(model.predict(X)) <= {"ant", "bee", "cat"}


def test_a_model_without_hidden_layers_has_nothing_to_permute():
    a, b = fit("multiclass", hidden=(), seed=1), fit("multiclass", hidden=(), seed=2)
    graph = rb.permutation_graph(a)
    assert graph.groups == {}
    assert_array_equal(align(a, b).model.coefs_[0], b.coefs_[0])


def test_pinned_axes_say_why():
    model = fit("multiclass")
    graph = rb.permutation_graph(model, pin=["hidden_1"])
    assert graph.groups == {"hidden_2": 5}
    assert graph.pinned["coefs_.0", 0] == "the input features"
    assert graph.pinned["coefs_.2", 1] == graph.pinned["intercepts_.2", 0] == "the outputs"
    assert graph.pinned["coefs_.0", 1] == "pinned by the user"


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        RandomForestClassifier(),
        BernoulliRBM(),
        make_pipeline(StandardScaler(), MLPClassifier()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_other_estimators_are_refused_by_name(model):
    with pytest.raises(UnsupportedModelError, match=rf"got {type(model).__name__}"):
        rb.permutation_graph(model)


@pytest.mark.parametrize("model", [MLPClassifier(), MLPRegressor()], ids=lambda m: type(m).__name__)
def test_an_unfitted_model_is_refused(model):
    with pytest.raises(UnsupportedModelError, match=rf"this {type(model).__name__} is not fitted"):
        rb.permutation_graph(model)
    with pytest.raises(UnsupportedModelError, match=r"not fitted"):
        align(model, model)


def nan_model():
    model = fit("multiclass")
    model.coefs_[1][0, 0] = np.nan
    return model


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        (lambda: fit("multiclass", "tanh"), UnsupportedModelError, r"activation 'relu', model B 'tanh'"),
        (lambda: fit("strings"), UnsupportedModelError, r"classes_"),
        (lambda: fit("multilabel"), UnsupportedModelError, r"out_activation_"),
        (lambda: fit("several outputs"), UnsupportedModelError, r"model B"),
        (lambda: fit("multiclass", hidden=(7, 5)), ShapeError, r"'coefs_\.0'"),
        (lambda: fit("multiclass", hidden=(6,)), RebasinError, r"'coefs_\.1'"),
        (nan_model, NonFiniteError, r"'coefs_\.1' of model B"),
        (lambda: {"coefs_.0": np.zeros(3)}, UnsupportedModelError, r"A is of scikit-learn, model B of mapping"),
    ],
)
def test_two_models_that_compute_differently_are_refused(other, error, words):
    a, b = fit("multiclass"), other()
    for action in (lambda: align(a, b), lambda: rb.connectivity(a, b, data=(X, X)), lambda: rb.interpolate(a, b)):
        with pytest.raises(error, match=words):
            action()


def test_bad_losses_metrics_and_graphs_are_refused():
    a, b = fit("multiclass", seed=1), fit("multiclass", seed=2)
    data = (X, TARGETS["multiclass"][1])
    with pytest.raises(SettingError, match=r"loss.*'log_loss'"):
        rb.connectivity(a, b, "log_loss", data)
    with pytest.raises(SettingError, match=r"metric.*\"accuracy\"; got 'f1'"):
        rb.connectivity(a, b, data=data, metrics=["f1"])
    with pytest.raises(SpecError, match=r"cannot pin 'hidden_3'"):
        rb.permutation_graph(a, pin=["hidden_3"])
    with pytest.raises(ShapeError, match=r"'coefs_\.0'"):
        align(a, b, graph=rb.permutation_graph(fit("multiclass", hidden=(7, 5))))


@pytest.mark.parametrize("pin", [(), ("hidden_1", "hidden_2")], ids=["units move", "nothing moves"])
def test_an_alignment_stays_as_it_is_while_its_models_are_trained_on(pin):
    a, b = fit("multiclass", seed=1), fit("multiclass", seed=2)
    result = align(a, b, pin=pin)
    assert pin or not result.plan.is_identity
    before = [result.merge(t) for t in (0, 0.5, 1)]
    for model in (a, b, result.model):
        model.partial_fit(X, TARGETS["multiclass"][1])
        for W in (*model.coefs_, *model.intercepts_):
            W *= 2
    for t, merged in zip((0, 0.5, 1), before, strict=True):
        again = result.merge(t)
        for x, y in zip(again.coefs_ + again.intercepts_, merged.coefs_ + merged.intercepts_, strict=True):
            assert_array_equal(x, y)
