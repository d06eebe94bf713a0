"""A small model that most tests train, and comparisons of what came out."""

import keras
import numpy as np


def classifier(learning_rate=0.1, **compile_arguments):
    """A seeded 64-32-10 network with a softmax, compiled with SGD."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(keras.optimizers.SGD(learning_rate), **{**settings, **compile_arguments})
    return model


def assert_same_weights(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
