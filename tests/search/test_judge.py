"""Validation data: what can be held, what a model is judged by, and how exactly."""

import keras
import keras_tuner
import numpy as np
import pytest
from small_models import classifier

from keras_swift.src.search.judge import Judge, difference_noise, find_objective

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
        (None, "val_tempered_probability", "max"),
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


def tempered(logits, y, temperature):
    p = np.exp(logits.astype("float64") / temperature)
    p /= p.sum(axis=1, keepdims=True)
    return p[np.arange(len(y)), y], p.max(axis=1)


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_surer_model_that_knows_no_more_is_no_better(digits, from_logits):
    x, y = digits[0][:120], digits[1][:120]
    found = []
    for sharper in (1.0, 3.0):
        keras.utils.set_random_seed(0)
        # As if trained a little: the class's mean image, and a bias of 0.
        means = np.stack([x[y == k].mean(axis=0) for k in range(10)], axis=1)
        dense = keras.layers.Dense(10, activation=None if from_logits else "softmax")
        model = keras.Sequential([keras.Input((64,)), dense])
        dense.set_weights([sharper * (means - means.mean(axis=1, keepdims=True)), np.zeros(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        model.compile("sgd", loss)
        logs, values = Judge(model, (x, y), 32).judge(objective("val_tempered_probability"))
        assert values.mean() == pytest.approx(logs["val_tempered_probability"])
        found.append((logs, values))
    plain = [logs["val_label_probability"] for logs, _ in found]
    assert plain[1] > plain[0] + 0.1
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-3)
    # The temperature that gives the confidence, found on its own.
    logits = x @ (means - means.mean(axis=1, keepdims=True))
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (
            (middle, high) if tempered(logits, y, middle)[1].mean() > 0.95 else (low, middle)
        )
    np.testing.assert_allclose(found[0][1], tempered(logits, y, middle)[0], atol=2e-3)


def test_tempered_labels_of_one_output_and_of_zeros_and_ones_agree(digits):
    x = digits[0][:100]
    y = (digits[1][:100] > 4).astype("int64")
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(64, 1)).astype("float32")
    found = []
    for loss, entries, activation in (
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, None),
        (keras.losses.BinaryCrossentropy(), 1, "sigmoid"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 2, None),
    ):
        dense = keras.layers.Dense(entries, activation=activation, use_bias=False)
        model = keras.Sequential([keras.Input((64,)), dense])
        dense.set_weights([kernel if entries == 1 else np.hstack([0 * kernel, kernel])])
        model.compile("sgd", loss)
        found.append(Judge(model, (x, y), 32).judge(objective("val_tempered_probability"))[1])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    assert np.ptp(found[0]) > 0.5


def test_masked_and_weightless_labels_do_not_count_in_the_confidence():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(9, 8, mask_zero=True),
            keras.layers.Dense(3),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    x = generator.integers(1, 9, size=(40, 6)).astype("int32")
    y = generator.integers(3, size=(40, 6))
    whole = Judge(model, (x, y), 8).judge(objective("val_tempered_probability"))[0]
    # The same tokens in the first half of longer, masked rows.
    padded = np.concatenate([x, np.zeros_like(x)], axis=1).reshape(80, 6)
    targets = np.concatenate([y, np.zeros_like(y)], axis=1).reshape(80, 6)
    masked = Judge(model, (padded, targets), 8).judge(objective("val_tempered_probability"))[0]
    name = "val_tempered_probability"
    assert masked[name] == pytest.approx(whole[name], rel=1e-5)
