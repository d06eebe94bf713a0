"""Draws by static probabilities: exact counts, exact means."""

import numpy as np

from keras_swift.src.data.draws import systematic_draw


def test_uniform_probabilities_give_a_shuffled_epoch():
    for n in (1, 7, 1000):
        drawn = systematic_draw(np.full(n, 1 / n) * n, np.random.default_rng(n))
        assert sorted(drawn) == list(range(n))
    assert not np.array_equal(drawn, np.arange(1000))


def test_counts_differ_from_the_expected_by_less_than_one():
    generator = np.random.default_rng(0)
    for seed in range(50):
        weight = np.random.default_rng(seed).gamma(0.3, size=80)
        expected = weight / weight.sum() * 200
        drawn = systematic_draw(expected, generator)
        assert len(drawn) == 200
        assert np.abs(np.bincount(drawn, minlength=80) - expected).max() < 1


def test_mean_counts_are_the_expected():
    expected = np.array([0.05, 0.35, 1.7, 0.9, 2.0])
    generator = np.random.default_rng(0)
    counts = np.mean(
        [np.bincount(systematic_draw(expected, generator), minlength=5) for _ in range(4000)],
        axis=0,
    )
    # A count is one of two neighbours: its standard error is at most 0.5 / sqrt(4000).
    # Five of them: a false alarm is less likely than one in a million.
    assert np.abs(counts - expected).max() < 5 * 0.5 / np.sqrt(4000)


def test_rare_examples_are_drawn_as_often_as_expected():
    generator = np.random.default_rng(0)
    expected = np.array([0.05, 0.95])
    drawn = [systematic_draw(expected, generator)[0] == 0 for _ in range(4000)]
    # Four standard errors: a false alarm is less likely than one in ten thousand.
    assert abs(np.mean(drawn) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_nothing_expected_gives_nothing():
    assert len(systematic_draw(np.zeros(3), np.random.default_rng(0))) == 0


def test_rounding_of_the_sum_costs_no_draw():
    class LastPoint:
        """The start that puts the last point nearest to the end."""

        def permutation(self, x):
            return np.arange(x) if np.isscalar(x) else x

        def uniform(self, low, high):
            return high

    # As much as a sum over a hundred million examples may be off.
    drawn = systematic_draw(np.full(7, 3 / 7 - 1e-5), LastPoint())
    assert drawn.tolist() == [2, 4, 6]


def test_examples_of_probability_zero_are_never_drawn():
    expected = np.zeros(100)
    expected[::7] = 100 / len(expected[::7])
    for seed in range(100):
        assert set(systematic_draw(expected, np.random.default_rng(seed)) % 7) == {0}


def test_order_is_random():
    drawn = systematic_draw(np.array([50.0, 50.0]), np.random.default_rng(0))
    # The chance that a shuffled half holds fewer than 10 or more than 40 of 50 is below 1e-8.
    assert 10 < np.sum(drawn[:50] == 0) < 40
