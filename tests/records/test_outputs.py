"""Probability and margin of a label against slow references, for every kind of classifier."""

import keras
import numpy as np
import pytest
from small_models import classifier

from keras_swift.src.records.outputs import (
    LabelScorer,
    classes_of,
    is_one_class,
    label_outputs,
)

N = 12


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def linear(units, loss, activation=None, shape=(4,)):
    """One dense layer on inputs, and inputs that make outputs far from 0 and 1."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), keras.layers.Dense(units, activation)])
    model.compile("sgd", loss)
    return model


def inputs(*shape):
    return np.random.default_rng(0).normal(size=(N, *shape)).astype("float32")


def predicted(model, x):
    return np.asarray(model.predict(x, verbose=0), np.float64)


def slow(probabilities, label):
    """Probability and margin of one label."""
    others = [p for k, p in enumerate(probabilities) if k != label]
    return probabilities[label], probabilities[label] - max(others)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_categorical_labels(from_logits, one_hot):
    name = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    loss = getattr(keras.losses, name)(from_logits=from_logits)
    model = linear(5, loss, None if from_logits else "softmax")
    x, labels = inputs(4), np.arange(N) % 5
    y = np.eye(5, dtype="float32")[labels] if one_hot else labels
    found = LabelScorer(model, x, y)(x, y)
    outputs = predicted(model, x)
    p = softmax(outputs) if from_logits else outputs
    expected = np.array([slow(row, label) for row, label in zip(p, labels, strict=True)])
    np.testing.assert_allclose(found["probability"][:, 0], expected[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found["margin"][:, 0], expected[:, 1], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found["right"][:, 0], p.argmax(axis=1) == labels)
    np.testing.assert_allclose(found["loss"], -np.log(expected[:, 0]), rtol=1e-4)
    assert np.all(found["weight"] == 1.0)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("from_logits", [False, True])
def test_binary_and_several_labels(from_logits, units):
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    model = linear(units, loss, None if from_logits else "sigmoid")
    x, y = inputs(4), (inputs(units) > 0).astype("float32")
    outputs = predicted(model, x)
    p = 1 / (1 + np.exp(-outputs)) if from_logits else outputs
    of_label = np.where(y == 1, p, 1 - p)
    for targets in [y, y[:, 0]] if units == 1 else [y]:
        found = LabelScorer(model, x, targets)(x, targets)
        np.testing.assert_allclose(found["probability"][:, 0], of_label.mean(axis=1), rtol=1e-4)
        margin = (2 * of_label - 1).mean(axis=1)
        np.testing.assert_allclose(found["margin"][:, 0], margin, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["right"][:, 0], (of_label > 0.5).mean(axis=1))


def test_classes_on_another_axis():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 6)),
            keras.layers.Dense(6),
            keras.layers.Softmax(axis=1),
        ]
    )
    model.compile("sgd", keras.losses.CategoricalCrossentropy(axis=1))
    x, labels = inputs(4, 6), np.random.default_rng(1).integers(0, 4, size=(N, 6))
    y = np.moveaxis(np.eye(4, dtype="float32")[labels], -1, 1)
    found = LabelScorer(model, x, y)(x, y)
    p = predicted(model, x)
    expected = [np.mean([p[i, labels[i, t], t] for t in range(6)]) for i in range(N)]
    np.testing.assert_allclose(found["probability"][:, 0], expected, rtol=1e-4)


def sequences(masked):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(7, 5, mask_zero=masked),
            keras.layers.LSTM(8, return_sequences=True),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )
    # Weights large enough for the masked steps to differ from the others.
    model.set_weights([3 * weight for weight in model.get_weights()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_masked_and_weighted_steps(masked, weighted):
    generator = np.random.default_rng(0)
    x = generator.integers(1, 7, size=(N, 6))
    x[:6, 2:] = 0
    y = generator.integers(0, 7, size=(N, 6))
    weights = generator.uniform(0, 2, size=(N, 6)).astype("float32") if weighted else None
    model = sequences(masked)
    scorer = LabelScorer(model, x, y)
    found = scorer(x, y, weights) if weighted else scorer(x, y)
    p = predicted(model, x)
    for i in range(N):
        steps = [t for t in range(6) if x[i, t] or not masked]
        w = np.array([weights[i, t] if weighted else 1.0 for t in steps])
        values = np.array([slow(p[i, t], y[i, t]) for t in steps])
        probability, margin = w @ values / w.sum()
        assert found["probability"][i, 0] == pytest.approx(probability, rel=1e-4)
        assert found["margin"][i, 0] == pytest.approx(margin, rel=1e-3, abs=1e-5)
        assert found["weight"][i, 0] == pytest.approx(w.sum() / 6, rel=1e-5)


def test_ignored_classes_do_not_count():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=2)
    model = linear(3, loss, "softmax", shape=(5, 4))
    x, y = inputs(5, 4), np.random.default_rng(1).integers(0, 3, size=(N, 5))
    y[0] = 2
    found = LabelScorer(model, x, y)(x, y)
    p = predicted(model, x)
    for i in range(1, N):
        kept = [p[i, t, y[i, t]] for t in range(5) if y[i, t] != 2]
        assert found["probability"][i, 0] == pytest.approx(np.mean(kept), rel=1e-4)
        assert found["weight"][i, 0] == pytest.approx(len(kept) / 5)
    assert found["weight"][0, 0] == 0 and np.isfinite(found["probability"]).all()


def two_outputs(second_loss):
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    outputs = {
        "first": keras.layers.Dense(3, activation="softmax", name="first")(x),
        "second": keras.layers.Dense(1, activation="sigmoid", name="second")(x),
    }
    model = keras.Model(x, outputs)
    losses = {"first": "sparse_categorical_crossentropy", "second": second_loss}
    model.compile("sgd", losses, loss_weights={"first": 1.0, "second": 3.0})
    return model


def test_several_outputs():
    model = two_outputs("binary_crossentropy")
    x = inputs(4)
    y = {"first": np.arange(N) % 3, "second": np.arange(N) % 2}
    scorer = LabelScorer(model, x, y)
    weights = {"first": np.arange(N, dtype="float32"), "second": np.ones(N, "float32")}
    found = scorer(x, y, weights)
    p = {name: predicted_part for name, predicted_part in model.predict(x, verbose=0).items()}
    first = p["first"][np.arange(N), y["first"]]
    second = np.where(y["second"] == 1, p["second"][:, 0], 1 - p["second"][:, 0])
    columns = {label.output.path[0]: k for k, label in enumerate(scorer.labels)}
    np.testing.assert_allclose(found["probability"][1:, columns["first"]], first[1:], rtol=1e-4)
    np.testing.assert_allclose(found["probability"][:, columns["second"]], second, rtol=1e-4)
    np.testing.assert_allclose(found["weight"][:, columns["first"]], weights["first"])


def custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (linear(5, "sparse_categorical_crossentropy", "softmax"), ["categorical"]),
        (linear(5, keras.losses.CategoricalFocalCrossentropy(), "softmax"), ["categorical"]),
        (linear(5, custom_loss, "softmax"), ["categorical"]),
        (linear(1, "binary_crossentropy", "sigmoid"), ["binary"]),
        (linear(2, keras.losses.BinaryFocalCrossentropy(), "sigmoid"), ["binary"]),
        (two_outputs("binary_crossentropy"), ["categorical", "binary"]),
        (linear(5, "categorical_hinge"), None),
        (linear(1, "mse"), None),
        (linear(1, "poisson"), None),
        (linear(1, custom_loss), None),
        (two_outputs("mse"), None),
    ],
)
def test_the_loss_says_what_is_a_label(model, kinds):
    y = np.zeros((N, 1), "int64")
    if len(model.outputs) > 1:
        y = {"first": y[:, 0], "second": y}
    elif model.output_shape[-1] > 1 and "sparse" not in str(model.loss):
        y = np.eye(model.output_shape[-1], dtype="float32")[y[:, 0]]
    scorer = LabelScorer(model, inputs(4), y)
    found = label_outputs(model)
    assert (None if found is None else [label.kind for label in found]) == kinds
    assert scorer.labels == found
    assert ("probability" in scorer(inputs(4), y)) == (kinds is not None)
    one = kinds is not None and len(kinds) == 1 and model.output_shape[-1] in (1, 5)
    assert is_one_class(model) == one


def test_losses_are_those_of_the_model(digits):
    x, y = digits[0][:40], digits[1][:40]
    model = classifier()
    weights = np.linspace(0, 2, 40, dtype="float32")
    found = LabelScorer(model, x, y)(x, y, weights)
    expected = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    assert found["loss"].mean() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([2, 0, 1]), [2, 0, 1]),
        (np.array([[2.0], [0.0]]), [2, 0]),
        (np.eye(3)[[1, 2]], [1, 2]),
        (np.array([0.5, 1.0]), None),
        (np.array([[1, 1], [0, 1]]), None),
        (np.zeros((3, 4, 5)), None),
        ({"a": np.zeros(3)}, None),
    ],
)
def test_classes_are_read_off_targets(y, classes):
    found = classes_of(y)
    assert (None if found is None else found.tolist()) == classes
