"""The search as a whole: what it finds, leaves alone, survives and refuses."""

import json
import random
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pytest
from search_process import SCRIPT, describe, environment, run_search
from small_models import classifier

import keras_swift as ks
from keras_swift.src.search.report import duration

PROBABILITY = "val_tempered_probability"


def noisy_digits(digits, n=600):
    """Two fifths of the labels moved to other classes; clean validation data."""
    generator = np.random.default_rng(0)
    x, y = digits
    wrong = generator.random(n) < 0.4
    labels = np.where(wrong, (y[:n] + generator.integers(1, 10, n)) % 10, y[:n])
    return x[:n], labels, wrong, (x[n : n + 500], y[n : n + 500])


def small_search(digits, model=None, **arguments):
    x, y, _, validation = noisy_digits(digits, 200)
    settings = {
        "x": x,
        "y": y,
        "max_trials": 3,
        "finetune_epochs": 1,
        "pretrain_epochs": 1,
        "batch_size": 50,
        "confirm": 0,
        "validation_data": validation,
        "seed": 0,
        "verbose": 0,
    }
    model = classifier() if model is None else model
    return ks.search(model, **{**settings, **arguments})


def test_search_finds_a_sampler_that_leaves_wrong_labels_out(digits, capsys):
    x, y, wrong, validation = noisy_digits(digits)
    result = ks.search(
        classifier(0.3),
        x,
        y,
        validation_data=validation,
        max_trials=8,
        finetune_epochs=2,
        pretrain_epochs=10,
        seed=0,
        verbose=1,
    )
    said = capsys.readouterr().out
    assert "the price is at most 3.6 uniform trainings besides that one" in said
    pattern = r"Pretrained in (\d+) s. At that speed 8 trials take about (\d+) s, and confirming"
    spent, trials = map(int, re.search(pattern, said).groups())
    # Sixteen epochs at the speed of ten; both were rounded.
    assert abs(trials - 1.6 * spent) <= 1.5
    assert "best: 0." in said and "Training the best from scratch" in said
    assert len(result.trials) == 8
    assert result.uniform.sampler.is_uniform and result.trials[0] is result.uniform
    assert (result.objective, result.direction) == (PROBABILITY, "max")
    # Uniform and the two best, from scratch: that gain is the one that counts.
    uniform, *best = result.confirmed
    assert uniform.number == 0 and len(best) == 2
    confirmed = {trial.number: trial for trial in best}
    chosen = confirmed[result.best.number]
    assert result.gain == pytest.approx(chosen.objective - uniform.objective)
    label = "val_label_probability"
    assert chosen.metrics[label] - uniform.metrics[label] > 0.2
    assert result.best.metrics[label] - result.uniform.metrics[label] > 0.05
    assert result.gain > -result.noise and result.noise > 0
    # Uniform draws 0.4.
    assert result.probabilities[wrong].sum() < 0.1
    assert result.loss_deciles.sum() == pytest.approx(1.0)
    assert result.price == pytest.approx((8 * 2 + 2 * 10) / 10)
    assert wrong[result.suspects()].mean() > 0.85
    assert abs(result.wrong_share.estimate - wrong.mean()) < 0.05
    text = str(result)
    for part in ("8 trials", "from scratch  uniform", "3.6 uniform trainings", "chosen", "noise"):
        assert part in text


@pytest.mark.slow
def test_a_sampler_gains_at_one_confidence_where_training_memorises(digits):
    x, y, _, validation = noisy_digits(digits, 400)
    result = ks.search(
        classifier(),
        x,
        y,
        validation_data=validation,
        max_trials=8,
        finetune_epochs=2,
        pretrain_epochs=30,
        seed=0,
        verbose=0,
    )
    uniform, *best = result.confirmed
    assert result.gain == pytest.approx(max(t.objective for t in best) - uniform.objective)
    assert result.gain > 2 * result.noise > 0
    chosen = next(trial for trial in best if trial.number == result.best.number)
    assert chosen.metrics["val_label_accuracy"] > uniform.metrics["val_label_accuracy"]


