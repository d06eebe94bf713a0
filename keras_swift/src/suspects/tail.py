"""Which of many numbers lie beyond the tail of the others: wrong values in a regression.

Pure NumPy. This file decides how far the tail of right values is believed to reach: a Weibull tail,
fitted to the quartiles of the distances, extends their middle.
"""

from __future__ import annotations

import numpy as np
import scipy.special

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.suspects.mixture import Doubts, WrongShare

# The quantiles that determine the tail: wrong values are too few to move them far.
QUARTILES = (0.25, 0.5, 0.75)
# The largest share of the values beyond the threshold that the tail of right values may explain.
FALSE_SHARE = 0.2
# How often the distances are resampled for the interval.
RESAMPLES = 200
# The standard deviation of normal numbers over their median absolute deviation.
NORMAL = 1.4826


def find_far_values(residual: FloatArray, entry: IntArray, seed: int = 0) -> Doubts:
    """Finds values too far from what a network predicted over its training.

    A distance is that of a residual from the median residual of its entry, in units of 1.4826
    median absolute deviations (a standard deviation, for normal residuals). The distances of right
    values are assumed to have the survival function `exp(-(d / scale) ** shape)`, fitted to the
    quartiles of all. Beyond the threshold it explains at most `FALSE_SHARE` of the values.

    Only wrong values beyond a tail can be counted, and the tail is not known. So the interval of
    their share goes from the excess over an exponential tail to the excess over a normal one. Wrong
    values that are not far from the right ones are not counted.

    Args:
        residual: float64 array, shape `(n,)`, mean of target minus prediction over training.
        entry: int array, shape `(n,)`, the entry of the output that each residual is of.
        seed: int, of the resampling for the interval.

    Returns:
        `Doubts`, with the distances as scores.
    """
    distance = np.zeros(len(residual))
    for number in np.unique(entry):
        members = entry == number
        centred = np.abs(residual[members] - np.median(residual[members]))
        scale = max(NORMAL * float(np.median(centred)), 1e-6 * float(centred.max()), 1e-30)
        distance[members] = centred / scale
    order = np.argsort(-distance, kind="stable")
    ranked = distance[order]
    size = len(ranked)
    beyond = np.arange(1, size + 1)
    expected = size * _weibull_tail(ranked)
    false = np.minimum(expected / beyond, 1.0)
    # Nearer values are no more doubtful than farther ones.
    false = np.maximum.accumulate(false)
    count = int(np.searchsorted(false, FALSE_SHARE, side="right"))
    probability = np.empty(size)
    probability[order] = 1.0 - false
    suspect = np.zeros(size, bool)
    suspect[order[:count]] = True
    probability[~suspect] = np.minimum(probability[~suspect], 0.5)
    estimate = max(0.0, count - float(expected[count - 1] if count else 0.0)) / size
    low, high = _excesses(distance, np.random.default_rng(seed))
    return Doubts(
        scores=distance,
        probability=probability,
        suspect=suspect,
        share=WrongShare(estimate, min(low, estimate), max(high, estimate)),
    )


def _weibull_tail(distance: FloatArray) -> FloatArray:
    """The Weibull survival function with the distances' median and ratio of outer quartiles."""
    quantiles = np.maximum(np.quantile(distance, QUARTILES), 1e-12)
    if quantiles[-1] <= quantiles[0]:
        nearer: FloatArray = (distance <= quantiles[-1]).astype(np.float64)
        return nearer
    hazard = np.log(-np.log1p(-np.array(QUARTILES)))
    shape = (hazard[-1] - hazard[0]) / np.log(quantiles[-1] / quantiles[0])
    scale = quantiles[1] / np.log(2.0) ** (1.0 / shape)
    tail: FloatArray = np.exp(-((distance / scale) ** shape))
    return tail


def _excesses(distance: FloatArray, generator: np.random.Generator) -> tuple[float, float]:
    """The interval of the share of wrong values, by an exponential and by a normal tail.

    A share `w` of wrong values gives `survival <= w + (1 - w) tail`, wherever they are. So `w` is
    at least the largest `(survival - tail) / (1 - tail)`. The ends are quantiles over resamples:
    5 % with the exponential tail, 95 % with the normal one.
    """
    size = len(distance)
    grid = np.unique(np.quantile(distance, 1.0 - np.geomspace(1.0 / size, 0.5, 64)))
    counts = np.histogram(distance, [-1.0, *grid, np.inf])[0] / size
    drawn = generator.multinomial(size, counts, RESAMPLES) / size
    survival = drawn[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    # Both have the median of the distances, `1 / NORMAL`.
    exponential = np.exp(-np.log(2.0) * grid * NORMAL)
    normal = scipy.special.erfc(grid / np.sqrt(2.0))
    excess = [
        np.max(np.clip((survival - tail) / (1.0 - tail), 0.0, 1.0), axis=1)
        for tail in (exponential, normal)
    ]
    return float(np.quantile(excess[0], 0.05)), float(np.quantile(excess[1], 0.95))
