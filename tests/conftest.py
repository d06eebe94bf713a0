"""Small models and real data for the whole suite."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One thread for each process of the suite: more would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_swift.scoring import precision as scoring_dtype


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits in a fixed random order: `(1797, 64)` in [0, 1], and labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).astype("float32"), y[order].astype("int64")


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    """Scores are computed in the model's own type: on a busy machine the clock decides anything."""
    monkeypatch.setattr(scoring_dtype, "WORTH_TIMING", float("inf"))


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
