"""The score of every loss against the gradient that Keras itself computes."""

import keras
import numpy as np
import pytest
from keras import layers, losses, ops

from keras_swift.src.scoring.scorer import Scorer

N, D, K = 6, 5, 4
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N, D)).astype("float32")
CLASSES = GENERATOR.integers(0, K, N)
ONE_HOT = np.eye(K, dtype="float32")[CLASSES]
BINARY = GENERATOR.integers(0, 2, (N, K)).astype("float32")
REAL = GENERATOR.normal(size=(N, K)).astype("float32")
SIGNS = 2 * BINARY - 1


def custom_loss(y_true, y_pred):
    return ops.sum(ops.abs(y_true - y_pred) ** 1.5, axis=-1)


CASES = {
    "scc": ("softmax", "sparse_categorical_crossentropy", CLASSES),
    "scc of a column": ("softmax", losses.SparseCategoricalCrossentropy(), CLASSES[:, None]),
    "scc from logits": (None, losses.SparseCategoricalCrossentropy(from_logits=True), CLASSES),
    "scc with ignored class": (
        "softmax",
        losses.SparseCategoricalCrossentropy(ignore_class=1),
        CLASSES,
    ),
    "cc": ("softmax", "categorical_crossentropy", ONE_HOT),
    "cc from logits": (None, losses.CategoricalCrossentropy(from_logits=True), ONE_HOT),
    "cc smoothed": ("softmax", losses.CategoricalCrossentropy(label_smoothing=0.2), ONE_HOT),
    "cc smoothed from logits": (
        None,
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        ONE_HOT,
    ),
    "cc of sigmoids": ("sigmoid", "categorical_crossentropy", ONE_HOT),
    "cc of tanh logits": ("tanh", losses.CategoricalCrossentropy(from_logits=True), ONE_HOT),
    "bce": ("sigmoid", "binary_crossentropy", BINARY),
    "bce from logits": (None, losses.BinaryCrossentropy(from_logits=True), BINARY),
    "bce smoothed": ("sigmoid", losses.BinaryCrossentropy(label_smoothing=0.2), BINARY),
    "bce of a softmax": ("softmax", "binary_crossentropy", BINARY),
    "focal": ("softmax", losses.CategoricalFocalCrossentropy(), ONE_HOT),
    "binary focal": ("sigmoid", losses.BinaryFocalCrossentropy(), BINARY),
    "mse": (None, "mse", REAL),
    "mse summed": (None, losses.MeanSquaredError(reduction="sum"), REAL),
    "mse of tanh": ("tanh", "mean_squared_error", REAL),
    "mse of sigmoid": ("sigmoid", losses.MeanSquaredError(), REAL),
    "mse of relu": ("relu", losses.MeanSquaredError(), REAL),
    "mse of softmax": ("softmax", losses.MeanSquaredError(), REAL),
    "mae": (None, "mae", REAL),
    "huber": (None, losses.Huber(0.5), REAL),
    "log cosh": (None, "log_cosh", REAL),
    "kl divergence": ("softmax", "kl_divergence", ONE_HOT),
    "cosine": (None, losses.CosineSimilarity(), REAL),
    "hinge": ("tanh", "hinge", SIGNS),
    "categorical hinge": (None, "categorical_hinge", ONE_HOT),
    "custom": (None, custom_loss, REAL),
    "custom of softmax": ("softmax", custom_loss, REAL),
}


ODD_ON_TENSORFLOW = {("sigmoid", "categorical_crossentropy"), ("softmax", "binary_crossentropy")}


def one_layer(activation, loss, separate=False):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((D,))])
    if separate and activation:
        model.add(layers.Dense(K, name="last"))
        model.add(layers.Softmax() if activation == "softmax" else layers.Activation(activation))
    else:
        model.add(layers.Dense(K, activation=activation, name="last"))
    # A rate of 1 turns the change of the bias into its gradient.
    model.compile(keras.optimizers.SGD(1.0), loss)
    return model


def bias_gradient_norms(model, x, y):
    """Each example's gradient in the last bias, by one step of SGD on it alone."""
    start = model.get_weights()
    norms = []
    for i in range(len(x)):
        model.set_weights(start)
        model.train_on_batch(x[i : i + 1], y[i : i + 1])
        norms.append(np.linalg.norm(start[-1] - model.get_weights()[-1]))
    model.set_weights(start)
    return norms


