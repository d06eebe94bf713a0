"""Suspects of trainings that were not made to find them."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small_models import classifier
from small_streams import Dealt, shuffled

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
    with pytest.raises(ValueError, match="`class_names` must be a list of 10 names.*Received: 2"):
        trainer.suspects(class_names=["zero", "one"])
    found = trainer.suspects(class_names=[f"digit {k}" for k in range(10)])
    assert roc_auc_score(wrong, found.scores) > 0.95
    assert f"labelled digit {y[found.indices[0]]}, predicted digit" in str(found)


@pytest.mark.parametrize("by", ["ids", "contents"])
def test_a_training_on_a_stream_knows_its_suspects(moved, by):
    x, y, wrong = moved

    def form(rows):
        return (x[rows], y[rows], None, rows) if by == "ids" else (x[rows], y[rows])

    stream = Dealt(shuffled(len(x)), form)
    model = classifier(0.2)
    trainer = ks.ImportanceTraining(model, seed=0)
    trainer.fit(stream, epochs=8, verbose=0)
    passes = stream.passes
    found = trainer.suspects()
    # Once more, for what the model proposes.
    assert stream.passes == passes + 1
    # The pass before only showed the shapes.
    index = stream.whole[0]
    np.testing.assert_array_equal(found.labels, y[index])
    np.testing.assert_array_equal(found.scores, -trainer.memory.margin.astype(np.float64))
    assert roc_auc_score(wrong[index], found.scores) > 0.9
    predicted = model.predict(x[index[found.indices]], verbose=0)
    predicted[np.arange(len(found)), found.labels[found.indices]] = -1
    assert found.instead.tolist() == predicted.argmax(axis=1).tolist()
    assert len(found) > 20
    if by == "ids":
        np.testing.assert_array_equal(found.ids, index)
    # A further fit on it goes on with both.
    trainer.fit(stream, epochs=1, verbose=0)
    np.testing.assert_array_equal(trainer.suspects().labels, y[index])


def test_a_generator_has_suspects_without_proposals(moved):
    x, y, _ = moved

    def endless():
        for order in shuffled(len(x), 20):
            for rows in np.split(order[:480], 15):
                yield x[rows], y[rows], None, rows

    trainer = ks.ImportanceTraining(classifier(0.2), seed=0)
    trainer.fit(endless(), steps_per_epoch=15, epochs=8, verbose=0)
    found = trainer.suspects()
    np.testing.assert_array_equal(found.labels, y[found.ids])
    assert len(found) > 20 and (found.instead == -1).all()
    assert f"example {found.ids[found.indices[0]]}: labelled" in str(found)
    assert "predicted" not in str(found)
    with pytest.raises(ValueError, match="a stream that can be read again to show its examples"):
        found.plot()


def test_labels_of_a_data_set_are_in_the_order_of_batches_and_rows(moved):
    x, y, _ = moved

    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            return x[32 * index : 32 * index + 32], y[32 * index : 32 * index + 32]

    trainer = ks.ImportanceTraining(classifier(0.2), seed=0)
    # The second epoch goes on where the first ended.
    trainer.fit(Rows(), steps_per_epoch=8, epochs=2, verbose=0)
    found = trainer.suspects()
    np.testing.assert_array_equal(found.labels, y)
    np.testing.assert_array_equal(found.scores, -trainer.memory.margin.astype(np.float64))


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
