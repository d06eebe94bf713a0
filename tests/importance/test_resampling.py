import numpy as np
import pytest
import scipy.stats

from keras_swift.src.importance import resampling
from keras_swift.src.importance.resampling import (
    RememberedScores,
    draw,
    effective_sample_size,
    importance_weights,
    sampling_probability,
    variance_reduction,
)

SCORES = {
    "spread": np.random.default_rng(1).exponential(size=37) ** 3,
    "partly zero": np.r_[np.zeros(20), np.random.default_rng(2).random(17)],
    "tiny": np.full(5, 1e-300) * np.arange(5),
    "one": np.array([2.0]),
}
# Remembered scores: what is computed of them is what the arithmetic of whole arrays gives.
CASES = {
    "spread": np.array([0.1, 2.0, 0.0, 0.7, 5.0, 0.7, 0.2], np.float32),
    "unknown": np.array([0.1, np.nan, 0.0, 0.7, 5.0, np.nan, 0.2], np.float32),
    "equal": np.full(977, 0.7, np.float32),
    "zero": np.zeros(7, np.float32),
    "one known": np.array([np.nan, 2.0, np.nan], np.float32),
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("floor", [0.1, 0.5])
def test_weighted_mean_is_unbiased(scores, floor):
    values = np.random.default_rng(3).normal(size=len(scores))
    p = sampling_probability(scores, floor)
    assert p.sum() == pytest.approx(1)
    assert np.sum(p * importance_weights(p) * values) == pytest.approx(values.mean())


@pytest.mark.parametrize("size", [1, 3, 49, 384])
def test_equal_scores_give_unit_weights(size):
    drawn = draw(np.full(size, 0.3), 10, np.random.default_rng(0), floor=0.1)
    assert drawn.weights.tolist() == [1.0] * 10
    assert drawn.tau == 1.0


def test_all_zero_scores_mean_uniform():
    assert sampling_probability(np.zeros(8), floor=0.1).tolist() == [0.125] * 8


def test_floor_bounds_the_weights():
    p = sampling_probability([0.0, 0.0, 1.0], floor=0.2)
    assert importance_weights(p).max() == pytest.approx(1 / 0.2)


def test_probability_by_hand():
    np.testing.assert_allclose(sampling_probability([1.0, 3.0], 0.1), [0.275, 0.725])


def test_tau_is_the_papers():
    g = sampling_probability(SCORES["spread"])
    u = 1 / len(g)
    paper = 1 / np.sqrt(1 - np.sum((g - u) ** 2) / np.sum(g**2))
    assert variance_reduction(g) == pytest.approx(paper)


def test_tau_squared_is_the_ratio_of_second_moments():
    norms = SCORES["spread"]
    g = sampling_probability(norms)
    uniform = np.mean(norms**2)
    importance = np.sum(g * (importance_weights(g) * norms) ** 2)
    assert variance_reduction(g) ** 2 == pytest.approx(uniform / importance)


def test_draws_follow_probability():
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    drawn = draw(scores, 4000, np.random.default_rng(0)).positions
    assert np.bincount(drawn, minlength=4).tolist() == [400, 800, 1200, 1600]
    # One at a time they are independent; a score-blind draw gives p < 1e-200.
    generator = np.random.default_rng(0)
    drawn = np.concatenate([draw(scores, 1, generator).positions for _ in range(4000)])
    counts = np.bincount(drawn, minlength=4)
    assert scipy.stats.chisquare(counts, 4000 * scores).pvalue > 1e-3


def test_equal_scores_draw_no_example_twice():
    drawn = draw(np.ones(96), 32, np.random.default_rng(0))
    assert len(set(drawn.positions)) == 32 and drawn.weights.tolist() == [1.0] * 32


def test_a_seed_and_scores_give_these_draws():
    # The same on every backend and machine: drawn on the host in float64.
    drawn = draw([4.0, 1.0, 1.0, 2.0], 8, np.random.default_rng(7), floor=0.1)
    assert drawn.positions.tolist() == [3, 3, 1, 0, 0, 0, 0, 2]


def test_a_draw_weighs_what_it_drew():
    scores = np.array([1.0, 3.0])
    drawn = draw(scores, 20, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.weights, np.array([2.0, 2 / 3])[drawn.positions])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, np.nan, np.inf], "2 of 3 scores that are not, the first at position 1"),
        ([1.0, 1.0, -2.0], "1 of 3 scores below zero, the first at position 2"),
        ([], "non-empty vector"),
        ([[1.0]], r"shape=\(1, 1\)"),
    ],
)
def test_bad_scores_are_named(scores, message):
    with pytest.raises(ValueError, match=message):
        sampling_probability(scores)


def test_effective_sample_size_refuses_what_is_no_distribution():
    with pytest.raises(ValueError, match="sum to 1. Received: minimum=0.5, sum=1.5"):
        effective_sample_size([0.5, 0.5, 0.5])


def filled(scores):
    scores = scores.astype(np.float64)
    return np.where(np.isnan(scores), np.nanmean(scores), scores)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK", 3)


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
