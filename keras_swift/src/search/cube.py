"""The unit cube that a search optimises over, and a distance between two samplers in it.

This file decides the parametrisation (a unit cube in which knots are always in order) and the
distance the Gaussian process uses (between the draws of two samplers, not between their numbers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.stats.qmc

from keras_swift.src._types import FloatArray
from keras_swift.src.swift.feature_table import doubtful_end
from keras_swift.src.swift.layout import Layout
from keras_swift.src.swift.ranks import aggregate, cumulative_rank
from keras_swift.src.swift.sampler import DEFAULT_FEATURES, SwiftSampler, Transform

# The number of examples on which samplers are compared. The distance of two then has a standard
# error of a few percent, and 4,000 candidates take a tenth of a second.
REFERENCE_SIZE = 256
# Shares of the examples that the first trials keep, the least doubtful by the first feature, by the
# second and by both, ordered so that even a few cover the range.
FIRST, SECOND, BOTH = (0,), (1,), (0, 1)
CUTS = (
    (FIRST, 0.6),
    (SECOND, 0.7),
    (FIRST, 0.8),
    (FIRST, 0.4),
    (BOTH, 0.7),
    (FIRST, 0.9),
    (SECOND, 0.5),
)


class SamplerCube:
    """Maps points of the unit cube to samplers, and samplers to what they draw.

    The cube has one axis for each of a sampler's numbers. Axis `k` sets the
    distance of knot `k` from the one before, as the smallest of the knots that
    remain. So uniform points give knots distributed as sorted uniform numbers,
    and any point gives knots in order: none has to be rejected.

    Two samplers are compared by their draws. Many points of the cube are the
    same sampler (values and coefficients may be scaled, or both reversed), so
    distances between the numbers mislead a Gaussian process, and ten
    dimensions are too many for 40 trials. Draws have neither problem.

    Args:
        features: names of the features.
        segments: number of linear pieces of `H`.
        transform: `"cgf"` or `"cdf"`.
        columns: mapping from feature names to arrays of shape `(n,)`, with
            `"gradient_norm"` for `"cgf"`: the examples samplers are compared
            on. `None` takes quasi-random ranks.
        seed: int, chooses the examples among `columns`.
    """

    def __init__(
        self,
        features: Sequence[str] = DEFAULT_FEATURES,
        segments: int = 4,
        transform: Transform = "cgf",
        columns: Mapping[str, FloatArray] | None = None,
        seed: int = 0,
    ) -> None:
        self.features = tuple(features)
        self.segments = segments
        self.transform = transform
        count = len(self.features)
        self._layout = Layout(self.features, segments)
        self.names = self._layout.names
        weights = None
        if columns is None:
            ranks = scipy.stats.qmc.Halton(count, scramble=False).random(REFERENCE_SIZE + 1)[1:]
        else:
            ranks = np.stack([cumulative_rank(np.asarray(columns[f])) for f in self.features], 1)
            if transform == "cgf":
                weights = np.asarray(columns["gradient_norm"], np.float64)
        self._all_ranks, self._all_weights = ranks, _usable(weights, len(ranks))
        if len(ranks) > REFERENCE_SIZE:
            generator = np.random.default_rng(seed)
            kept = generator.choice(len(ranks), REFERENCE_SIZE, replace=False)
            ranks = ranks[kept]
            weights = None if weights is None else weights[kept]
        self._ranks, self._weights = ranks, _usable(weights, len(ranks))

    @property
    def dimensions(self) -> int:
        """int, how many numbers a sampler has: ten by default."""
        return self._layout.size

    def uniform(self) -> SwiftSampler:
        """The sampler that draws uniformly."""
        return SwiftSampler.uniform(self.features, self.segments, self.transform)

    def design(self) -> list[SwiftSampler]:
        """The first samplers of a search: graded cuts, which random points of the cube never are.

        These are the cuts of `CUTS`, and one that drops the most trusted 20 %
        by the first feature: easy examples may teach nothing. With a single
        feature, all cuts are by that one.
        """
        first = self.features[0]
        cuts = []
        for places, keep in CUTS:
            names = tuple(self.features[k] for k in places if k < len(self.features)) or (first,)
            if (names, keep) not in cuts:
                cuts.append((names, keep))
        found = [self.cut({name: doubtful_end(name) for name in names}, k) for names, k in cuts]
        return [*found, self.cut({first: -doubtful_end(first)}, 0.8)]

    def cut(self, signs: Mapping[str, float], keep: float) -> SwiftSampler:
        """The sampler that draws a share of the examples uniformly, and the others never.

        With one or two segments, which allow no steep descent, its probability
        falls linearly.

        Args:
            signs: mapping from features to 1, which keeps the lowest values,
                or -1, which keeps the highest. The ranks of several features
                are averaged.
            keep: float in (0, 1), the share of the examples to keep.
        """
        coefficients = np.zeros(len(self.features))
        for name, sign in signs.items():
            coefficients[self.features.index(name)] = sign / len(signs)
        total = aggregate(coefficients, self._all_ranks.T)
        order = np.argsort(total, kind="stable")
        # Under "cgf" a share of the examples is a different share of the gradient norms.
        below = np.searchsorted(total[order], np.quantile(total, keep), side="right")
        place = float(np.sum(self._all_weights[order[:below]]) / np.sum(self._all_weights))
        # Ties, such as many equal values of `share_wrong`, may leave nothing to cut.
        place = min(place, 1.0 - 1e-6)
        values = np.zeros(self.segments + 1)
        values[: max(1, min(2, self.segments))] = 1.0
        return SwiftSampler(
            np.full(self.segments - 1, place),
            values,
            coefficients,
            self.features,
            self.transform,
        )

    def to_sampler(self, point: npt.ArrayLike) -> SwiftSampler:
        """The sampler at a point of the unit cube."""
        numbers = self._numbers(np.asarray(point, np.float64)[None])[0]
        return self.from_values(dict(zip(self.names, numbers.tolist(), strict=True)))

    def from_values(self, values: Mapping[str, float]) -> SwiftSampler:
        """The sampler with these numbers, named as in `names`."""
        numbers = [values[name] for name in self.names]
        return SwiftSampler.from_parameters(numbers, self._layout, self.transform)

    def to_values(self, sampler: SwiftSampler) -> dict[str, float]:
        """The sampler's numbers by name, the inverse of `from_values`."""
        return dict(zip(self.names, sampler.parameters.tolist(), strict=True))

    def to_point(self, sampler: SwiftSampler) -> FloatArray:
        """The point of the unit cube that maps to a sampler."""
        point = np.empty(self.dimensions)
        previous = 0.0
        for k, knot in enumerate(sampler.knots):
            left = 1.0 - previous
            beyond = (1.0 - knot) / left if left > 0 else 1.0
            point[k] = 1.0 - beyond ** (len(sampler.knots) - k)
            previous = knot
        point[self._layout.values] = sampler.values
        point[self._layout.coefficients] = (sampler.coefficients + 1.0) / 2.0
        return np.clip(point, 0.0, 1.0)

    def embed(self, points: npt.ArrayLike) -> FloatArray:
        """The draws of the samplers at these points, as coordinates.

        The distance between two rows is the Hellinger distance between the
        draws, times a constant: square roots of probabilities, so that a
        sampler with a few sharp peaks is not far from everything.

        Args:
            points: float array, shape `(k, dimensions)`, in `[0, 1]`.

        Returns:
            A float64 array, shape `(k, m)`, rows of length 1.
        """
        numbers = self._numbers(np.atleast_2d(np.asarray(points, np.float64)))
        sums = numbers[:, self._layout.coefficients] @ self._ranks.T
        order = np.argsort(sums, axis=1, kind="stable")
        cumulative = np.cumsum(self._weights[order], axis=1) / self._weights.sum()
        # All samplers at once, piece by piece: a loop over `np.interp` took most of the time.
        knots = np.zeros((len(numbers), self.segments + 1))
        knots[:, 1:-1] = numbers[:, self._layout.knots]
        knots[:, -1] = 1.0
        values = numbers[:, self._layout.values]
        sorted_height = np.repeat(values[:, :1], cumulative.shape[1], axis=1)
        for k in range(self.segments):
            # A piece of zero length is a step.
            length = np.maximum(knots[:, k + 1] - knots[:, k], 1e-12)[:, None]
            part = np.clip((cumulative - knots[:, k : k + 1]) / length, 0.0, 1.0)
            sorted_height += (values[:, k + 1] - values[:, k])[:, None] * part
        height = np.empty_like(cumulative)
        np.put_along_axis(height, order, np.maximum(sorted_height, 0.0), axis=1)
        total = height.sum(axis=1, keepdims=True)
        # `H` of zero everywhere means uniform, as in `SwiftSampler.probabilities`.
        height = np.where(total > 1e-9, height, 1.0)
        embedded: FloatArray = np.sqrt(height / height.sum(axis=1, keepdims=True))
        return embedded

    def _numbers(self, points: FloatArray) -> FloatArray:
        """Knots, values and coefficients at points of the cube, shape `(k, dimensions)`."""
        numbers = np.clip(points, 0.0, 1.0)
        knots = numbers[:, self._layout.knots]
        inner = knots.shape[1]
        previous = np.zeros(len(numbers))
        for k in range(inner):
            beyond = (1.0 - knots[:, k]) ** (1.0 / (inner - k))
            previous = 1.0 - (1.0 - previous) * beyond
            knots[:, k] = previous
        # Rounding could put a knot slightly above 1 or below the one before it.
        knots[:] = np.clip(np.maximum.accumulate(knots, axis=1), 0.0, 1.0)
        numbers[:, self._layout.coefficients] = 2.0 * numbers[:, self._layout.coefficients] - 1.0
        return numbers


def _usable(weights: FloatArray | None, count: int) -> FloatArray:
    """Weights of the cumulative function; weights that are all zero count each example once."""
    return np.ones(count) if weights is None or not np.any(weights > 0) else weights
