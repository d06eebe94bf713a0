"""Features against slow references, on every kind of output they work for."""

import dataclasses

import keras
import numpy as np
import pytest
from made_up_record import made_up_record
from small_models import classifier

import keras_swift as ks
from keras_swift.src.scoring.compiled import build
from keras_swift.src.swift.feature_table import DEFAULTS, FEATURES, default_features, doubtful_end


def slow_entropy(probabilities, label):
    rest = [p for k, p in enumerate(probabilities) if k != label]
    q = np.array(rest, np.float64) / np.sum(rest, dtype=np.float64)
    return -np.sum(q * np.log(q))


def predicted(model, x):
    return np.asarray(model.predict(x, verbose=0), np.float64)


def test_features_of_a_softmax_match_the_definitions(digits):
    x, y = digits[0][:70], digits[1][:70]
    model = classifier()
    found = ks.compute_features(model, x, y, batch_size=32, verbose=0)
    p = predicted(model, x)
    assert list(found) == ["loss", "renormed_entropy", "gradient_norm"]
    np.testing.assert_allclose(found["loss"], -np.log(p[np.arange(70), y]), rtol=1e-4)
    entropy = [slow_entropy(row, label) for row, label in zip(p, y, strict=True)]
    np.testing.assert_allclose(found["renormed_entropy"], entropy, rtol=1e-4)
    onehot = np.eye(10)[y]
    np.testing.assert_allclose(
        found["gradient_norm"], np.linalg.norm(p - onehot, axis=1), rtol=1e-4
    )
    assert all(column.dtype == np.float64 for column in found.values())


@pytest.mark.parametrize("onehot", [False, True])
def test_logits_and_one_hot_labels_give_the_same(digits, onehot):
    x, y = digits[0][:40], digits[1][:40]
    expected = ks.compute_features(classifier(), x, y, verbose=0)
    softmax = classifier()
    logits = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
    )
    logits.set_weights(softmax.get_weights())
    loss = keras.losses.CategoricalCrossentropy if onehot else None
    logits.compile("sgd", (loss or keras.losses.SparseCategoricalCrossentropy)(from_logits=True))
    found = ks.compute_features(logits, x, np.eye(10)[y] if onehot else y, verbose=0)
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-3, atol=1e-5)


def test_batch_size_does_not_matter(digits):
    x, y = digits[0][:50], digits[1][:50]
    model = classifier()
    first = ks.compute_features(model, x, y, batch_size=50, verbose=0)
    second = ks.compute_features(model, x, y, batch_size=16, verbose=0)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5)


def test_sure_predictions_stay_finite(digits):
    x, y = digits[0][:40], digits[1][:40]
    model = classifier()
    model.set_weights([1000 * weight for weight in model.get_weights()])
    found = ks.compute_features(model, x, y, ("loss", "renormed_entropy"), verbose=0)
    assert np.all(np.isfinite(found["renormed_entropy"])) and found["renormed_entropy"].min() >= 0


def sequence_model(masked):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(7, 5, mask_zero=masked),
            keras.layers.LSTM(8, return_sequences=True),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )
    # The same on each backend, and large enough for the masked steps to differ from the others.
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_sequences_take_the_mean_over_unmasked_steps(masked):
    generator = np.random.default_rng(0)
    x = generator.integers(1, 7, size=(12, 6))
    x[:4, 3:] = 0
    y = generator.integers(0, 7, size=(12, 6))
    model = sequence_model(masked)
    found = ks.compute_features(model, x, y, ("loss", "renormed_entropy"), verbose=0)
    p = predicted(model, x)
    unlike = []
    for i in range(12):
        steps = [t for t in range(6) if x[i, t] or not masked]
        loss = np.mean([-np.log(p[i, t, y[i, t]]) for t in steps])
        entropy = np.mean([slow_entropy(p[i, t], y[i, t]) for t in steps])
        assert found["loss"][i] == pytest.approx(loss, rel=1e-4)
        assert found["renormed_entropy"][i] == pytest.approx(entropy, rel=1e-4)
        everywhere = np.mean([slow_entropy(p[i, t], y[i, t]) for t in range(6)])
        unlike.append(abs(everywhere / entropy - 1))
    # A mask that is not read would be seen.
    assert (max(unlike[:4]) > 1e-2) == masked
    assert max(unlike[4:]) < 1e-6


