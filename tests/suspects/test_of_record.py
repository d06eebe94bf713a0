"""Suspects of trainings that were not made to find them."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small_models import classifier

import keras_swift as ks
from keras_swift.src.suspects.mixture import find_doubts


@pytest.fixture(scope="module")
def moved(digits):
    generator = np.random.default_rng(0)
    x, y = digits[0][:500], digits[1][:500]
    wrong = generator.random(500) < 0.2
    return x, np.where(wrong, (y + generator.integers(1, 10, 500)) % 10, y), wrong


def test_an_importance_training_knows_its_suspects(moved):
    x, y, wrong = moved
    model = classifier(0.2)
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x, y, epochs=12, verbose=0)
    weights = model.get_weights()
    found = trainer.suspects()
    assert roc_auc_score(wrong, found.scores) > 0.95
    assert wrong[found.indices].mean() > 0.8
    np.testing.assert_array_equal(found.scores, -trainer.memory.mean_margin)
    np.testing.assert_array_equal(
        np.sort(found.indices), np.flatnonzero(find_doubts(trainer.memory, y).suspect)
    )
    # The most probable other class, by the model as it is.
    predicted = model.predict(x[found.indices], verbose=0)
    predicted[np.arange(len(found)), y[found.indices]] = -1
    assert found.instead.tolist() == predicted.argmax(axis=1).tolist()
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_the_part_that_was_trained_on_is_judged(moved):
    x, y, _ = moved
    trainer = ks.ImportanceTraining(classifier(0.2), seed=0)
    trainer.fit(x, y, epochs=2, validation_split=0.2, verbose=0)
    assert trainer.suspects().labels.tolist() == y[:400].tolist()


def test_a_training_by_its_own_record_knows_its_suspects(moved):
    x, y, wrong = moved
    sampler = ks.SwiftSampler([0.2, 0.2], [0, 0, 1, 1], [1.0], ["mean_margin"], "cdf")
    trainer = ks.SwiftTraining(classifier(0.2), sampler, seed=0)
    with pytest.raises(ValueError, match="Received: nothing remembered"):
        trainer.suspects()
    trainer.fit(x, y, epochs=12, verbose=0)
    found = trainer.suspects(class_names=[f"digit {k}" for k in range(10)])
    assert roc_auc_score(wrong, found.scores) > 0.95
    assert f"labelled digit {y[found.indices[0]]}, predicted digit" in str(found)


def test_what_is_not_remembered_is_an_error(moved):
    x, y, _ = moved
    trainer = ks.ImportanceTraining(classifier(), seed=0)
    with pytest.raises(ValueError, match=r"Received: nothing remembered.*`find_suspects"):
        trainer.suspects()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(3, "sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(x[:64], np.eye(10, dtype="float32")[y[:64], :3], verbose=0)
    with pytest.raises(ValueError, match="Received: binary targets, of 3 numbers an example"):
        trainer.suspects()
