"""The remembered scores as probabilities and weights, without a copy of all of them.

A stream of ten million examples is drawn from twenty times an epoch. This file decides what an
example without a score counts as, and what is computed for all examples: sums. Probabilities and
weights are computed for the examples that are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.importance.resampling import relative_probability

# Rows that are summed at once: their float64 copy stays in a processor's cache.
BLOCK = 2**17


class RememberedScores:
    """Scores of all examples; those without one get the mean, neither avoided nor preferred.

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
            float((self._weights(block) * np.square(block)).sum()) for block in self._blocks()
        )
        return max(1.0, (self._squares + unknown) / (drawn + unknown))