def test_classes_may_lie_on_any_axis_of_the_output():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 5)).astype("float32")
    labels = generator.integers(0, 4, (8, 3))
    inputs = keras.Input((5,))
    logits = keras.layers.Reshape((3, 4))(keras.layers.Dense(12)(inputs))
    last = keras.Model(inputs, keras.layers.Softmax()(logits))
    last.compile("sgd", keras.losses.CategoricalCrossentropy())
    first = keras.Model(inputs, keras.layers.Permute((2, 1))(last.output))
    first.compile("sgd", keras.losses.CategoricalCrossentropy(axis=1))
    y = np.eye(4, dtype="float32")[labels]
    expected = ks.compute_features(last, x, y, ("loss", "renormed_entropy"), verbose=0)
    y = y.transpose(0, 2, 1)
    found = ks.compute_features(first, x, y, ("loss", "renormed_entropy"), verbose=0)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def test_callables_and_arrays_are_features_too(digits):
    x, y = digits[0][:30], digits[1][:30]
    model = classifier()

    def confidence(y_true, y_pred):
        return keras.ops.max(y_pred, axis=-1)

    ready = np.arange(30)
    found = ks.compute_features(model, x, y, (confidence, ready, "loss"), batch_size=8, verbose=0)
    assert list(found) == ["confidence", "feature_1", "loss"]
    np.testing.assert_allclose(found["confidence"], predicted(model, x).max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found["feature_1"], ready)
    named = ks.compute_features(model, x, y, {"mine": ready}, verbose=0)
    assert list(named) == ["mine"]


def test_model_is_not_changed(digits):
    x, y = digits[0][:30], digits[1][:30]
    model = classifier()
    before = model.get_weights()
    ks.compute_features(model, x, y, verbose=0)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def simple(loss, units=1, activation=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)])
    model.compile("sgd", loss)
    return model


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (simple("mse"), "the loss mean_squared_error"),
        (simple("binary_crossentropy", 1, "sigmoid"), "the loss binary_crossentropy"),
        (simple("sparse_categorical_crossentropy", 2, "softmax"), "2 output units"),
    ],
)
def test_renormed_entropy_names_what_works_instead(model, received):
    x, y = np.zeros((6, 4), "float32"), np.zeros((6, 1))
    with pytest.raises(ValueError, match=f'three classes or more.*{received}.*"gradient_norm"'):
        ks.compute_features(model, x, y, ("renormed_entropy",), verbose=0)
    found = ks.compute_features(model, x, y, ("loss", "gradient_norm"), verbose=0)
    assert np.all(np.isfinite(found["loss"]))


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ("loss", TypeError, r'Write \("loss",\) for a single one'),
        ((), ValueError, "at least one feature"),
        (("lost",), ValueError, "among 'loss', 'renormed_entropy', 'gradient_norm'.*'lost'"),
        (("loss", "loss"), ValueError, "different names"),
        ((np.zeros(3),), ValueError, r"shape \(20,\).*Received: feature_0 of shape \(3,\)"),
        ((np.full(20, np.inf),), ValueError, "must be finite. Received: 20 of 20"),
    ],
)
def test_wrong_features_are_refused(digits, features, error, message):
    with pytest.raises(error, match=message):
        ks.compute_features(classifier(), digits[0][:20], digits[1][:20], features, verbose=0)


