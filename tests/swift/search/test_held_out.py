"""Validation data: what can be held, what a model is judged by, and how exactly."""

import keras
import keras_tuner
import numpy as np
import pytest
from small_models import classifier

from keras_swift.swift.search.held_out import Judge, difference_noise, find_objective

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


def objective(name, direction="max"):
    return keras_tuner.Objective(name, direction)


def test_the_label_probability_is_a_weighted_mean(digits):
    x, y = digits[0][:90], digits[1][:90]
    weights = np.random.default_rng(0).uniform(0, 2, 90).astype("float32")
    model = classifier()
    judge = Judge(model, (x, y, weights), 16)
    logs, values = judge.judge(objective("val_label_probability"))
    p = model.predict(x, verbose=0).astype("float64")[np.arange(90), y]
    assert logs["val_label_probability"] == pytest.approx(np.average(p, weights=weights), rel=1e-5)
    assert values.mean() == pytest.approx(logs["val_label_probability"])
    reported = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert logs["val_loss"] == pytest.approx(reported["loss"], rel=1e-5)
    assert judge.judge(objective("val_loss", "min"))[1].mean() == pytest.approx(
        reported["loss"], rel=1e-4
    )


def test_accuracy_of_the_label_is_that_of_keras(digits):
    x, y = digits[0][:90], digits[1][:90]
    model = classifier()
    logs, values = Judge(model, (x, y), 32).judge(objective("val_label_accuracy"))
    assert logs["val_label_accuracy"] == pytest.approx(logs["val_accuracy"])
    assert set(values.tolist()) == {0.0, 1.0}


def test_other_metrics_are_computed_on_tenths(digits):
    x, y = digits[0][:95], digits[1][:95]
    model = classifier()
    judge = Judge(model, (x, y), 32)
    logs, values = judge.judge(objective("val_accuracy"))
    right = model.predict(x, verbose=0).argmax(axis=1) == y
    np.testing.assert_allclose(values, [right[k::10].mean() for k in range(10)], rtol=1e-5)
    several = find_objective(judge, ["val_accuracy", "val_label_probability"])
    p = model.predict(x, verbose=0)[np.arange(95), y]
    _, values = judge.judge(several)
    expected = [-right[k::10].mean() - p[k::10].mean() for k in range(10)]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert judge.judge(objective("accuracy"))[1] is None


def test_a_regression_is_judged_by_its_loss():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    judge = Judge(model, (X, Y.astype("float32")), 4)
    assert find_objective(judge, None).name == "val_loss"
    logs, values = judge.judge(find_objective(judge, None))
    assert "val_label_probability" not in logs
    expected = (model.predict(X, verbose=0)[:, 0] - Y) ** 2
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="must be among what the model reports"):
        find_objective(judge, "val_label_probability")


@pytest.mark.parametrize(
    ("given", "name", "direction"),
    [
        (None, "val_label_probability", "max"),
        ("val_label_probability", "val_label_probability", "max"),
        ("val_label_accuracy", "val_label_accuracy", "max"),
        ("val_accuracy", "val_accuracy", "max"),
        (["val_loss", "val_label_probability"], "multi_objective", "min"),
    ],
)
def test_objectives_are_kerastuners(digits, given, name, direction):
    judge = Judge(classifier(), (digits[0][:20], digits[1][:20]), 20)
    found = find_objective(judge, given)
    assert (found.name, found.direction) == (name, direction)


def test_noise_is_that_of_paired_differences():
    generator = np.random.default_rng(0)
    shared = generator.normal(size=400)
    first, second = (shared + 0.1 * generator.normal(size=400) for _ in range(2))
    # Unpaired, it would be 0.07.
    assert difference_noise(first, second) == pytest.approx(0.1 * np.sqrt(2 / 400), rel=0.1)
    for other in (None, second[:5]):
        assert np.isnan(difference_noise(first, other))
