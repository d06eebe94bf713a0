"""The arithmetic of importance sampling, in plain NumPy.

This file decides how scores become probabilities, how probabilities become
draws and weights, and how much variance that saves. It knows nothing of
models, so every identity the method rests on can be checked with arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.data.draws import systematic_draw

# Remembered scores that are summed at once: their float64 copy stays in a processor's cache.
BLOCK = 2**17
# A vector of numbers.
Numbers = FloatArray | Sequence[float]


@dataclasses.dataclass(frozen=True)
class Draw:
    """One batch drawn from a presample.

    Attributes:
        positions: int64 array, shape `(b,)`, positions in the presample.
        weights: float64 array, shape `(b,)`, importance weights; their
            expectation under the draw is 1.
        tau: float, the variance reduction of the scores, 1 or more.
    """

    positions: IntArray
    weights: FloatArray
    tau: float


def relative_probability(scores: FloatArray, mean: float, floor: float) -> FloatArray:
    """How many times as often as uniformly an example is drawn, `n p_i`.

    Computes `(1 - floor) * scores / mean + floor`. The uniform share lets
    examples whose score was rounded to zero be drawn, and bounds every
    importance weight by `1 / floor`.

    Args:
        scores: float64 array, shape `(k,)`, of some of the examples.
        mean: float, above 0, the mean score of all of them.
        floor: float in [0, 1), the share of the uniform distribution.

    Returns:
        A float64 array of shape `(k,)`.

    Example:
        >>> relative_probability(np.array([0.0, 3.0]), mean=2.0, floor=0.5).tolist()
        [0.5, 1.25]
    """
    return (1.0 - floor) * (scores / mean) + floor


def sampling_probability(scores: Numbers, floor: float = 0.0) -> FloatArray:
    """The sampling probability of each presampled example.

    Computes `(1 - floor) * scores / sum(scores) + floor / B` in float64.

    Args:
        scores: array, shape `(B,)`, finite and non-negative; only ratios
            matter. Scores that are all zero carry no information, so they
            give the uniform probability.
        floor: float in [0, 1), the share of the uniform distribution.
            Defaults to 0.0.

    Returns:
        A float64 array of shape `(B,)` that sums to 1.

    Raises:
        ValueError: if a score is negative or not finite.

    Example:
        >>> sampling_probability([1.0, 3.0]).tolist()
        [0.25, 0.75]
        >>> sampling_probability([0.0, 0.0]).tolist()
        [0.5, 0.5]
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_scores(scores)
    largest = scores.max()
    if largest == 0 or largest == scores.min():
        return np.full(len(scores), 1.0 / len(scores))
    # Scaling by the largest first, because a sum of tiny (denormal) scores
    # is too inexact to divide by.
    scaled: FloatArray = scores / largest
    return relative_probability(scaled, scaled.mean(), floor) / len(scaled)


def importance_weights(probability: Numbers) -> FloatArray:
    """The weights that make the mean over the drawn batch unbiased.

    Computes `w = 1 / (B p)` (Katharopoulos and Fleuret 2018, section 3.1):
    for any quantity `v`, `sum(p * w * v)` is the mean of `v` over the
    presample, whatever `p` is.

    Args:
        probability: array, shape `(B,)`, non-negative, sums to 1.

    Returns:
        A float64 array of shape `(B,)`; infinite for probability 0, which
        is never drawn. Equal probabilities give exactly 1.

    Example:
        >>> importance_weights([0.25, 0.75]).tolist()
        [2.0, 0.6666666666666666]
    """
    probability = np.asarray(probability, dtype=np.float64)
    if np.all(probability == probability[0]):
        # 1 / (B * (1 / B)) is not always 1 in floating point.
        return np.ones(len(probability))
    with np.errstate(divide="ignore"):
        return 1.0 / (len(probability) * probability)


