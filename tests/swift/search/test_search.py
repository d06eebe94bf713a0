"""The search as a whole: what it finds, leaves alone, survives and refuses."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
from search_process import describe, run_search
from small_models import classifier

import keras_swift as ks
from keras_swift.swift.search.run import SearchRun

SCRIPT = pathlib.Path(__file__).parents[2] / "search_process.py"


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
        "max_trials": 3,
        "finetune_epochs": 1,
        "pretrain_epochs": 1,
        "batch_size": 50,
        "validation_data": validation,
        "seed": 0,
        "verbose": 0,
    }
    model = classifier() if model is None else model
    return ks.search(model, x, y, **{**settings, **arguments})


def test_search_finds_a_sampler_that_leaves_wrong_labels_out(digits):
    x, y, wrong, validation = noisy_digits(digits)
    result = ks.search(
        classifier(0.3),
        x,
        y,
        validation_data=validation,
        max_trials=16,
        finetune_epochs=3,
        pretrain_epochs=10,
        seed=0,
        verbose=0,
    )
    assert len(result.trials) == 16
    assert result.uniform.sampler.is_uniform and result.trials[0] is result.uniform
    # Two accuracies on 500 examples.
    mean = np.mean([trial.objective for trial in result.trials])
    assert result.tolerance == pytest.approx(np.sqrt(2 * 0.4 * mean * (1 - mean) / 500))
    best = max(trial.objective for trial in result.trials)
    assert best - result.tolerance <= result.best.objective <= best
    assert best - result.uniform.objective > 0.02 and result.gain > 0
    # Uniform draws 0.4.
    assert result.probabilities[wrong].sum() < 0.25
    assert result.loss_deciles().sum() == pytest.approx(1.0)
    assert result.price == pytest.approx(16 * 3 / 10)
    assert wrong[result.suspects(100)].mean() > 0.9
    text = str(result)
    for part in ("16 trials", "uniform val_accuracy", "4.8 uniform trainings of 10 epochs", "gain"):
        assert part in text


def test_gain_is_how_much_lower_a_loss_is(digits):
    result = small_search(digits, objective="val_loss", max_trials=4, pretrain_epochs=5)
    assert result.best.objective <= result.uniform.objective
    assert result.gain == result.uniform.objective - result.best.objective


def test_suspects_are_not_behind_ranking_by_loss(digits):
    from sklearn.metrics import roc_auc_score

    x, y, wrong, validation = noisy_digits(digits)
    result = small_search(digits, max_trials=1, pretrain_epochs=20, validation_data=validation)
    wrong = noisy_digits(digits, 200)[2]
    by_loss = roc_auc_score(wrong, result.features["loss"])
    assert roc_auc_score(wrong, result.suspicion) >= by_loss > 0.8
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
    module = sys.modules["keras_swift.swift.search.run"]
    seen = []

    class Spy(module.DrawnDataset):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            seen.append((keywords["seed"], variables(model)))

    monkeypatch.setattr(module, "DrawnDataset", Spy)
    model = trained_model(digits)
    small_search(digits, model)
    (_, _), *trials = seen
    assert len(trials) == 3
    for seed, state in trials:
        assert seed == trials[0][0]
        for ours, theirs in zip(state, trials[0][1], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_trials_are_judged_by_the_mean_of_their_second_half(digits, monkeypatch):
    module = sys.modules["keras_swift.swift.search.run"]
    asked, judged = [], []

    class Spy(module.WeightAverage):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            asked.append(arguments)

    monkeypatch.setattr(module, "WeightAverage", Spy)
    model = trained_model(digits)
    evaluate = model.evaluate

    def recorded(*arguments, **keywords):
        judged.append([weight.copy() for weight in model.get_weights()])
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(model, "evaluate", recorded)
    _, _, _, (xv, yv) = noisy_digits(digits, 200)
    result = small_search(digits, model, finetune_epochs=2, max_trials=2, batch_size=50)
    # The pretraining, an epoch of four steps; then trials of two, the mean over the last half.
    assert asked == [(1, 4, 4), (2, 4, 4), (2, 4, 4)]
    # The first evaluation finds out what the model reports.
    for weights, trial in zip(judged[1:], result.trials, strict=True):
        model.set_weights(weights)
        logs = evaluate(xv, yv, verbose=0, return_dict=True)
        assert trial.objective == pytest.approx(logs["accuracy"])
        assert trial.metrics["val_loss"] == pytest.approx(logs["loss"], rel=1e-5)


def test_pretraining_of_zero_epochs_takes_the_model_as_it_is(digits):
    model = trained_model(digits)
    x, y, _, _ = noisy_digits(digits, 200)
    expected = ks.compute_features(model, x, y, ("loss",), verbose=0)["loss"]
    result = small_search(digits, model, pretrain_epochs=0)
    np.testing.assert_allclose(result.features["loss"], expected, rtol=1e-5)
    assert np.isnan(result.price) and "3 epochs;" in str(result)


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


def test_validation_split_is_held_out_of_training_and_features(digits):
    x, y, _, _ = noisy_digits(digits, 200)
    split = small_search(digits, validation_data=None, validation_split=0.5)
    validation = (x[100:], y[100:])
    settings = {"max_trials": 3, "finetune_epochs": 1, "pretrain_epochs": 1, "batch_size": 50}
    apart = ks.search(classifier(), x[:100], y[:100], validation, **settings, seed=0, verbose=0)
    assert describe(split) == describe(apart)
    ks.SwiftTraining(classifier(), split).fit(x, y, validation_split=0.5, verbose=0)


def test_arrays_of_features_are_cut_with_the_data(digits):
    result = small_search(
        digits, validation_data=None, validation_split=0.5, features={"mine": np.arange(200.0)}
    )
    assert result.features["mine"].tolist() == list(range(100))
    assert result.suspicion.shape == (100,)


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
    reference = classifier()
    reference.set_weights(result.pretrained_weights)
    ks.SwiftTraining(classifier(), result, reference=reference).fit(x[:100], y[:100], verbose=0)


@pytest.mark.parametrize(
    ("objective", "name", "direction"),
    [
        (None, "val_accuracy", "max"),
        ("val_loss", "val_loss", "min"),
        (keras_tuner.Objective("val_loss", "max"), "val_loss", "max"),
        (["val_loss", "val_accuracy"], "multi_objective", "min"),
    ],
)
def test_objectives(digits, objective, name, direction):
    result = small_search(digits, objective=objective)
    assert (result.objective, result.direction) == (name, direction)
    choose = max if direction == "max" else min
    assert result.best.objective == choose(trial.objective for trial in result.trials)
    metrics = result.uniform.metrics
    if name == "multi_objective":
        assert metrics[name] == pytest.approx(metrics["val_loss"] - metrics["val_accuracy"])
    else:
        assert result.uniform.objective == metrics[name]


def test_without_accuracy_the_loss_is_judged(digits):
    result = small_search(digits, classifier(metrics=None))
    assert (result.objective, result.direction) == ("val_loss", "min")


def test_regression_searches_by_loss_and_gradient(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    validation = (digits[0][600:900], digits[1][600:900].astype("float32"))
    result = small_search(
        digits, model, validation_data=validation, features=("loss", "gradient_norm")
    )
    np.testing.assert_array_equal(result.suspicion, result.features["loss"])


def test_a_diverging_sampler_is_a_failure_and_never_the_best(digits, monkeypatch):
    module = sys.modules["keras_swift.swift.search.run"]
    train = module.SearchRun._train
    judged = []

    def diverging(self, *arguments, judge):
        logs = train(self, *arguments, judge=judge)
        if judge:
            judged.append(1)
            if len(judged) in (2, 3):
                return {**logs, "val_accuracy": [np.nan, np.inf][len(judged) - 2]}
        return logs

    monkeypatch.setattr(module.SearchRun, "_train", diverging)
    result = small_search(digits, max_trials=5)
    assert [trial.status for trial in result.trials] == ["COMPLETED"] + ["FAILED"] * 2 + [
        "COMPLETED"
    ] * 2
    assert np.isnan(result.trials[1].objective) and np.isfinite(result.best.objective)
    assert "5 trials, 2 failed" in str(result)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"validation_data": None}, ValueError, "`validation_data` must be given"),
        ({"max_trials": 0}, ValueError, "`max_trials` must be"),
        ({"pretrain_epochs": -1}, ValueError, "`pretrain_epochs` must not be negative"),
        ({"objective": "val_loss_of_hair"}, ValueError, "Could not infer optimization direction"),
        ({"objective": "val_precision"}, ValueError, "among what the model reports.*val_accuracy"),
        ({"method": "grid"}, ValueError, "`method` must be one of"),
        ({"transform": "rank"}, ValueError, "`transform` must be one of"),
        ({"features": ("lost",)}, ValueError, "among 'loss', 'renormed_entropy'"),
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


def test_finished_search_is_taken_up_without_training(digits, tmp_path, monkeypatch):
    first = run_search(tmp_path, max_trials=3)

    def fail(*arguments, **keywords):
        raise AssertionError("trained")

    monkeypatch.setattr(keras.Sequential, "fit", fail)
    assert describe(run_search(tmp_path, max_trials=3)) == describe(first)
    # As a kill while KerasTuner writes would leave them.
    for name in ("tuner0.json", "oracle.json"):
        (tmp_path / "swift_search" / name).write_text("")
    assert describe(run_search(tmp_path, max_trials=3, seed=None)) == describe(first)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"segments": 3}, "the settings differ"),
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


def test_directory_notices_another_model(digits, tmp_path):
    small_search(digits, directory=tmp_path, max_trials=1)
    with pytest.raises(ValueError, match="the model differ"):
        small_search(digits, classifier(0.2), directory=tmp_path, max_trials=1)
    model = classifier()
    small_search(digits, model, directory=tmp_path / "b", max_trials=1, pretrain_epochs=0)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    with pytest.raises(ValueError, match="the model differ"):
        small_search(digits, model, directory=tmp_path / "b", max_trials=1, pretrain_epochs=0)


def test_foreign_and_corrupt_directories_are_explained(tmp_path):
    folder = tmp_path / "swift_search"
    folder.mkdir()
    (folder / "oracle.json").write_text("{}")
    with pytest.raises(ValueError, match="a KerasTuner project of another kind"):
        run_search(tmp_path)
    (folder / "start.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read.*overwrite=True"):
        run_search(tmp_path)


def environment(**changes):
    # Deterministic across processes, and two cores are shared by several of them. The package may
    # be imported from a checkout that is not installed.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "PYTHONPATH": str(pathlib.Path(ks.__file__).parents[1]),
        **changes,
    }


def start(directory, output, kill_in=-5, **changes):
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, output, str(kill_in)],
        env=environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_search_goes_on_as_an_unbroken_one(tmp_path):
    # Trials 0 to 3 are the initial design: one kill in it, one in a trial that a fit suggested.
    for kill_in in (2, 3):
        process = start(tmp_path / "killed", tmp_path / "never.json", kill_in)
        errors = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, errors
    trials = list((tmp_path / "killed" / "swift_search").glob("trial_*/trial.json"))
    statuses = sorted(json.loads(path.read_text())["status"] for path in trials)
    assert statuses == ["COMPLETED"] * 5 + ["RUNNING"]
    finished = [p for p in trials if json.loads(p.read_text())["status"] == "COMPLETED"]
    times = {path: path.stat().st_mtime_ns for path in finished}
    resumed = describe(run_search(tmp_path / "killed"))
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    unbroken = describe(run_search(tmp_path / "whole"))
    assert [trial[:-1] for trial in resumed["trials"]] == [
        trial[:-1] for trial in unbroken["trials"]
    ]
    assert resumed == unbroken


def test_a_chief_and_two_workers_share_a_search(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
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


@pytest.mark.parametrize("over", [True, False])
def test_broken_connection_is_an_error_only_before_the_end(digits, tmp_path, monkeypatch, over):
    small_search(digits, directory=str(tmp_path))

    def broken(*arguments, **named):
        raise RuntimeError("Socket closed")

    # The chief may leave between a worker's look at the trials and its next request.
    answers = iter([False, over])
    monkeypatch.setattr(SearchRun, "_is_over", lambda self, space: next(answers))
    monkeypatch.setattr("keras_swift.swift.search.tuner.SwiftTuner", broken)
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