def test_times_are_said_in_the_largest_unit_of_which_there_are_two():
    said = [duration(seconds) for seconds in (1.4, 119.0, 125.0, 7100.0, 7300.0)]
    assert said == ["1 s", "119 s", "2 min", "118 min", "2 h"]


@pytest.mark.slow
def test_a_hurried_search_does_no_harm_on_clean_digits(digits):
    """The settings that once cost 1.4 to 13.5 points of test accuracy from scratch."""
    x, y = digits
    settings = {"batch_size": 32, "epochs": 10, "verbose": 0}
    accuracies = []
    result = ks.search(
        classifier(),
        x[:600],
        y[:600],
        validation_data=(x[600:900], y[600:900]),
        objective="val_loss",
        max_trials=8,
        pretrain_epochs=10,
        finetune_epochs=2,
        seed=0,
        verbose=0,
    )
    for sampler in (ks.SwiftSampler.uniform(result.sampler.features), result.sampler):
        model = classifier()
        training = ks.SwiftTraining(model, sampler, features=result.features, seed=1)
        training.fit(x[:600], y[:600], **settings)
        logs = model.evaluate(x[900:], y[900:], verbose=0, return_dict=True)
        accuracies.append(logs["accuracy"])
    # The standard error of the difference of two trainings is about a point.
    assert accuracies[1] > accuracies[0] - 0.01
    assert len(result.confirmed) == 3


def noted_fits(model, monkeypatch, callbacks=()):
    """What each call of `model.fit` begins with: its first batch, and the variables' values."""
    fit, begun = model.fit, []

    def noted(dataset, **keywords):
        values = [variable.value for variable in (*model.variables, *model.optimizer.variables)]
        begun.append((dataset[0][0].copy(), [np.array(to_numpy(value)) for value in values]))
        return fit(dataset, **{**keywords, "callbacks": [*keywords["callbacks"], *callbacks]})

    monkeypatch.setattr(model, "fit", noted)
    return begun


to_numpy = keras.ops.convert_to_numpy


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_confirmation_trains_from_the_state_the_model_came_in(digits, monkeypatch):
    model = trained_model(digits)
    begun = noted_fits(model, monkeypatch)
    variables = [*model.variables, *model.optimizer.variables]
    came = [np.array(to_numpy(variable.value)) for variable in variables]
    result = small_search(digits, model, confirm=1)
    pretraining, *trials, confirmation = begun
    assert len(trials) == 3
    # From scratch means as the model came.
    assert_equal(pretraining[1], came)
    assert_equal(confirmation[1], came)
    uniform, best = result.confirmed
    assert result.trials[best.number].sampler == best.sampler
    # The uniform training is the pretraining, whose averaged weights the result holds.
    model.set_weights(result.pretrained_weights)
    _, _, _, (xv, yv) = noisy_digits(digits, 200)
    logs = model.evaluate(xv, yv, verbose=0, return_dict=True)
    assert uniform.metrics["val_accuracy"] == pytest.approx(logs["accuracy"])
    assert uniform.metrics["val_loss"] == pytest.approx(logs["loss"], rel=1e-4)


@pytest.mark.slow
def test_nothing_is_confirmed_without_pretraining_or_when_not_asked(digits, capsys):
    trusted = small_search(digits, confirm=0)
    assert trusted.confirmed == () and "not confirmed\n" in str(trusted)
    settings = {"pretrain_epochs": 0, "confirm": 2, "verbose": 1}
    trained = small_search(digits, trained_model(digits), **settings)
    assert trained.confirmed == ()
    assert "not confirmed: there was no pretraining to repeat" in str(trained)
    assert "nothing is confirmed without `pretrain_epochs`" in capsys.readouterr().out


def test_gain_is_how_much_lower_a_loss_is(digits):
    result = small_search(digits, objective="val_loss", max_trials=4, pretrain_epochs=5)
    assert result.direction == "min"
    assert result.best.objective <= result.uniform.objective
    assert result.gain == result.uniform.objective - result.best.objective


