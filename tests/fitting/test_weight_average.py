"""The mean of the weights at the end of a run, against weights read after every step."""

import keras
import numpy as np
import pytest

from keras_swift.src.fitting.weight_average import WeightAverage


class Recorder(keras.callbacks.Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.weights.append(self.model.get_weights())


@pytest.fixture
def task():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mean_squared_error")
    generator = np.random.default_rng(0)
    return model, generator.normal(size=(40, 3)), generator.normal(size=(40, 1))


def trained(task, epochs, steps, callbacks=()):
    model, x, y = task
    average = WeightAverage(epochs, 5, steps)
    model.fit(x, y, batch_size=8, epochs=epochs, callbacks=[average, *callbacks], verbose=0)
    return model, average


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_mean_is_over_exactly_the_last_steps(task, steps):
    recorder = Recorder()
    model, average = trained(task, 2, steps, [recorder])
    average.put()
    assert len(recorder.weights) == 10
    expected = [
        np.mean(weights, axis=0) for weights in zip(*recorder.weights[-steps:], strict=True)
    ]
    for variable, mean in zip(model.weights, expected, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable.value), mean, rtol=1e-5, atol=1e-6
        )


def test_long_runs_are_read_a_few_times_evenly(task, monkeypatch):
    monkeypatch.setattr("keras_swift.src.fitting.weight_average.READINGS", 3)
    recorder = Recorder()
    model, average = trained(task, 2, 9, [recorder])
    average.put()
    # After steps 2, 5, 8 of 10, and after the last one.
    read = [recorder.weights[k] for k in (1, 4, 7, 9)]
    for found, weights in zip(model.get_weights(), zip(*read, strict=True), strict=True):
        np.testing.assert_allclose(found, np.mean(weights, axis=0), rtol=1e-5, atol=1e-6)


def test_counters_of_random_layers_keep_their_last_values(task):
    model, average = trained(task, 2, 10)

    def counters():
        return [
            np.array(keras.ops.convert_to_numpy(v.value))
            for v in model.variables
            if not keras.backend.is_float_dtype(v.dtype)
        ]

    last = counters()
    average.put()
    assert len(last) == 1
    np.testing.assert_array_equal(counters()[0], last[0])


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras has no steps_per_execution on PyTorch"
)
def test_several_steps_an_execution_are_averaged_too(task):
    model, x, y = task
    model.compile("adam", "mean_squared_error", steps_per_execution=5)
    average = WeightAverage(4, 5, 10)
    ends = []
    on_end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(model.get_weights())
    )
    model.fit(x, y, batch_size=8, epochs=4, callbacks=[average, on_end], verbose=0)
    average.put()
    # Weights are at hand only where an execution begins: after steps 15 and 20.
    for found, weights in zip(model.get_weights(), zip(*ends[2:], strict=True), strict=True):
        np.testing.assert_allclose(found, np.mean(weights, axis=0), rtol=1e-5, atol=1e-6)
