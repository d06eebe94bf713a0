"""The record of a training against looking at the model after each epoch."""

import keras
import numpy as np
import pytest
from small_models import classifier

from keras_swift.data.arrays import ArraySource
from keras_swift.swift.record import (
    FORWARD_COST,
    ExampleRecord,
    FinishedRecord,
    record_cost,
    recording,
)


def test_means_are_over_the_times_an_example_was_seen():
    record = ExampleRecord(3)
    record.add(np.array([0, 2]), np.array([1.0, 3.0]), np.array([0.5, -0.5]), np.array([0.7, 0.2]))
    record.add(np.array([2]), np.array([5.0]), np.array([0.1]), np.array([0.4]))
    np.testing.assert_array_equal(record.loss, [1, np.nan, 5])
    np.testing.assert_array_equal(record.margin, [0.5, np.nan, 0.1])
    np.testing.assert_array_equal(record.mean_loss, [1, np.nan, 4])
    np.testing.assert_allclose(record.mean_margin, [0.5, np.nan, -0.2])
    np.testing.assert_array_equal(record.share_wrong, [0, np.nan, 0.5])
    np.testing.assert_allclose(record.mean_probability, [0.7, np.nan, 0.3])
    kept = FinishedRecord.of(record)
    record.add(np.array([0]), np.zeros(1), np.zeros(1), np.zeros(1))
    np.testing.assert_array_equal(kept.mean_loss, [1, np.nan, 4])


def test_each_epoch_is_seen_as_the_model_is_at_its_end(digits):
    x, y = digits[0][:70], digits[1][:70]
    model = classifier()
    recorder, callbacks = recording(model, ArraySource(x, y), 16, epochs=3)
    ends = []

    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ends.append(model.get_weights())

    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[*callbacks, End()])
    p = []
    for weights in ends:
        model.set_weights(weights)
        p.append(model.predict(x, verbose=0).astype("float64"))
    of_label = np.array([each[np.arange(70), y] for each in p])
    np.testing.assert_allclose(recorder.record.mean_loss, -np.log(of_label).mean(0), rtol=1e-3)
    np.testing.assert_allclose(recorder.record.mean_probability, of_label.mean(0), rtol=1e-3)
    np.testing.assert_allclose(recorder.record.loss, -np.log(of_label[-1]), rtol=1e-3)
    wrong = np.array([each.argmax(axis=1) != y for each in p]).mean(axis=0)
    np.testing.assert_array_equal(recorder.record.share_wrong, wrong)
    assert recorder.cost == pytest.approx(3 * FORWARD_COST) == record_cost(3)


def test_recording_leaves_training_alone(digits):
    x, y = digits[0][:64], digits[1][:64]
    models = [classifier() for _ in range(2)]
    for model, recorded in zip(models, (False, True), strict=True):
        _, callbacks = recording(model, ArraySource(x, y), 16, 2)
        model.fit(
            x, y, 16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks if recorded else []
        )
    for first, second in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("epochs", "looks"), [(1, 1), (16, 16), (17, 9), (30, 15), (60, 15)])
def test_long_trainings_are_looked_at_now_and_then(digits, epochs, looks):
    x, y = digits[0][:8], digits[1][:8]
    recorder, _ = recording(classifier(), ArraySource(x, y), 8, epochs)
    for epoch in range(epochs):
        recorder.on_epoch_end(epoch)
    assert recorder.cost == pytest.approx(looks * FORWARD_COST) == record_cost(epochs)


def test_without_labels_there_are_losses_alone():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.eye(2, dtype="float32"), np.array([[1.0], [3.0]])
    recorder, _ = recording(model, ArraySource(x, y), 2, 1)
    recorder.look()
    expected = (model.predict(x, verbose=0) - y)[:, 0] ** 2
    np.testing.assert_allclose(recorder.record.mean_loss, expected, rtol=1e-4)
    assert np.isnan(recorder.record.mean_margin).all()
    assert np.isnan(recorder.record.share_wrong).all()