@pytest.mark.parametrize("separate", [False, True], ids=["fused", "separate"])
@pytest.mark.parametrize(("activation", "loss", "y"), CASES.values(), ids=CASES)
def test_score_is_the_norm_of_the_bias_gradient(activation, loss, y, separate):
    if keras.backend.backend() == "tensorflow" and (activation, loss) in ODD_ON_TENSORFLOW:
        pytest.skip("Keras on TensorFlow trains this pair as if from the logits of a softmax")
    model = one_layer(activation, loss, separate)
    scores = Scorer(model)(X, y)["gradient_norm"]
    np.testing.assert_allclose(scores, bias_gradient_norms(model, X, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["scc", "cc smoothed", "mse", "huber", "custom"])
def test_loss_is_the_per_example_loss(name):
    activation, loss, y = CASES[name]
    model = one_layer(activation, loss)
    scores = Scorer(model, ("loss",))(X, y)["loss"]
    single = [model.evaluate(X[i : i + 1], y[i : i + 1], verbose=0) for i in range(N)]
    np.testing.assert_allclose(scores, single, rtol=1e-4, atol=1e-5)


def test_a_saturated_wrong_example_keeps_its_score():
    # Keras clips the probability of the true class, where the slope is zero.
    model = one_layer("softmax", "sparse_categorical_crossentropy")
    model.set_weights([np.zeros((D, K)), np.array([100.0, 0, 0, 0])])
    scores = Scorer(model)(X, np.full(N, 1))["gradient_norm"]
    np.testing.assert_allclose(scores, np.sqrt(2), rtol=1e-5)


def test_sequence_outputs_take_the_norm_over_all_entries():
    model = keras.Sequential([keras.Input((3, 2)), layers.Dense(2)])
    model.compile("sgd", "mse")
    x = GENERATOR.normal(size=(4, 3, 2)).astype("float32")
    y = GENERATOR.normal(size=(4, 3, 2)).astype("float32")
    gradient = 2 * (model.predict(x, verbose=0) - y) / (2 * 3)
    scores = Scorer(model)(x, y)["gradient_norm"]
    np.testing.assert_allclose(scores, np.sqrt((gradient**2).sum((1, 2))), rtol=1e-4)


def test_masked_steps_do_not_count():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Embedding(5, 3, mask_zero=True), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    x = np.array([[1, 2, 0, 0], [1, 2, 3, 4]])
    y = np.ones((2, 4, 1), "float32")
    outcome = Scorer(model, ("gradient_norm", "loss"))(x, y)
    error = (model.predict(x, verbose=0) - y)[:, :, 0] * (x > 0)
    np.testing.assert_allclose(outcome["loss"], (error**2).sum(1) / 4, rtol=1e-4)
    np.testing.assert_allclose(
        outcome["gradient_norm"], 2 / 4 * np.sqrt((error**2).sum(1)), rtol=1e-4
    )
    np.testing.assert_allclose(outcome["valid"], [[0.5], [1.0]])


def test_sample_weight_multiplies_score_and_loss():
    model = one_layer("softmax", "sparse_categorical_crossentropy")
    scorer = Scorer(model, ("gradient_norm", "loss"))
    weights = np.arange(N, dtype="float32")
    plain, weighted = scorer(X, CLASSES), scorer(X, CLASSES, weights)
    for name in ("gradient_norm", "loss"):
        np.testing.assert_allclose(weighted[name], plain[name] * weights, rtol=1e-5)


@pytest.mark.parametrize("shape", [(N, 3), (N, 2, 1)])
def test_sample_weight_of_a_wrong_shape_is_named(shape):
    model = one_layer("softmax", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`sample_weight` must have one weight for each example"):
        Scorer(model)(X, CLASSES, np.ones(shape, "float32"))


def test_activation_is_found_behind_layers_that_only_pass_values_on():
    inputs = keras.Input((D,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.Reshape((2, 2))(hidden)))
    model.compile("sgd", "mse")
    y = GENERATOR.normal(size=(N, 2, 2)).astype("float32")
    out = model.predict(X, verbose=0)
    gradient = 2 * (out - y) / 4 * (1 - out**2)
    scores = Scorer(model)(X, y)["gradient_norm"]
    np.testing.assert_allclose(scores, np.sqrt((gradient**2).sum((1, 2))), rtol=1e-4)


def test_a_loss_over_the_whole_batch_is_refused():
    model = keras.Sequential([keras.Input((D,)), layers.Dense(K, activation="softmax")])
    model.compile("sgd", losses.Dice())
    with pytest.raises(ValueError, match=r"one value \(or more\) for each example.*dice"):
        Scorer(model)(X, ONE_HOT)


def test_several_outputs_combine_by_their_weights():
    inputs = keras.Input((D,))
    outputs = {
        "a": layers.Dense(K, activation="softmax", name="a")(inputs),
        "b": layers.Dense(K, name="b")(inputs),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        {"a": "sparse_categorical_crossentropy", "b": "mse"},
        loss_weights={"a": 2.0, "b": 0.5},
    )
    y = {"a": CLASSES, "b": REAL}
    found = model.predict(X, verbose=0)
    first = np.linalg.norm(found["a"] - ONE_HOT, axis=1)
    second = np.linalg.norm(2 * (found["b"] - REAL) / K, axis=1)
    scores = Scorer(model)(X, y)["gradient_norm"]
    np.testing.assert_allclose(scores, np.sqrt((2 * first) ** 2 + (second / 2) ** 2), rtol=1e-4)
