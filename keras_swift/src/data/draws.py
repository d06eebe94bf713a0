"""Draws by given probabilities: which examples are drawn, and in what order."""

from __future__ import annotations

import numpy as np

from keras_swift.src._types import FloatArray, IntArray


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
