"""What a training step remembers of its examples, against the record of a search's pretraining."""

import keras
import numpy as np

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
