"""`SwiftTraining` by a record of its own."""

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier

import keras_swift as ks
from keras_swift.src.swift.trainer import SwiftTraining

MARGINS = ["mean_margin", "mean_margin_in_class"]
# The upper three fifths by both margins.
CUT = ks.SwiftSampler([0.4, 0.4], [0, 0, 1, 1], [0.5, 0.5], MARGINS, "cdf")


class Draws(keras.callbacks.Callback):
    """What was drawn in each epoch, and what the record before it says should have been."""

    def __init__(self, training):
        super().__init__()
        self.training, self.counts, self.expected = training, [], []

    def on_epoch_begin(self, epoch, logs=None):
        own = self.training._own
        self.before = own.recorder.record.state().counts
        probability = np.full(len(self.before), 1 / len(self.before))
        if not own.uniform_epochs():
            probability = self.training.sampler.probabilities(own.columns())
        self.expected.append(probability * len(self.before))

    def on_epoch_end(self, epoch, logs=None):
        self.counts.append(self.training._own.recorder.record.state().counts - self.before)


def trained(digits, training, epochs=5, **arguments):
    draws = Draws(training)
    callbacks = [draws, *arguments.pop("callbacks", [])]
    x, y = digits[0][:100], digits[1][:100]
    training.fit(x, y, 16, epochs, 0, callbacks, **arguments)
    return np.array(draws.counts), np.array(draws.expected)


def test_epochs_are_uniform_and_then_drawn_by_the_record_so_far(digits):
    validation = digits[0][100:150], digits[1][100:150]
    training = SwiftTraining(classifier(0.5), CUT, seed=0, warmup=2)
    counts, expected = trained(digits, training, validation_data=validation)
    assert np.all(counts[:2] == 1)
    assert np.all(counts.sum(axis=1) == 100)
    # Each example is drawn as often as the sampler says, rounded up or down.
    assert np.abs(counts - expected).max() < 1
    for epoch in (2, 3, 4):
        assert np.mean(counts[epoch] == 0) > 0.3
    # Ranked anew at each epoch.
    assert not np.array_equal(expected[2], expected[3])


def test_a_third_of_the_epochs_is_uniform_by_default(digits):
    counts, _ = trained(digits, SwiftTraining(classifier(0.5), CUT, seed=0), epochs=7)
    assert [bool(np.all(row == 1)) for row in counts] == [True] * 3 + [False] * 4


def test_another_fit_on_the_same_arrays_goes_on_with_the_record(digits):
    x, y = digits[0][:100], digits[1][:100]
    training = SwiftTraining(classifier(0.5), CUT, seed=0, warmup=2)
    training.fit(x, y, epochs=3, verbose=0)
    draws = Draws(training)
    training.fit(x, y, epochs=5, initial_epoch=3, verbose=0, callbacks=[draws])
    assert np.abs(np.array(draws.counts) - draws.expected).max() < 1
    assert np.mean(draws.counts[0] == 0) > 0.3
    other = Draws(training)
    training.fit(x[:60], y[:60], epochs=3, verbose=0, callbacks=[other])
    assert np.all(np.array(other.counts)[:2] == 1)


@pytest.mark.slow
def test_one_seed_gives_one_result(digits):
    models = [classifier() for _ in range(2)]
    for model in models:
        trained(digits, SwiftTraining(model, CUT, seed=0))
    assert_same_weights(*models)


@pytest.mark.slow
def test_the_gradient_norm_of_the_transform_is_recorded_too(digits):
    sampler = ks.SwiftSampler([0.4], [0.5, 0, 1], [1.0], ["mean_loss"], "cgf")
    model = classifier(0.0)
    training = SwiftTraining(model, sampler, seed=0, warmup=1)
    trained(digits, training, epochs=2)
    found = training._own.columns()
    x, y = digits[0][:100], digits[1][:100]
    expected = ks.compute_features(model, x, y, ("loss", "gradient_norm"), verbose=0)
    np.testing.assert_allclose(found["gradient_norm"], expected["gradient_norm"], rtol=1e-4)
    np.testing.assert_allclose(found["mean_loss"], expected["loss"], rtol=1e-4)


def test_the_last_loss_is_the_one_last_trained_with(digits):
    names = ["mean_margin", "last_loss", "last_loss_in_class"]
    sampler = ks.SwiftSampler([0.6], [1, 1, 0], [-0.5, 0.5, 0.0], names, "cdf")
    training = SwiftTraining(classifier(0.5), sampler, seed=0, warmup=2)
    trained(digits, training, epochs=4)
    record, found = training._own.recorder.record, training._own.columns()
    np.testing.assert_array_equal(found["last_loss"], record.loss)
    # A model that learns has other losses now than on average.
    assert np.abs(record.loss - record.mean_loss).mean() > 0.1
    labels = digits[1][:100]
    for label in range(10):
        members = labels == label
        order = np.argsort(record.loss[members])
        assert np.all(np.diff(found["last_loss_in_class"][members][order]) > 0)


def test_an_interrupted_run_goes_on_as_an_unbroken_one(digits, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    whole = classifier()
    expected, _ = trained(digits, SwiftTraining(whole, CUT, seed=0, warmup=2))
    with pytest.raises(KeyboardInterrupt):
        trained(
            digits, SwiftTraining(classifier(), CUT, seed=0, warmup=2), callbacks=[backup(), Stop()]
        )
    resumed = classifier()
    # Of another seed: the draws are those of the backup.
    training = SwiftTraining(resumed, CUT, seed=1, warmup=2)
    counts, _ = trained(digits, training, callbacks=[backup()])
    np.testing.assert_array_equal(counts, expected[3:])
    assert_same_weights(whole, resumed)


def test_nothing_is_left_in_the_model(digits):
    ours, theirs = classifier(), classifier()
    trained(digits, SwiftTraining(ours, CUT, seed=0))
    theirs.fit(digits[0][:100], digits[1][:100], verbose=0)
    assert set(vars(ours)) == set(vars(theirs))
    ours.fit(digits[0][:32], digits[1][:32], verbose=0)


def test_what_cannot_be_recorded_is_refused(digits):
    x, y = digits[0][:40], digits[1][:40]
    with pytest.raises(ValueError, match="`warmup`"):
        SwiftTraining(classifier(), CUT, warmup=0)
    with pytest.raises(ValueError, match="`epochs` must leave some.*5 epochs, of which.*takes 5"):
        SwiftTraining(classifier(), CUT, warmup=5).fit(x, y, epochs=5, verbose=0)
    with pytest.raises(ValueError, match="features must be given if they need a record"):
        SwiftTraining(classifier(), CUT, reference=classifier()).fit(x, y, epochs=5, verbose=0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="is for classifiers"):
        SwiftTraining(model, CUT).fit(x, y.astype("float32"), epochs=5, verbose=0)
    mixed = ks.SwiftSampler.uniform(["mean_loss", "loss"], transform="cdf")
    with pytest.raises(ValueError, match="needs the features of the data"):
        SwiftTraining(classifier(), mixed).fit(x, y, epochs=5, verbose=0)
