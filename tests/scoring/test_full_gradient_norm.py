"""The exact per-example gradient norm against one training step for each example."""

import keras
import numpy as np
import pytest
from keras import layers
from small_models import classifier

import keras_swift as ks
from keras_swift.src.scoring.scorer import Scorer

N = 5
GENERATOR = np.random.default_rng(0)


def dense():
    x = GENERATOR.normal(size=(N, 4)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    return model, "sparse_categorical_crossentropy", x, GENERATOR.integers(0, 3, N)


def masked_embedding():
    x = np.array([[1, 2, 0], [3, 0, 0], [4, 4, 1], [2, 1, 3], [1, 0, 0]])
    model = keras.Sequential(
        [keras.Input((3,)), layers.Embedding(5, 4, mask_zero=True), layers.Dense(2)]
    )
    return model, "mse", x, GENERATOR.normal(size=(N, 3, 2)).astype("float32")


def two_outputs():
    x = GENERATOR.normal(size=(N, 6, 6, 1)).astype("float32")
    inputs = keras.Input((6, 6, 1))
    hidden = layers.Flatten()(layers.Conv2D(2, 3, activation="tanh")(inputs))
    outputs = {"a": layers.Dense(3, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)}
    y = {"a": GENERATOR.integers(0, 3, N), "b": GENERATOR.normal(size=(N, 1)).astype("float32")}
    losses = {"a": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "b": "huber"}
    return keras.Model(inputs, outputs), losses, x, y


def step_norms(model, x, y, weights):
    """What one step of SGD at rate 1 changes, example by example."""
    start = [np.array(v) for v in model.get_weights()]
    norms = []
    for i in range(N):
        model.set_weights(start)
        row = keras.tree.map_structure(lambda leaf, i=i: leaf[i : i + 1], (x, y, weights))
        model.train_on_batch(*row)
        changes = [np.sum((a - b) ** 2) for a, b in zip(start, model.get_weights(), strict=True)]
        norms.append(np.sqrt(sum(changes)))
    model.set_weights(start)
    return np.array(norms)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("make", [dense, masked_embedding, two_outputs])
def test_it_is_the_norm_of_the_whole_gradient(make, weighted):
    keras.utils.set_random_seed(0)
    model, loss, x, y = make()
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            # Scores are taken in inference mode, a training step is not.
            layer.rate = 0.0
    loss_weights = {"a": 2.0, "b": 0.5} if isinstance(loss, dict) else None
    model.compile(keras.optimizers.SGD(1.0), loss, loss_weights=loss_weights)
    weights = np.linspace(0.5, 3.0, N) if weighted else np.ones(N)
    if make is masked_embedding:
        weights = np.repeat(weights[:, None], 3, axis=1)
    weights = keras.tree.map_structure(lambda leaf: weights.astype("float32"), y)
    scores = Scorer(model, ("full_gradient_norm",))(x, y, weights)["full_gradient_norm"]
    # Keras divides a batch of one by its own unmasked share; the score does
    # not, because a batch of many is divided by that of them all.
    unmasked = (x > 0).mean(axis=1) if make is masked_embedding else 1.0
    expected = step_norms(model, x, y, weights) * unmasked
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)


def test_it_trains_by_it(digits):
    model = classifier(0.3)
    trainer = ks.ImportanceTraining(model, tau_threshold=0, score="full_gradient_norm", seed=0)
    history = trainer.fit(digits[0][:96], digits[1][:96], batch_size=16, verbose=0).history
    assert history["importance"] == [1.0]
    assert history["tau"][0] > 0
