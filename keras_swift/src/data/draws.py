"""Draws by given probabilities: which examples are drawn, and in what order."""

from __future__ import annotations

import numpy as np

from keras_swift.src._types import FloatArray, IntArray

# By how much the rounding errors of a few sums may change a credit.
ROUNDING = 1e-12


def systematic_draw(expected: FloatArray, generator: np.random.Generator) -> IntArray:
    """Draws each example its expected number of times, rounded up or down at random.

    The expected counts are laid end to end, in random order, and an example
    is drawn at each of `k` points that are 1 apart, from a random start. The
    mean of each count is exactly `expected`, as in independent draws with
    replacement, but a count never differs from it by 1 or more. So there is
    less noise, and equal probabilities with `k = n` give an ordinary shuffled
    epoch, each example once.

    Args:
        expected: float array, shape `(n,)`, non-negative, with a sum that is
            a whole number `k` up to rounding: how often each example is
            drawn on average.
        generator: `np.random.Generator`, for the order and the start.

    Returns:
        An int array, shape `(k,)`, of positions in random order.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> np.bincount(systematic_draw(np.array([2.0, 0.0, 1.0]), generator)).tolist()
        [2, 0, 1]
    """
    count = round(float(expected.sum()))
    order = generator.permutation(len(expected))
    cumulative = np.cumsum(expected[order])
    if count:
        # Removes the rounding error of the sum, which could drop or add a draw at the end.
        cumulative *= count / cumulative[-1]
    # Otherwise rounding errors could change counts whose expectation is a whole number.
    cumulative = np.round(cumulative, 9)
    points = np.arange(count) + generator.uniform(1e-6, 1.0 - 1e-6)
    drawn = order[np.searchsorted(cumulative, points, side="right")]
    return generator.permutation(drawn)


def first_credit(size: int, generator: np.random.Generator) -> FloatArray:
    """The credit that examples begin with: for each uniform between 0 and 1, and evenly spread.

    Args:
        size: int, the number of examples `n`.
        generator: `np.random.Generator`.

    Returns:
        A float64 array, shape `(n,)`, for `draw_by_credit`.
    """
    # Away from both ends, so that rounding errors add up to no draw.
    return (generator.permutation(size) + generator.uniform(1e-3, 1.0 - 1e-3)) / size


def draw_by_credit(
    credit: FloatArray, expected: FloatArray, generator: np.random.Generator
) -> IntArray:
    """Draws examples so that the counts of several draws in a row add up to the expected sum.

    Each draw adds to the credit of an example how often it is to be drawn, and
    an example is drawn when its credit reaches a whole number. So it is drawn
    at even distances, as a shuffled epoch has each example once: if the
    expected counts of several draws sum to 1 for each example, each is drawn
    exactly once. Draws that are independent of each other leave a third of
    them out. Where the number of examples that are due differs from the
    number to draw, some wait, or are drawn early, chosen at random in
    proportion to `expected`; what they are owed stays in their credit.

    The mean of a count is what was expected only if `expected` does not
    depend on whether the example was drawn before.

    Args:
        credit: float64 array, shape `(n,)`, from `first_credit` or an earlier
            draw; it is changed in place.
        expected: float array, shape `(n,)`, non-negative, with a sum that is
            a whole number `k` up to rounding: how often each example is
            drawn on average.
        generator: `np.random.Generator`, for the order and the corrections.

    Returns:
        An int array, shape `(k,)`, of positions in random order.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> credit = first_credit(4, generator)
        >>> halves = [draw_by_credit(credit, np.full(4, 0.5), generator) for _ in range(2)]
        >>> sorted(np.concatenate(halves).tolist())
        [0, 1, 2, 3]
    """
    total = float(expected.sum())
    count = round(total)
    credit += expected
    # A credit below zero is that of an example that was drawn early.
    due = np.flatnonzero(credit >= 1.0 - ROUNDING)
    counts = np.floor(credit[due] + ROUNDING).astype(np.int64)
    drawn = generator.permutation(np.repeat(due, counts))
    missing = count - len(drawn)
    if missing < 0:
        drawn = drawn[:count]
    elif missing > 0:
        early = generator.choice(len(credit), missing, p=expected / total)
        drawn = generator.permutation(np.concatenate([drawn, early]))
    np.subtract.at(credit, drawn, 1.0)
    return drawn
