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


class Seen(keras.layers.Layer):
    """Adds up what it is given in training, in the weight `total`."""

    def build(self, shape):
        self.total = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.total.assign_add(keras.ops.sum(x, axis=0))
        return x


def counting_model(n):
    """Counts in `layers[0].total` how often each of `n` one-hot examples is trained on."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((n,)), Seen(), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def counts(model):
    return keras.ops.convert_to_numpy(model.layers[0].total)


def one_hot_data(n):
    return np.eye(n, dtype="float32"), np.arange(n) % 3


def assert_same_weights(first, second):
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
