"""Scores in another float type than training: cheap, never biased, and without a trace."""

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src.importance.resampling import importance_weights, sampling_probability
from keras_swift.src.scoring import precision as scoring_dtype
from keras_swift.src.scoring.scorer import Scorer


def layered():
    """Convolution, normalisation, a recurrent layer and an embedding before the last layer."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((4,), dtype="int32")
    images = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(images)
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(x))
    y = keras.layers.LSTM(4)(keras.layers.Embedding(9, 3)(tokens))
    x = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([x, y]))
    x = keras.layers.Dropout(0.5)(x)
    model = keras.Model([images, tokens], keras.layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    inputs = [
        generator.normal(size=(64, 8, 8, 1)).astype("float32"),
        generator.integers(0, 9, (64, 4)),
    ]
    return model, inputs, generator.integers(0, 3, 64)


def policies(model):
    return [(layer.name, layer.dtype_policy.name) for layer in model._flatten_layers()]


def test_scoring_leaves_the_model_as_it_was():
    model, x, y = layered()
    predictions = model.predict(x, verbose=0)
    before, function = policies(model), model.predict_function
    weights = model.get_weights()
    scores = Scorer(model, dtype="bfloat16")(x, y)["gradient_norm"]
    assert policies(model) == before
    assert model.predict_function is function
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.predict(x, verbose=0), predictions)
    exact = Scorer(model)(x, y)["gradient_norm"]
    # They were computed in another type, and they agree as far as it allows.
    assert 0 < np.abs(scores - exact).max() < 0.05
    assert spearmanr(scores, exact).statistic > 0.99


def test_the_last_layer_and_what_reads_numbers_keep_their_type():
    model, _, _ = layered()
    changed = {type(layer).__name__ for layer in scoring_dtype.layers_to_change(model, "bfloat16")}
    assert {"Conv2D", "LSTM", "LSTMCell", "BatchNormalization"} <= changed
    assert not {"Embedding", "Functional"} & changed
    dense = [
        layer
        for layer in scoring_dtype.layers_to_change(model, "bfloat16")
        if isinstance(layer, keras.layers.Dense)
    ]
    assert [layer.units for layer in dense] == [8]


def test_a_sure_example_keeps_its_score():
    # 1 - 0.9995 is zero in bfloat16, where numbers near 1 are 1/256 apart.
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, use_bias=False),
            keras.layers.Dense(2, use_bias=False, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.set_weights([np.eye(2), 8.0 * np.eye(2)])
    x, y = np.eye(2, dtype="float32"), np.array([0, 1])
    scores = Scorer(model, dtype="bfloat16")(x, y)["gradient_norm"]
    np.testing.assert_allclose(scores, np.sqrt(2) / (1 + np.exp(8.0)), rtol=0.02)


def test_policies_come_back_after_an_exception(digits):
    class Refuses(keras.layers.Layer):
        def call(self, x):
            if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
                raise RuntimeError("not in bfloat16")
            return x

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), Refuses(), keras.layers.Dense(10, activation="softmax")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = policies(model)
    x, y = digits[0][:64], digits[1][:64]
    with pytest.raises(TypeError, match="`scoring_dtype` must be a type.*'bfloat16'.*Use 'auto'"):
        ks.ImportanceDataset(model, x, y, batch_size=16, scoring_dtype="bfloat16")
    assert policies(model) == before
    assert np.isfinite(Scorer(model)(x, y)["gradient_norm"]).all()


def test_expected_step_is_the_presamples_mean_step_with_low_precision_scores(digits):
    """Enumerates the outcomes of one draw through Keras' own weighted step."""
    x, y = digits[0][:24], digits[1][:24]
    model = classifier(1.0, metrics=None)
    data = ks.ImportanceDataset(
        model, x, y, batch_size=8, seed=0, tau_threshold=0, scoring_dtype="bfloat16", shuffle=False
    )
    scores = data.batches.scorer(x, y)["gradient_norm"]
    exact = Scorer(model)(x, y)["gradient_norm"]
    assert np.abs(scores - exact).max() > 1e-4
    probability = sampling_probability(scores, floor=0.1)
    weights = importance_weights(probability)
    # What the data set gives out are the weights of the scores it used.
    batch = data.batches.next_batch()
    np.testing.assert_allclose(batch.importance, weights[batch.indices], rtol=1e-6)
    start = model.get_weights()

    def step(rows, weights):
        model.set_weights(start)
        model.train_on_batch(x[rows], y[rows], sample_weight=weights.astype("float32"))
        return [a - b for a, b in zip(start, model.get_weights(), strict=True)]

    expected = [np.zeros(w.shape) for w in start]
    for i, weight in enumerate(weights):
        for total, change in zip(expected, step([i], np.array([weight])), strict=True):
            total += probability[i] * change
    for ours, theirs in zip(expected, step(np.arange(24), np.ones(24)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_training_with_low_precision_scores_stays_float32(digits):
    x, y = digits[0][:256], digits[1][:256]

    def run(dtype):
        model = classifier(0.3)
        ks.ImportanceTraining(model, tau_threshold=1e9, seed=0, scoring_dtype=dtype).fit(
            x, y, epochs=2, verbose=0
        )
        return model

    # The gate is shut: scores only watch, so the weights are those without them.
    assert_same_weights(run("bfloat16"), run(None))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({None: 0.010, "bfloat16": 0.007}, "bfloat16"),
        ({None: 0.010, "bfloat16": 0.009}, None),
        ({None: 0.0005, "bfloat16": 0.0001}, None),
    ],
)
def test_auto_takes_the_clearly_faster_type(digits, monkeypatch, seconds, chosen):
    now = [0.0]
    monkeypatch.setattr(scoring_dtype, "WORTH_TIMING", 1e-3)
    monkeypatch.setattr(scoring_dtype.time, "perf_counter", lambda: now[0])
    model = classifier()
    scorer = Scorer(model, dtype="auto")
    compile_ = scorer._compile

    def timed(dtype, inputs):
        compiled = compile_(dtype, inputs)

        def score(*inputs):
            now[0] += seconds[dtype]
            return compiled(*inputs)

        return score

    monkeypatch.setattr(scorer, "_compile", timed)
    scorer.settle(digits[0][:32], digits[1][:32])
    assert scorer.dtype == chosen


def test_auto_stays_with_the_models_own_type_where_the_other_fails(monkeypatch):
    monkeypatch.setattr(scoring_dtype, "WORTH_TIMING", 0.0)
    asked = []

    def fails():
        asked.append(1)
        raise RuntimeError("no kernel")

    assert not scoring_dtype.faster(lambda: np.ones(2), fails)
    assert not scoring_dtype.faster(
        lambda: np.ones(2), lambda: asked.append(1) or np.full(2, np.nan)
    )
    assert asked == [1, 1]


def test_unknown_type_is_named(digits):
    with pytest.raises(ValueError, match="`scoring_dtype` must be one of 'auto'.*'int8'"):
        ks.ImportanceTraining(classifier(), scoring_dtype="int8")
    with pytest.raises(ValueError, match="`scoring_dtype` must be one of 'auto'"):
        ks.ImportanceDataset(classifier(), *digits, scoring_dtype=16)