@pytest.mark.any_backend
def test_suspects_are_ranked_by_the_record_of_the_pretraining(digits):
    from sklearn.metrics import roc_auc_score

    result = small_search(digits, max_trials=1, pretrain_epochs=20)
    wrong = noisy_digits(digits, 200)[2]
    np.testing.assert_array_equal(result.suspicion, -result.record.mean_margin)
    assert roc_auc_score(wrong, result.suspicion) > 0.83
    assert result.suspects(5).tolist() == np.argsort(-result.suspicion)[:5].tolist()


def variables(model):
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    arrays = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in found]
    return [*arrays, model.optimizer.get_config()["learning_rate"]]


def assert_as_it_came(model, before):
    for ours, theirs in zip(variables(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def trained_model(digits):
    """A model in the middle of its life: momentum and dropout have states."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits[0][:100], digits[1][:100], verbose=0)
    return model


def test_model_leaves_as_it_came(digits):
    model = trained_model(digits)
    before, optimizer, history = variables(model), model.optimizer, model.history
    result = small_search(digits, model)
    assert_as_it_came(model, before)
    assert model.optimizer is optimizer and model.history is history
    # Something was trained in between.
    moved = [
        not np.array_equal(ours, theirs)
        for ours, theirs in zip(model.get_weights(), result.pretrained_weights, strict=True)
    ]
    assert any(moved)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.any_backend
def test_model_leaves_as_it_came_when_interrupted(digits, error, monkeypatch):
    model = trained_model(digits)
    before = variables(model)
    fit, calls = model.fit, []

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(calls) == 3 and batch == 1:
                raise error("stop")

    def counted(*arguments, callbacks, **keywords):
        calls.append(1)
        return fit(*arguments, callbacks=[*callbacks, Interrupt()], **keywords)

    monkeypatch.setattr(model, "fit", counted)
    # Our own errors come out as they are, and are not a failed trial.
    with pytest.raises(error, match="stop"):
        small_search(digits, model)
    assert len(calls) == 3
    assert_as_it_came(model, before)


def test_every_trial_starts_from_the_same_state(digits, monkeypatch):
    model = trained_model(digits)
    begun = noted_fits(model, monkeypatch)
    small_search(digits, model)
    pretraining, *trials = begun
    assert len(trials) == 3
    # The pretraining ended with other draws than the trials begin with.
    assert not np.array_equal(pretraining[0], trials[0][0])
    for _, state in trials:
        assert_equal(state, trials[0][1])


def test_a_seeded_search_does_not_depend_on_global_generators(digits, monkeypatch):
    """PyTorch's dropout draws from one, other layers and steps may."""
    found, drawn = [], []

    class Draws(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            drawn.append((random.random(), np.random.random(), float(keras.random.uniform(()))))

    for _ in range(2):
        model = trained_model(digits)
        for _ in found:
            random.random(), np.random.random(), keras.random.uniform(())
            keras.layers.Dropout(0.5)(np.ones((1, 64)), training=True)
        # The state of a layer is the model's own.
        model.layers[1].seed_generator.state.assign([1, 0])
        noted_fits(model, monkeypatch, [Draws()])
        before = random.getstate(), np.random.get_state()[1].copy()
        drawn.clear()
        result = small_search(digits, model, confirm=1)
        assert random.getstate() == before[0]
        assert np.array_equal(np.random.get_state()[1], before[1])
        found.append((describe(result), [*drawn]))
    assert found[0] == found[1]
    # Trials begin with the same numbers, and one training does not repeat them.
    assert len(set(found[0][1])) == len(found[0][1]) - 2 * 4 - 4


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX empties variables inside `fit`")
def test_trials_are_judged_by_the_mean_of_their_second_half(digits, monkeypatch):
    steps, judged = [], []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([weight.copy() for weight in self.model.get_weights()])

    model = trained_model(digits)
    noted_fits(model, monkeypatch, [Steps()])
    evaluate = model.evaluate

    def recorded(*arguments, **keywords):
        judged.append([weight.copy() for weight in model.get_weights()])
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(model, "evaluate", recorded)
    _, _, _, (xv, yv) = noisy_digits(digits, 200)
    result = small_search(digits, model, finetune_epochs=2, max_trials=2, batch_size=50)
    # The pretraining, an epoch of four steps; then trials of two, the mean over the last half.
    # The first evaluation finds out what the model reports.
    ends = [(steps[0:4], judged[1]), (steps[8:12], judged[2]), (steps[16:20], judged[3])]
    for weights_of_steps, weights in ends:
        for k, weight in enumerate(weights):
            mean = np.mean([step[k] for step in weights_of_steps], axis=0)
            np.testing.assert_allclose(weight, mean, rtol=1e-5, atol=1e-6)
    for weights, trial in zip(judged[2:], result.trials, strict=True):
        model.set_weights(weights)
        logs = evaluate(xv, yv, verbose=0, return_dict=True)
        label = model.predict(xv, verbose=0)[np.arange(len(yv)), yv]
        assert trial.metrics["val_label_probability"] == pytest.approx(label.mean(), rel=1e-5)
        assert trial.objective == pytest.approx(trial.values.mean())
        assert trial.metrics["val_accuracy"] == pytest.approx(logs["accuracy"])
        assert trial.metrics["val_loss"] == pytest.approx(logs["loss"], rel=1e-5)


@pytest.mark.any_backend
def test_pretraining_of_zero_epochs_takes_the_model_as_it_is(digits):
    model = trained_model(digits)
    x, y, _, _ = noisy_digits(digits, 200)
    expected = ks.compute_features(model, x, y, ("loss",), verbose=0)["loss"]
    result = small_search(digits, model, pretrain_epochs=0)
    np.testing.assert_allclose(result.record.mean_loss, expected, rtol=1e-5)
    assert np.isnan(result.price) and result.epochs == 3 + 1 / 3


@pytest.mark.any_backend
def test_one_seed_gives_one_search_and_leaves_global_generators_alone(digits):
    models = [classifier() for _ in range(3)]
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].copy()
    first, second, other = (
        small_search(digits, model, seed=seed)
        for model, seed in zip(models, (5, 5, 6), strict=True)
    )
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert describe(first) == describe(second)
    assert describe(first) != describe(other)


@pytest.mark.slow
def test_validation_split_is_held_out_of_training_and_features(digits):
    x, y, _, _ = noisy_digits(digits, 200)
    split = small_search(digits, validation_data=None, validation_split=0.5)
    validation = (x[100:], y[100:])
    settings = {"max_trials": 3, "finetune_epochs": 1, "pretrain_epochs": 1, "batch_size": 50}
    apart = ks.search(
        classifier(), x[:100], y[:100], validation, **settings, confirm=0, seed=0, verbose=0
    )
    assert describe(split) == describe(apart)
    ks.SwiftTraining(classifier(), split).fit(x, y, validation_split=0.5, verbose=0)


@pytest.mark.parametrize("feature", [5, [1.0, 2.0]])
def test_features_of_another_length_are_named_before_training(digits, feature, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(ValueError, match=r"`feature_0` must have the shape \(150,\)"):
        ks.search(
            classifier(),
            digits[0][:200],
            digits[1][:200],
            validation_split=0.25,
            space=ks.SamplerSpace([feature]),
            pretrain_epochs=1,
            verbose=0,
        )


@pytest.mark.slow
def test_arrays_of_features_are_cut_with_the_data(digits):
    result = small_search(
        digits,
        validation_data=None,
        validation_split=0.5,
        space=ks.SamplerSpace({"mine": np.arange(200.0)}),
    )
    assert result.features["mine"].tolist() == list(range(100))
    assert result.suspicion.shape == (100,)


@pytest.mark.slow
def test_result_trains_and_recognises_its_data(digits):
    x, y, _, _ = noisy_digits(digits, 200)
    result = small_search(digits)
    model = classifier()
    history = ks.SwiftTraining(model, result, seed=0).fit(x, y, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    with pytest.raises(ValueError, match="the search had 200.*pass `reference`"):
        ks.SwiftTraining(classifier(), result).fit(x[:100], y[:100])
    with pytest.raises(ValueError, match="same order.*with other contents"):
        ks.SwiftTraining(classifier(), result).fit(x[::-1], y[::-1])
    with pytest.raises(ValueError, match="record of training.*Pass `features=`"):
        ks.SwiftTraining(classifier(), result, reference=classifier()).fit(x[:100], y[:100])
    features = ("loss", "renormed_entropy")
    result = small_search(digits, space=ks.SamplerSpace(features))
    reference = classifier()
    reference.set_weights(result.pretrained_weights)
    ks.SwiftTraining(classifier(), result, reference=reference).fit(x[:100], y[:100], verbose=0)
    # A record of the other data serves as well.
    found = ks.find_suspects(classifier(), x[:100], y[:100], epochs=1, verbose=0)
    result = small_search(digits, space=ks.SamplerSpace(transform="cdf"))
    columns = ks.compute_features(
        classifier(), x[:100], y[:100], result.sampler.features, record=found.record, verbose=0
    )
    training = ks.SwiftTraining(classifier(), result, features=columns)
    training.fit(x[:100], y[:100], verbose=0)


@pytest.mark.parametrize(
    ("objective", "name", "direction"),
    [
        (None, "val_tempered_probability", "max"),
        ("val_accuracy", "val_accuracy", "max"),
        ("val_loss", "val_loss", "min"),
        pytest.param(
            keras_tuner.Objective("val_loss", "max"), "val_loss", "max", marks=pytest.mark.slow
        ),
        (["val_loss", "val_accuracy"], "multi_objective", "min"),
    ],
)
@pytest.mark.any_backend
def test_objectives(digits, objective, name, direction):
    result = small_search(digits, objective=objective)
    assert (result.objective, result.direction) == (name, direction)
    assert len(result.uniform.values) == (500 if name in ("val_loss", PROBABILITY) else 10)
    assert np.isfinite(result.noise)
    metrics = result.uniform.metrics
    if name == "multi_objective":
        assert metrics[name] == pytest.approx(metrics["val_loss"] - metrics["val_accuracy"])
    else:
        assert result.uniform.objective == metrics[name]


@pytest.mark.slow
def test_no_metric_has_to_be_compiled(digits):
    result = small_search(digits, classifier(metrics=None))
    assert (result.objective, result.direction) == (PROBABILITY, "max")


def regression(x, units=1, activation=None, loss="mse"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(units, activation)])
    model.compile("adam", loss)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "poisson"])
def test_whole_numbers_are_no_classes_where_the_loss_is_of_numbers(digits, loss):
    # Counts, of which most are missing from the validation data.
    x, y = digits[0][:200], np.arange(200)
    validation = (digits[0][600:700], np.arange(100) % 7)
    model = regression(x, activation="softplus", loss=loss)
    result = ks.search(
        model, x, y, validation, max_trials=3, pretrain_epochs=2, finetune_epochs=1, verbose=0
    )
    assert (result.objective, result.direction) == ("val_loss", "min")
    assert result.sampler.features == ("mean_loss", "last_loss") and result.classes is None
    assert "in place of mean_margin, last_loss, which are for classifiers" in str(result)
    np.testing.assert_array_equal(result.suspicion, result.record.mean_loss)


@pytest.mark.slow
def test_a_clean_regression_is_not_harmed(digits):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 64)).astype("float32")
    y = (x[:, :3] @ [1.0, -2.0, 0.5] + 0.3 * generator.normal(size=500)).astype("float32")
    parts = [slice(0, 250), slice(250, 350), slice(350, 500)]
    (xt, yt), held, (xe, ye) = [(x[rows], y[rows]) for rows in parts]
    result = ks.search(
        regression(x),
        xt,
        yt,
        held,
        max_trials=8,
        pretrain_epochs=20,
        finetune_epochs=2,
        seed=0,
        verbose=0,
    )
    losses = []
    for sampler in (ks.SwiftSampler.uniform(result.sampler.features), result.sampler):
        model = regression(x)
        training = ks.SwiftTraining(model, sampler, features=result.features, seed=1)
        training.fit(xt, yt, epochs=20, verbose=0)
        losses.append(model.evaluate(xe, ye, verbose=0, return_dict=True)["loss"])
    assert losses[1] < 1.02 * losses[0]