def effective_sample_size(probability: Numbers) -> float:
    """How many equally likely examples would be as informative.

    Computes `1 / sum(p**2)` (Kish). Uniform `p` gives `B`; one certain
    example gives 1.

    Args:
        probability: float array, shape `(B,)`, non-negative, sums to 1.

    Returns:
        A float between 1 and `B`.

    Raises:
        ValueError: if `probability` is negative or does not sum to 1.

    Example:
        >>> effective_sample_size([0.5, 0.5])
        2.0
    """
    probability = np.asarray(probability, dtype=np.float64)
    if np.any(probability < 0) or not np.isclose(probability.sum(), 1.0):
        raise ValueError(
            "`probability` must be non-negative and sum to 1. Received: "
            f"minimum={probability.min()}, sum={probability.sum()}."
        )
    if np.all(probability == probability[0]):
        return float(len(probability))
    return float(1.0 / np.sum(probability**2))


def variance_reduction(probability: Numbers) -> float:
    """The variance reduction of importance over uniform sampling, `tau`.

    Computes `sqrt(B / ESS)`, which equals the `1 / sqrt(1 - |g - u|^2 /
    |g|^2)` of Katharopoulos and Fleuret 2018 for `u = 1 / B`.
    Its square is the second moment of the uniform estimate over that of the
    importance estimate when `probability` is proportional to the norms.

    Args:
        probability: float array, shape `(B,)`, non-negative, sums to 1.

    Returns:
        A float, 1 for equal probabilities and at most `sqrt(B)`.

    Example:
        >>> variance_reduction([0.5, 0.5, 0.0, 0.0])
        1.4142135623730951
    """
    return float(np.sqrt(len(probability) / effective_sample_size(probability)))


def draw(
    scores: Numbers, batch_size: int, generator: np.random.Generator, floor: float = 0.0
) -> Draw:
    """Draws a batch from a presample in proportion to the scores.

    It is the second stage of Algorithm 1 in Katharopoulos and Fleuret 2018,
    which draws `b` times independently. Here each example is drawn `b p`
    times, rounded up or down at random: the mean counts, and so the weights
    `1 / (B p)`, are the same, and the draw adds less noise. Independent
    draws of a third of a presample add a third to the variance of a uniform
    batch before they save any.

    Args:
        scores: array, shape `(B,)`, finite and non-negative.
        batch_size: int, how many examples to draw.
        generator: `np.random.Generator`.
        floor: float in [0, 1), the uniform share. Defaults to 0.0.

    Returns:
        A `Draw`. Its `tau` is that of the scores without the floor, so that
        it can be compared with the paper's threshold.

    Example:
        >>> drawn = draw([1.0, 1.0], 3, np.random.default_rng(0))
        >>> drawn.weights.tolist(), drawn.tau
        ([1.0, 1.0, 1.0], 1.0)
    """
    probability = sampling_probability(scores, floor)
    positions = systematic_draw(batch_size * probability, generator)
    return Draw(
        positions=positions,
        weights=importance_weights(probability)[positions],
        tau=variance_reduction(sampling_probability(scores)),
    )


