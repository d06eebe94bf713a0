"""`SwiftTraining` is `model.fit` on what the sampler draws."""

import keras
import numpy as np
import pytest
from small_models import assert_same_weights, classifier, counting_model, counts, one_hot_data

import keras_swift as ks
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.swift.trainer import DrawnDataset, SwiftTraining

# Nothing above the median loss is drawn.
EASY = ks.SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], ["loss"], "cdf")
EASY_HALF = ks.SwiftSampler([0.5, 0.5], [1.0, 1.0, 0.0, 0.0], [1.0], ["loss"], "cdf")
UNIFORM = ks.SwiftSampler.uniform(["loss"], transform="cdf")


def test_uniform_sampler_trains_on_each_example_once_an_epoch():
    x, y = one_hot_data(50)
    model = counting_model(50)
    training = SwiftTraining(model, UNIFORM, features={"loss": np.arange(50)}, seed=0)
    history = training.fit(x, y, batch_size=16, epochs=3, verbose=0)
    assert counts(model).tolist() == [3.0] * 50
    assert len(history.history["loss"]) == 3


def test_draws_follow_the_probabilities():
    x, y = one_hot_data(40)
    model = counting_model(40)
    features = {"loss": np.random.default_rng(0).permutation(40)}
    SwiftTraining(model, EASY, features=features, seed=0).fit(x, y, epochs=8, verbose=0)
    expected = EASY.probabilities(features) * 40
    # Each epoch's count is within one of the expected, so is the mean of eight.
    assert np.abs(counts(model) / 8 - expected).max() < 1
    assert counts(model).sum() == 8 * 40
    assert np.all(counts(model)[expected == 0] == 0)


def test_an_epoch_has_as_many_steps_as_fit_would_take():
    x, y = one_hot_data(50)
    for arguments, draws in [({"batch_size": 16}, 50), ({}, 50), ({"steps_per_epoch": 3}, 51)]:
        model = counting_model(50)
        training = SwiftTraining(model, EASY, features={"loss": np.arange(50)}, seed=0)
        training.fit(x, y, verbose=0, **arguments)
        assert counts(model).sum() == draws


def test_one_seed_gives_one_result(digits):
    x, y = digits[0][:100], digits[1][:100]
    models = [classifier() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        training = SwiftTraining(model, EASY, reference=classifier(), seed=seed)
        training.fit(x, y, epochs=2, verbose=0)
    assert_same_weights(models[0], models[1])
    assert not np.array_equal(models[0].get_weights()[0], models[2].get_weights()[0])


def test_global_generators_are_left_alone(digits):
    import random

    model, reference = classifier(), classifier()
    np.random.seed(0)
    random.seed(0)
    before = random.getstate(), np.random.get_state()[1].copy()
    SwiftTraining(model, EASY, reference=reference).fit(digits[0], digits[1], verbose=0)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_batches_may_be_fetched_twice():
    source = ArraySource(*one_hot_data(30))
    dataset = DrawnDataset(source, np.full(30, 1 / 30), 8, seed=0)
    again = DrawnDataset(source, np.full(30, 1 / 30), 8, seed=0)
    dataset[1], dataset[0]
    for index in range(4):
        np.testing.assert_array_equal(dataset[index][0], again[index][0])
    first = np.concatenate([dataset.indices(k) for k in range(4)])
    dataset.on_epoch_end()
    second = np.concatenate([dataset.indices(k) for k in range(4)])
    assert not np.array_equal(first, second)
    later = DrawnDataset(source, np.full(30, 1 / 30), 8, seed=0, first_epoch=1)
    np.testing.assert_array_equal(np.concatenate([later.indices(k) for k in range(4)]), second)


def test_sample_weights_and_class_weights_weight_the_loss(digits):
    x, y = digits[0][:64], digits[1][:64]
    weight = np.where(y < 5, 0.0, 2.0)
    results = []
    for arguments in (
        {"sample_weight": weight},
        {"class_weight": {k: 0.0 if k < 5 else 2.0 for k in range(10)}},
    ):
        model = classifier()
        SwiftTraining(model, EASY, reference=classifier(), seed=0).fit(x, y, verbose=0, **arguments)
        results.append(model)
    assert_same_weights(*results)
    plain = classifier()
    SwiftTraining(plain, EASY, reference=classifier(), seed=0).fit(x, y, verbose=0)
    assert not np.allclose(plain.get_weights()[0], results[0].get_weights()[0])


def test_weights_of_both_kinds_are_refused(digits):
    training = SwiftTraining(classifier(), EASY, reference=classifier())
    with pytest.raises(ValueError, match="cannot be given together"):
        training.fit(digits[0], digits[1], class_weight={0: 2.0}, sample_weight=np.ones(1797))


def test_validation_split_holds_out_the_end():
    x, y = one_hot_data(50)
    model = counting_model(50)
    training = SwiftTraining(model, UNIFORM, features={"loss": np.arange(40)}, seed=0)
    history = training.fit(x, y, validation_split=0.2, verbose=0)
    assert counts(model).tolist() == [1.0] * 40 + [0.0] * 10
    assert "val_loss" in history.history


def test_features_come_from_the_reference(digits):
    x, y = digits[0][:200], digits[1][:200]
    reference = classifier()
    reference.fit(x, y, epochs=3, verbose=0)
    loss = ks.compute_features(reference, x, y, ("loss",), verbose=0)["loss"]
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.model)

    model = classifier()
    before = reference.get_weights()
    ours = SwiftTraining(model, EASY_HALF, reference=reference, seed=0)
    ours.fit(x, y, epochs=2, callbacks=[Watch()], verbose=0)
    ready = classifier()
    SwiftTraining(ready, EASY_HALF, features={"loss": loss}, seed=0).fit(x, y, epochs=2, verbose=0)
    assert_same_weights(model, ready)
    assert seen == [model]
    for ours, theirs in zip(before, reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sampler_alone_asks_for_a_reference(digits):
    with pytest.raises(ValueError, match=r"needs the features.*\['loss'\].*Pass `reference`"):
        SwiftTraining(classifier(), EASY).fit(*digits)


def test_features_of_another_length_are_refused(digits):
    training = SwiftTraining(classifier(), EASY, features={"loss": np.arange(5)})
    with pytest.raises(ValueError, match=r"shape \(1797,\)"):
        training.fit(*digits)


def test_unknown_features_are_explained(digits):
    sampler = ks.SwiftSampler.uniform(["word_frequency"], transform="cdf")
    with pytest.raises(ValueError, match=r"made for the features \['word_frequency'\]"):
        SwiftTraining(classifier(), sampler, reference=classifier()).fit(*digits)


def test_other_kinds_of_sampler_are_refused():
    with pytest.raises(TypeError, match="`sampler` must be a `SwiftSampler`"):
        SwiftTraining(classifier(), "sampler.json")