@pytest.mark.parametrize("units", [1, 3])
def test_binary_and_several_labels_have_defaults_that_work(digits, units):
    y = (digits[1][:, None] % np.arange(2, 2 + units) == 0).astype("float32")
    result = ks.search(
        regression(digits[0], units, "sigmoid", "binary_crossentropy"),
        digits[0][:200],
        y[:200],
        (digits[0][200:300], y[200:300]),
        max_trials=3,
        pretrain_epochs=1,
        finetune_epochs=1,
        verbose=0,
    )
    assert result.sampler.features == ("mean_margin", "last_loss")
    assert result.objective == PROBABILITY and "in place of" not in str(result)


@pytest.mark.any_backend
def test_data_sets_serve_as_validation_data(digits):
    x, y, _, (xv, yv) = noisy_digits(digits, 200)

    class Batches(keras.utils.PyDataset):
        num_batches = 5

        def __getitem__(self, index):
            rows = slice(100 * index, 100 * index + 100)
            return xv[rows], yv[rows]

    assert describe(small_search(digits, validation_data=Batches())) == describe(
        small_search(digits)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_data": ((0, 0) for _ in iter(int, 1))}, "`validation_data` must be data"),
        ({"x": (0 for _ in range(3)), "y": None}, "`x` must be data that has an end"),
    ],
)
def test_streams_are_named_before_anything_is_trained(digits, arguments, message, monkeypatch):
    monkeypatch.setattr(keras.Sequential, "fit", None)
    x, y, _, validation = noisy_digits(digits, 200)
    settings = {"x": x, "y": y, "validation_data": validation, **arguments}
    with pytest.raises(TypeError, match=message):
        ks.search(classifier(), **settings)


