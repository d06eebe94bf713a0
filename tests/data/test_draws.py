"""Draws by given probabilities: exact counts, exact means, and counts that add up over draws."""

import itertools

import numpy as np
import pytest

from keras_swift.src.data.draws import draw_by_credit, first_credit, systematic_draw


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


def skewed(size, seed=1):
    weight = np.random.default_rng(seed).gamma(0.5, size=size)
    return 0.5 / size + 0.5 * weight / weight.sum()


@pytest.mark.parametrize(("size", "parts"), [(8, 4), (1000, 4), (60, 5), (7, 7), (1, 1)])
def test_equal_expectations_draw_each_example_once_in_a_pass(size, parts):
    generator = np.random.default_rng(0)
    credit = first_credit(size, generator)
    for _ in range(3):
        of_parts = [
            draw_by_credit(credit, np.full(size, 1 / parts), generator) for _ in range(parts)
        ]
        assert {len(drawn) for drawn in of_parts} == {size // parts}
        assert sorted(np.concatenate(of_parts)) == list(range(size))


def test_what_is_not_drawn_stays_in_the_credit():
    generator = np.random.default_rng(0)
    credit = first_credit(50, generator)
    owed, most = credit.copy(), 0.0
    for part in range(40):
        expected = skewed(50, seed=part) * 20
        drawn = draw_by_credit(credit, expected, generator)
        assert len(drawn) == 20
        owed += expected - np.bincount(drawn, minlength=50)
        np.testing.assert_allclose(credit, owed, atol=1e-9)
        most = max(most, np.abs(credit).max())
    # Few have to wait, or are drawn early, twice in a row.
    assert most < 3


def test_mean_counts_of_each_part_and_of_all_are_the_expected():
    generator = np.random.default_rng(0)
    expected, repeats = skewed(400) * 100, 2000
    counts = np.zeros((4, 400))
    for _ in range(repeats):
        credit = first_credit(400, generator)
        for part in counts:
            part += np.bincount(draw_by_credit(credit, expected, generator), minlength=400)
    # Those seldom drawn, each with a large weight, together: they may be off by a hundredth.
    for rows in (expected < 0.15, expected > 0.5):
        for part in (*counts, counts.mean(0)):
            error = 4 * np.sqrt(expected[rows].sum() / repeats)
            found = part[rows].sum() / repeats
            assert abs(found - expected[rows].sum()) < error + 0.01 * expected[rows].sum()
    # 0.24 of the variance of draws with replacement; systematic draws of each part have 0.68.
    assert np.var(counts.sum(0) - 4 * repeats * expected) < 0.35 * 4 * repeats * expected.mean()


def test_an_example_of_probability_zero_is_never_drawn_by_credit():
    expected = np.zeros(30)
    expected[::3] = np.linspace(0.1, 0.9, 10)
    for seed in range(50):
        generator = np.random.default_rng(seed)
        credit = first_credit(30, generator)
        for _ in range(5):
            assert set(draw_by_credit(credit, expected, generator) % 3) == {0}


def test_expected_step_of_a_draw_is_the_mean_step():
    """Enumerates the starts of one systematic draw in each order of a few examples."""
    scores = np.array([0.1, 0.4, 0.0, 2.0])
    values = np.array([1.0, -3.0, 5.0, 0.5])
    probability = 0.125 + 0.5 * scores / scores.sum()
    weights = 1 / (4 * probability)
    count, total = 3, []

    class Enumerated:
        """A generator that is told what to answer."""

        def __init__(self, order, start):
            self.order, self.start = np.array(order), start

        def permutation(self, thing):
            return self.order if isinstance(thing, int) else thing

        def uniform(self, low, high):
            return self.start

    starts = (np.arange(1000) + 0.5) / 1000
    for order in itertools.permutations(range(4)):
        for start in starts:
            drawn = systematic_draw(count * probability, Enumerated(order, start))
            total.append(np.mean(weights[drawn] * values[drawn]))
    # The starts are a grid, so the mean is exact to its width.
    assert np.mean(total) == pytest.approx(values.mean(), abs=2e-3)
