"""What a training step remembers of its examples, against the record of a search's pretraining."""

import keras
import numpy as np
import pytest

import keras_swift as ks
from keras_swift.src.importance.weighted_step import StepScores
from keras_swift.src.records.outputs import LabelScorer
from keras_swift.src.scoring.scorer import Scorer


def test_margins_of_several_outputs_are_averaged_by_their_loss_weights():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 4)).astype("float32")
    y = {name: generator.integers(0, 3, 16) for name in ("first", "second")}
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, "softmax", name=name)(inputs) for name in y}
    model = keras.Model(inputs, outputs)
    loss = "sparse_categorical_crossentropy"
    weights = {"first": 1.0, "second": 3.0}
    model.compile("sgd", dict.fromkeys(y, loss), loss_weights=weights)
    scorer = Scorer(model, ("loss",))
    scorer(x, y)
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, y)
    y_pred = model(x)
    found = keras.ops.convert_to_numpy(StepScores(scorer)(tensors, y_pred))
    margin, rows = np.zeros(16), np.arange(16)
    for name, weight in weights.items():
        probability = keras.ops.convert_to_numpy(y_pred[name]).copy()
        own = probability[rows, y[name]].copy()
        probability[rows, y[name]] = -1
        margin += weight / 4 * (own - probability.max(axis=1))
    np.testing.assert_allclose(found[:, 2], margin, atol=1e-6)
    # The other recorder says the same: score (here the loss), loss, margin and probability.
    other = LabelScorer(model, x, y).of_outputs(tensors, y_pred)
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(other), atol=1e-6)


@pytest.mark.any_backend
def test_outputs_in_a_list_have_weights_with_axes_of_their_own():
    """Weights of shape `(b,)` for one and `(b, 1)` for the other cannot be one array."""
    inputs = keras.Input((5, 3))
    steps = keras.layers.Dense(2, activation="softmax", name="steps")(inputs)
    whole = keras.layers.Dense(1, name="whole")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, [steps, whole])
    model.compile(keras.optimizers.SGD(0.1), ["sparse_categorical_crossentropy", "mse"])
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 5, 3)).astype("float32")
    y = [generator.integers(0, 2, (64, 5)), generator.normal(size=(64, 1)).astype("float32")]
    history = ks.ImportanceTraining(model, seed=0, ease_off=False).fit(x, y, epochs=3, verbose=0)
    assert len(history.history["loss"]) == 3 and np.isfinite(history.history["loss"]).all()