@pytest.mark.slow
def test_a_data_set_is_searched_as_the_arrays_it_holds(digits):
    x, y, _, validation = noisy_digits(digits, 200)

    class Batches(keras.utils.PyDataset):
        num_batches = 4

        def __getitem__(self, index):
            return x[50 * index : 50 * index + 50], y[50 * index : 50 * index + 50]

    settings = {
        "max_trials": 2,
        "pretrain_epochs": 1,
        "finetune_epochs": 1,
        "validation_data": validation,
        "confirm": 0,
        "seed": 0,
        "verbose": 0,
    }
    results = [ks.search(classifier(), *data, **settings) for data in ((Batches(),), (x, y))]
    assert describe(results[0]) == describe(results[1])
    first, second = (classifier(), classifier())
    ks.SwiftTraining(first, results[0], seed=0).fit(Batches(), verbose=0)
    ks.SwiftTraining(second, results[0], seed=0).fit(x, y, verbose=0)
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_price_of_the_defaults_is_at_most_three_trainings(digits, capsys, monkeypatch):
    model = classifier()

    def fit(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "fit", fit)
    x, y, _, validation = noisy_digits(digits, 200)
    with pytest.raises(KeyboardInterrupt):
        ks.search(model, x, y, validation_data=validation)
    price = float(re.search(r"at most (\S+) uniform trainings", capsys.readouterr().out)[1])
    assert price <= 3.0


