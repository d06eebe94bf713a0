"""A small Gaussian process over samplers, averaged over its hyperparameters.

This file decides how a search's few noisy objectives predict those of samplers not tried.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.spatial.distance

from keras_swift.src._types import FloatArray

# For distances from 0 to the square root of 2, between unit vectors without negative entries.
LENGTH_SCALES = (0.1, 0.16, 0.25, 0.4, 0.63, 1.0)
# Shares of the objective's variance that are noise; not 0, because a validation metric has some.
NOISE_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)


class GaussianProcess:
    """Regression with a Matern 5/2 kernel, averaged over hyperparameters by their likelihood.

    Forty trials do not determine a length scale and a noise level: a single
    best fit is often confident in wrong values. So predictions are averaged
    over a grid of both, weighted by the marginal likelihood; the mean and the
    variance of the objective are estimated for each pair. With a few dozen
    points at most this takes milliseconds.

    Args:
        points: float array, shape `(n, m)`, such as `SamplerCube.embed` returns.
        values: float array, shape `(n,)`, finite.
    """

    def __init__(self, points: FloatArray, values: FloatArray) -> None:
        self._points = points
        count = len(values)
        distances = scipy.spatial.distance.cdist(points, points)
        ones = np.ones(count)
        self._fits = []
        likelihoods = []
        for scale in LENGTH_SCALES:
            correlation = matern(distances / scale)
            for share in NOISE_SHARES:
                covariance = (1.0 - share) * correlation + share * np.eye(count)
                factor = scipy.linalg.cho_factor(covariance, lower=True)
                solved_ones = scipy.linalg.cho_solve(factor, ones)
                level = solved_ones @ values / (solved_ones @ ones)
                solved = scipy.linalg.cho_solve(factor, values - level)
                # The floor is for values that are all equal.
                variance = max((values - level) @ solved / count, 1e-12)
                likelihoods.append(
                    -0.5 * count * np.log(variance) - np.log(np.diag(factor[0])).sum()
                )
                self._fits.append((scale, share, factor, level, solved, variance))
        weights = np.exp(np.array(likelihoods) - max(likelihoods))
        self._weights = weights / weights.sum()

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the noise-free objective at these points.

        Args:
            points: float array, shape `(k, m)`.

        Returns:
            Two float64 arrays, shape `(k,)`.
        """
        distances = scipy.spatial.distance.cdist(points, self._points)
        mean = np.zeros(len(points))
        square = np.zeros(len(points))
        for weight, fit in zip(self._weights, self._fits, strict=True):
            # Most of the grid has negligible weight, and would take most of the time.
            if weight < 0.01:
                continue
            scale, share, factor, level, solved, variance = fit
            cross = (1.0 - share) * matern(distances / scale)
            ours = level + cross @ solved
            explained = np.sum(scipy.linalg.cho_solve(factor, cross.T).T * cross, axis=1)
            spread = variance * np.maximum((1.0 - share) - explained, 0.0)
            mean += weight * ours
            square += weight * (spread + ours**2)
        kept = self._weights[self._weights >= 0.01].sum()
        mean, square = mean / kept, square / kept
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def matern(scaled: FloatArray) -> FloatArray:
    """The Matern 5/2 correlation at distances in units of the length scale."""
    root = np.sqrt(5.0) * scaled
    return np.asarray((1.0 + root + root**2 / 3.0) * np.exp(-root))
