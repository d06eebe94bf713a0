"""Remembered scores: what is computed of them is what the arithmetic of whole arrays gives."""

import numpy as np
import pytest

from keras_swift.src.importance import remembered_scores
from keras_swift.src.importance.remembered_scores import RememberedScores
from keras_swift.src.importance.resampling import (
    importance_weights,
    sampling_probability,
    variance_reduction,
)

CASES = {
    "spread": np.array([0.1, 2.0, 0.0, 0.7, 5.0, 0.7, 0.2], np.float32),
    "unknown": np.array([0.1, np.nan, 0.0, 0.7, 5.0, np.nan, 0.2], np.float32),
    "equal": np.full(977, 0.7, np.float32),
    "zero": np.zeros(7, np.float32),
    "one known": np.array([np.nan, 2.0, np.nan], np.float32),
}


def filled(scores):
    scores = scores.astype(np.float64)
    return np.where(np.isnan(scores), np.nanmean(scores), scores)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(remembered_scores, "BLOCK", 3)


@pytest.mark.parametrize("floor", [0.2, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_probabilities_weights_and_sums_are_those_of_whole_arrays(name, floor):
    scores = RememberedScores(CASES[name], floor)
    whole = filled(CASES[name])
    probability = sampling_probability(whole, floor)
    weights = importance_weights(probability)
    np.testing.assert_allclose(scores.probability(), probability, rtol=1e-12)
    numbers = np.arange(len(whole))[::-1]
    np.testing.assert_allclose(scores.weights(numbers), weights[::-1], rtol=1e-12)
    assert scores.tau == pytest.approx(variance_reduction(sampling_probability(whole)))
    squares = whole**2
    if squares.sum():
        expected = squares.sum() / (weights * squares).sum()
        assert scores.predict_gain() == pytest.approx(expected)
    # The mean of the draw is unbiased, to the last bit if scores are equal.
    assert (scores.probability() * scores.weights(np.arange(len(whole)))).sum() == pytest.approx(1)
    assert name not in ("equal", "zero") or set(scores.weights(numbers)) == {1.0}


def test_numbers_beyond_those_known_get_the_mean():
    scores = RememberedScores(np.array([1.0, np.nan, 3.0], np.float32), 0.5)
    assert scores.of(np.array([4, 0, 3, 1])).tolist() == [2.0, 1.0, 2.0, 2.0]
    assert scores.known == 2 and len(scores) == 3


def test_no_scores_are_no_reason_to_draw():
    scores = RememberedScores(np.full(4, np.nan, np.float32), 0.5)
    assert scores.known == 0 and np.isnan(scores.mean)
    assert (scores.tau, scores.predict_gain()) == (1.0, 1.0)