@pytest.mark.slow
def test_a_diverging_sampler_is_a_failure_and_never_the_best(digits, monkeypatch):
    model = classifier()
    evaluate, losses = model.evaluate, []

    def diverging(*arguments, **keywords):
        logs = evaluate(*arguments, **keywords)
        losses.append(1)
        # The first finds out what the model reports, the second is of the pretraining.
        if len(losses) in (4, 5):
            logs = {**logs, "loss": [np.nan, np.inf][len(losses) - 4]}
        return logs

    monkeypatch.setattr(model, "evaluate", diverging)
    result = small_search(digits, model, max_trials=5, objective="val_loss")
    assert [trial.status for trial in result.trials] == ["COMPLETED"] + ["FAILED"] * 2 + [
        "COMPLETED"
    ] * 2
    assert np.isnan(result.trials[1].objective) and np.isfinite(result.best.objective)
    assert "5 trials of 1 epochs, 2 failed" in str(result)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_data": None}, ValueError, "`validation_data` must be given"),
        ({"max_trials": 0}, ValueError, "`max_trials` must be"),
        ({"pretrain_epochs": -1}, ValueError, "`pretrain_epochs` must be an int of 0 or more"),
        ({"confirm": -1}, ValueError, "`confirm` must be an int of 0 or more"),
        ({"confirm": 0.5}, TypeError, "`confirm` must be an int"),
        ({"y": None}, ValueError, "`y` must be given"),
        ({"objective": "val_loss_of_hair"}, ValueError, "`objective` must be .*Could not infer"),
        ({"objective": "val_precision"}, ValueError, "among what the model reports.*val_accuracy"),
        ({"method": "grid"}, ValueError, "`method` must be one of"),
        ({"space": ("loss",)}, TypeError, "`space` must be a `keras_swift.SamplerSpace`"),
    ],
)
def test_wrong_arguments_are_refused(digits, arguments, error, message):
    with pytest.raises(error, match=message):
        small_search(digits, **arguments)