def test_a_record_gives_features_from_training(digits):
    x, y = digits[0][:100], digits[1][:100]
    record = made_up_record()
    record = dataclasses.replace(record, loss=record.loss[::-1])
    names = ("mean_margin", "mean_loss_in_class", "share_wrong", "last_loss")
    found = ks.compute_features(classifier(), x, y, names, record=record, verbose=0)
    assert list(found) == list(names)
    np.testing.assert_array_equal(found["mean_margin"], record.mean_margin)
    np.testing.assert_array_equal(found["share_wrong"], record.share_wrong)
    np.testing.assert_array_equal(found["last_loss"], record.loss)
    for i in range(100):
        same = record.mean_loss[y == y[i]]
        assert found["mean_loss_in_class"][i] == np.mean(same <= record.mean_loss[i])


@pytest.mark.parametrize(
    ("names", "record", "message"),
    [
        (("mean_margin",), None, "needs a record of the model's training.*'loss'"),
        (("mean_loss",), made_up_record(50), r"`record` must be of the training.*\(50,\)"),
    ],
)
def test_a_record_that_is_missing_or_of_other_data_is_named(digits, names, record, message):
    with pytest.raises(ValueError, match=message):
        ks.compute_features(classifier(), digits[0][:20], digits[1][:20], names, record=record)


def test_regression_has_losses_alone():
    record = made_up_record(20)
    nothing = np.full(20, np.nan)
    record = dataclasses.replace(record, mean_margin=nothing, share_wrong=nothing)
    x, y = np.zeros((20, 4), "float32"), np.zeros((20, 1))
    model = simple("mse")
    found = ks.compute_features(model, x, y, ("mean_loss",), record=record, verbose=0)
    np.testing.assert_array_equal(found["mean_loss"], record.mean_loss)
    with pytest.raises(ValueError, match="'mean_margin' is for classifiers.*Use \"mean_loss\""):
        ks.compute_features(model, x, y, ("mean_margin",), record=record, verbose=0)
    with pytest.raises(ValueError, match="one label per example.*Use 'mean_loss'"):
        ks.compute_features(model, x, y, ("mean_loss_in_class",), record=record, verbose=0)


@pytest.mark.parametrize(
    ("model", "y", "names"),
    [
        (simple("sparse_categorical_crossentropy", 3, "softmax"), np.arange(6) % 3, DEFAULTS),
        (simple("binary_crossentropy", 1, "sigmoid"), np.arange(6) % 2, DEFAULTS),
        (simple("binary_crossentropy", 3, "sigmoid"), np.eye(3)[[0, 1, 2, 0, 1, 2]], DEFAULTS),
        (sequence_model(False), np.zeros((6, 6), int), DEFAULTS),
        (simple("mse"), np.arange(6), ("mean_loss", "last_loss")),
    ],
)
def test_defaults_are_what_a_model_can_have(model, y, names):
    shape = (6, *model.input_shape[1:])
    build(model, np.ones(shape, "int32" if len(y.shape) > 1 and not y.any() else "float32"), y)
    assert default_features(model) == names


def test_every_feature_doubts_wrong_labels_at_its_doubtful_end(digits):
    x, y = digits[0][:400], digits[1][:400].copy()
    wrong = np.random.default_rng(0).random(400) < 0.2
    y[wrong] = (y[wrong] + 3) % 10
    model = classifier(0.1)
    record = ks.find_suspects(model, x, y, epochs=8, seed=0, verbose=0).record
    model.fit(x, y, epochs=8, verbose=0)
    columns = ks.compute_features(model, x, y, [*FEATURES], record=record, verbose=0)
    assert list(columns) == list(FEATURES)
    for name, column in columns.items():
        doubt = FEATURES[name].doubtful_end * column
        assert doubt[wrong].mean() > doubt[~wrong].mean() + doubt.std() / 2, name
        assert doubtful_end(name) == FEATURES[name].doubtful_end
        if FEATURES[name].source == "record":
            assert doubtful_end(f"{name}_in_class") == doubtful_end(name)
    assert doubtful_end("of my own") == 1.0