class RememberedScores:
    """Scores of all examples; those without one get the mean, neither avoided nor preferred.

    A stream of ten million examples is drawn from twenty times an epoch, so only sums are computed
    for all examples; probabilities and weights for those that are asked for.

    Args:
        scores: float array, shape `(n,)`, non-negative, NaN where unknown. It is not copied: what
            changes in it later changes `of` and `weights`, but not the sums.
        floor: float in [0, 1), the uniform share of the sampling probability
            `p_i = floor / n + (1 - floor) s_i / sum(s)`.

    Attributes:
        known: int, how many examples have a score.
        mean: float, the mean score; NaN if none is known.

    Example:
        >>> scores = RememberedScores(np.array([1.0, np.nan, 3.0], np.float32), floor=0.5)
        >>> scores.of(np.array([0, 1, 2])).tolist(), scores.weights(np.array([1])).tolist()
        ([1.0, 2.0, 3.0], [1.0])
    """

    def __init__(self, scores: FloatArray, floor: float) -> None:
        self._scores = scores
        self._floor = floor
        self.known = 0
        total = self._squares = 0.0
        for block in self._blocks():
            self.known += len(block)
            total += float(block.sum())
            self._squares += float(np.square(block).sum())
        self.mean = total / self.known if self.known else math.nan

    def __len__(self) -> int:
        return len(self._scores)

    def _blocks(self) -> Iterator[FloatArray]:
        """The known scores in float64, a block of examples at a time."""
        for start in range(0, len(self._scores), BLOCK):
            block = self._scores[start : start + BLOCK]
            yield block[np.isfinite(block)].astype(np.float64)

    @property
    def _say_nothing(self) -> bool:
        """Whether no score is known, or all are zero."""
        return not self.known or self.mean == 0

    def of(self, numbers: IntArray) -> FloatArray:
        """The scores of these examples, float64; numbers from `n` on are unknown ones."""
        found = np.full(len(numbers), np.nan)
        there = numbers < len(self._scores)
        found[there] = self._scores[numbers[there]]
        found[~np.isfinite(found)] = self.mean
        return found

    def probability(self) -> FloatArray:
        """The sampling probability of all examples, shape `(n,)`, float64."""
        count = len(self)
        if self._say_nothing:
            return np.full(count, 1.0 / count)
        found = self._scores.astype(np.float64)
        found[~np.isfinite(found)] = self.mean
        return relative_probability(found, self.mean, self._floor) / count

    def weights(self, numbers: IntArray) -> FloatArray:
        """The importance weights `1 / (n p_i)` of these examples, float64."""
        return self._weights(self.of(numbers))

    def _weights(self, scores: FloatArray) -> FloatArray:
        if self._say_nothing:
            return np.ones(len(scores))
        with np.errstate(divide="ignore"):
            weights: FloatArray = 1.0 / relative_probability(scores, self.mean, self._floor)
        return weights

    @property
    def tau(self) -> float:
        """float, the variance reduction that the scores predict: `variance_reduction` of them."""
        if self._say_nothing:
            return 1.0
        count = len(self)
        squares = self._squares + (count - self.known) * self.mean**2
        return max(1.0, math.sqrt(squares / count) / self.mean)

    def predict_gain(self) -> float:
        """The variance gain of draws with the floor, if all scores still hold; 1 or more."""
        if self._say_nothing:
            return 1.0
        unknown = (len(self) - self.known) * self.mean**2
        drawn = sum(
            float(weighted_squares(self._weights(block), np.square(block)).sum())
            for block in self._blocks()
        )
        return max(1.0, (self._squares + unknown) / (drawn + unknown))


def weighted_squares(weights: FloatArray, squares: FloatArray) -> FloatArray:
    """The products; 0 where a square is 0, also for an example that is never drawn.

    Args:
        weights: float64 array, shape `(k,)`, infinite for a probability of 0.
        squares: float64 array, shape `(k,)`, the squared scores.
    """
    return np.multiply(weights, squares, out=np.zeros(len(squares)), where=squares > 0)


def check_scores(scores: FloatArray, empty: bool = False) -> None:
    """Raises unless `scores` is a vector of finite numbers >= 0; it may be empty if `empty`."""
    if scores.ndim != 1 or (len(scores) == 0 and not empty):
        raise ValueError(
            f"`scores` must be a non-empty vector. Received: shape={tuple(scores.shape)}."
        )
    wrong = ~np.isfinite(scores)
    if wrong.any():
        raise ValueError(
            f"`scores` must be finite. Received: {wrong.sum()} of {len(scores)} scores that are "
            f"not, the first at position {int(np.argmax(wrong))} ({scores[np.argmax(wrong)]})."
        )
    wrong = scores < 0
    if wrong.any():
        raise ValueError(
            f"`scores` must not be negative. Received: {wrong.sum()} of {len(scores)} scores "
            f"below zero, the first at position {int(np.argmax(wrong))} "
            f"({scores[np.argmax(wrong)]}). A loss that can be negative is not a score: use "
            '`score="gradient_norm"`.'
        )