@pytest.mark.parametrize("one_hot", [False, True])
def test_missing_classes_are_named(digits, one_hot):
    x, y, _, (xv, yv) = noisy_digits(digits, 200)
    kept = (yv != 3) & (yv != 7)
    labels = np.eye(10)[yv] if one_hot else yv
    loss = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
    with pytest.raises(ValueError, match="2 of 10 classes missing from it: 3, 7"):
        ks.search(
            classifier(loss=loss),
            x,
            np.eye(10)[y] if one_hot else y,
            validation_data=(xv[kept], labels[kept]),
            verbose=0,
        )


@pytest.mark.slow
def test_finished_search_is_taken_up_without_training(digits, tmp_path, monkeypatch):
    first = run_search(tmp_path, max_trials=3)

    def fail(*arguments, **keywords):
        raise AssertionError("trained")

    monkeypatch.setattr(keras.Sequential, "fit", fail)
    assert describe(run_search(tmp_path, max_trials=3)) == describe(first)
    assert describe(run_search(tmp_path, max_trials=3, seed=None)) == describe(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"space": ks.SamplerSpace(("loss",), 3)}, "the settings differ"),
        ({"seed": 1}, "the seed differ"),
        ({"sample_weight": np.ones(300)}, "the data differ"),
    ],
)
def test_directory_of_another_search_is_refused(tmp_path, changes, named):
    run_search(tmp_path, max_trials=1)
    with pytest.raises(ValueError, match=f"belongs to another one: {named}.*overwrite=True"):
        run_search(tmp_path, max_trials=1, **changes)
    result = run_search(tmp_path, max_trials=1, overwrite=True, **changes)
    assert len(result.trials) == 1


@pytest.mark.slow
def test_directory_notices_another_model(digits, tmp_path):
    small_search(digits, directory=tmp_path, max_trials=1)
    with pytest.raises(ValueError, match="the model differ"):
        small_search(digits, classifier(0.2), directory=tmp_path, max_trials=1)
    model = classifier()
    small_search(digits, model, directory=tmp_path / "b", max_trials=1, pretrain_epochs=0)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    with pytest.raises(ValueError, match="the model differ"):
        small_search(digits, model, directory=tmp_path / "b", max_trials=1, pretrain_epochs=0)


def test_a_folder_of_another_kind_is_explained(tmp_path):
    folder = tmp_path / "swift_search"
    folder.mkdir()
    (folder / "oracle.json").write_text("{}")
    with pytest.raises(ValueError, match="a KerasTuner project of another kind"):
        run_search(tmp_path)


def start(directory, output, kill_in=-5, **changes):
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, output, str(kill_in)],
        env=environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


# KerasTuner's part is alike on every backend, and what a trial does there is tested above.
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_killed_search_goes_on_as_an_unbroken_one(tmp_path):
    # Trials 0 to 3 are the initial design: one kill in it, one in a trial that a fit suggested.
    for kill_in in (2, 3):
        process = start(tmp_path / "killed", tmp_path / "never.json", kill_in)
        errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, errors
    trials = sorted((tmp_path / "killed" / "swift_search").glob("trial_*/trial.json"))
    assert len(trials) == 6 and completed(tmp_path / "killed") == 5
    finished = trials[:5]
    times = {path: path.stat().st_mtime_ns for path in finished}
    resumed = describe(run_search(tmp_path / "killed"))
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    unbroken = describe(run_search(tmp_path / "whole"))
    assert [trial[:-1] for trial in resumed["trials"]] == [
        trial[:-1] for trial in unbroken["trials"]
    ]
    assert resumed == unbroken


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="run on one backend")
def test_a_chief_and_two_workers_share_a_search(tmp_path):
    port = free_port()
    names = ["chief", "worker0", "worker1"]
    processes = [
        start(
            tmp_path / "shared",
            tmp_path / f"{name}.json",
            KERASTUNER_TUNER_ID=name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=port,
        )
        for name in names
    ]
    try:
        for process in processes:
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in names]
    chief = results[0]
    assert len(chief["trials"]) == 8
    assert all(np.isfinite(trial[-1]) for trial in chief["trials"])
    assert len({tuple(trial[:-1]) for trial in chief["trials"]}) == 8
    # All of them worked from one start, whoever made it.
    assert all(result["loss"] == chief["loss"] for result in results)
    # A worker's result holds what was finished when it was.
    assert all(len(result["trials"]) == 8 for result in results)
    # A worker that comes too late for any trial finds the chief gone, and needs none.
    late = start(
        tmp_path / "shared",
        tmp_path / "late.json",
        KERASTUNER_TUNER_ID="worker2",
        KERASTUNER_ORACLE_IP="127.0.0.1",
        KERASTUNER_ORACLE_PORT=port,
    )
    errors = late.communicate(timeout=120)[1]
    assert late.returncode == 0, errors
    assert json.loads((tmp_path / "late.json").read_text()) == chief


def completed(directory):
    files = list((directory / "swift_search").glob("trial_*/trial.json"))
    return sum('"status": "COMPLETED"' in file.read_text() for file in files)


@pytest.mark.product
def test_a_killed_worker_and_a_killed_chief_lose_nothing(tmp_path):
    port, running = free_port(), {}

    def begin(name, kill_in=-5):
        running[name] = start(
            tmp_path / "shared",
            tmp_path / f"{name}.json",
            kill_in,
            KERASTUNER_TUNER_ID=name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=port,
        )

    try:
        begin("chief")
        begin("worker0", kill_in=1)
        running["worker0"].communicate(timeout=300)
        assert running["worker0"].returncode == -signal.SIGKILL
        before = completed(tmp_path / "shared")
        # The same worker comes back to the trial that it had begun.
        begin("worker0")
        deadline = time.monotonic() + 300
        while completed(tmp_path / "shared") < before + 2:
            assert running["worker0"].poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        running["chief"].kill()
        # KerasTuner's worker waits for its chief to come back, so it is stopped too.
        time.sleep(1)
        assert running["worker0"].poll() is None
        running["worker0"].kill()
        for process in running.values():
            process.communicate()
        port = free_port()
        begin("chief")
        begin("worker0")
        for process in running.values():
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    shared = json.loads((tmp_path / "chief.json").read_text())
    # One worker makes the trials one after another, as a search in one process does.
    assert shared == json.loads(json.dumps(describe(run_search(tmp_path / "whole"))))


@pytest.mark.slow
@pytest.mark.parametrize("over", [True, False])
def test_broken_connection_is_an_error_only_before_the_end(digits, tmp_path, monkeypatch, over):
    small_search(digits, directory=str(tmp_path))

    def broken(*arguments, **named):
        raise RuntimeError("Socket closed")

    # The chief may leave between a worker's look at the trials and its next request.
    monkeypatch.setattr("keras_swift.src.search.session.trials_left", lambda *arguments: 1)
    monkeypatch.setattr(
        "keras_swift.src.search.stages.trials_left", lambda *arguments: int(not over)
    )
    monkeypatch.setattr("keras_swift.src.search.tuner.SwiftTuner", broken)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    if over:
        assert len(small_search(digits, directory=str(tmp_path)).trials) == 3
    else:
        with pytest.raises(RuntimeError, match="Socket closed"):
            small_search(digits, directory=str(tmp_path))


def test_distributed_search_needs_a_directory(digits, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(ValueError, match="needs a `directory` that all of them reach"):
        small_search(digits)
