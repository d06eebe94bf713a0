"""Estimates how many labels are wrong, and which.

Pure NumPy. This file decides when an example counts as more likely wrong than right: by a mixture
of the losses where it has two kinds of them, else by what the most confident predictions say.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from keras_swift.src._types import BoolArray, FloatArray, IntArray
from keras_swift.src.records.columns import TrainingRecord

# Classes with fewer examples are fitted together.
LARGE_CLASS = 100
BINS = 128
ITERATIONS = 100
RESAMPLES = 200
# Two components further apart than this, in their standard deviations, are distinct
# (Ashman, Bird and Zepf 1994).
TWO_KINDS = 2.0
# The share of the examples whose predictions, of whatever class, are the most confident.
CONFIDENT = 0.1


class WrongShare(NamedTuple):
    """The share of examples whose label is wrong.

    Attributes:
        estimate: float.
        low, high: floats, the central 90 % of the estimates from other
            examples of the same kind. Where losses do not fall into two kinds
            there are two estimates, of which the lower is taken: the interval
            covers both. It covers no other error: memorised labels look right.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclasses.dataclass(frozen=True)
class Doubts:
    """The doubts about each label.

    Attributes:
        scores: float64 array, shape `(n,)`, higher for more doubtful labels.
        probability: float64 array, shape `(n,)`, of a wrong label, from the
            mixture.
        suspect: bool array, shape `(n,)`: more likely wrong than right.
        share: `WrongShare`.
    """

    scores: FloatArray
    probability: FloatArray
    suspect: BoolArray
    share: WrongShare


def find_doubts(record: TrainingRecord, classes: IntArray | None, seed: int = 0) -> Doubts:
    """Finds doubtful labels from a record of training.

    Fits a mixture of two normal distributions to the logarithms of the mean
    losses, separately in each class of at least `LARGE_CLASS` examples:
    classes differ in difficulty and in how often they are mislabelled. A label
    is a suspect if the mixture puts it into the upper component, and if on
    average over training another class was more probable than the label,
    because hard examples of clean data form an upper component too.

    Where the two components are not distinct, a network has not learned enough
    to separate the two kinds, and the mixture may call half of a clean class
    wrong. There no larger share of the labels is suspect, those with the lowest
    margins, than is contradicted by the most confident predictions (anchor
    points, as in Patrini et al., CVPR 2017); none, if that is more than half of
    them. Without class probabilities there are none either.

    Args:
        record: a `TrainingRecord`.
        classes: int array, shape `(n,)`; `None` fits all examples together.
        seed: int, of the resampling for the interval.
    """
    loss = np.asarray(record.mean_loss, np.float64)
    margin = np.asarray(record.mean_margin, np.float64)
    # A loss may be negative, or 0.
    shifted = loss - min(float(loss.min()), 0.0)
    values = np.log(shifted + 1e-3 * max(float(np.median(shifted)), 1e-9))
    groups = _groups(classes, len(values))
    bins, centres, counts = _histograms(values, groups)
    fitted = _fit(centres, counts)
    probability = _posterior(fitted, centres)[groups, bins]
    _, low, high, first, second = fitted
    distinct = np.sqrt(2.0) * (high - low) / np.sqrt(first**2 + second**2) > TWO_KINDS
    known = np.isfinite(margin).all()
    possible = margin < 0 if known else distinct[groups]
    suspect = possible & (probability > 0.5)
    generator = np.random.default_rng(seed)
    # A bootstrap over the examples: counts of the bins, split by `possible`.
    cells = np.zeros((*counts.shape, 2))
    np.add.at(cells, (groups, bins, possible.astype(int)), 1.0)
    size = len(values)
    shares = np.empty((RESAMPLES, len(counts)))
    flat = cells.reshape(-1) / size
    for k, drawn in enumerate(
        generator.multinomial(size, flat, RESAMPLES).reshape(RESAMPLES, *cells.shape)
    ):
        again = _fit(centres, drawn.sum(axis=2), start=fitted, iterations=10)
        upper = _posterior(again, centres) > 0.5
        shares[k] = np.where(upper, drawn[..., 1], 0.0).sum(axis=1) / size
    lowest = highest = shares
    if known and not distinct.all():
        sizes = np.bincount(groups)
        # Another class was the most probable one where the margin is below 0.
        confidence = np.asarray(record.mean_probability, np.float64) - np.minimum(margin, 0.0)
        mixed = np.flatnonzero(~distinct[groups])
        order = np.argsort(-confidence[mixed], kind="stable")
        anchors = mixed[order[: max(1, round(CONFIDENT * len(mixed)))]]
        contradicted = float(np.mean(possible[anchors]))
        if contradicted > 0.5:
            # Of words of a text, say, hardly any is the most probable one: such a network is no
            # judge of labels.
            contradicted = 0.0
        for group in np.flatnonzero(~distinct):
            members = np.flatnonzero((groups == group) & suspect)
            most = round(contradicted * sizes[group])
            suspect[members[np.argsort(margin[members], kind="stable")[most:]]] = False
        resampled = generator.binomial(len(anchors), contradicted, RESAMPLES) / len(anchors)
        by_anchors = np.where(distinct, shares, resampled[:, None] * sizes / size)
        lowest, highest = np.minimum(shares, by_anchors), np.maximum(shares, by_anchors)
    certain = np.nextafter(0.5, 1.0)
    return Doubts(
        scores=-margin if known else loss,
        probability=np.where(
            suspect, np.maximum(probability, certain), np.minimum(probability, 0.5)
        ),
        suspect=suspect,
        share=WrongShare(
            float(suspect.mean()),
            float(np.quantile(lowest.sum(axis=1), 0.05)),
            float(np.quantile(highest.sum(axis=1), 0.95)),
        ),
    )


def _groups(classes: IntArray | None, size: int) -> IntArray:
    """The number of each example's group: its class, or 0 for all small classes."""
    groups = np.zeros(size, np.int64)
    if classes is None:
        return groups
    found, counts = np.unique(classes, return_counts=True)
    for number, label in enumerate(found[counts >= LARGE_CLASS], start=1):
        groups[classes == label] = number
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def _histograms(values: FloatArray, groups: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """The bin of each value, and centres and counts of the bins, shape `(groups, BINS)`."""
    count = int(groups.max()) + 1
    bins = np.zeros(len(values), np.int64)
    centres = np.zeros((count, BINS))
    counts = np.zeros((count, BINS))
    for group in range(count):
        members = groups == group
        low, high = values[members].min(), values[members].max()
        width = max((high - low) / BINS, 1e-12)
        bins[members] = np.clip(((values[members] - low) / width).astype(np.int64), 0, BINS - 1)
        centres[group] = low + (np.arange(BINS) + 0.5) * width
        counts[group] = np.bincount(bins[members], minlength=BINS)
    return bins, centres, counts


_Fit = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]


def _fit(
    centres: FloatArray, counts: FloatArray, start: _Fit | None = None, iterations: int = ITERATIONS
) -> _Fit:
    """Expectation-maximisation for all groups at once.

    Returns:
        Arrays of shape `(groups,)`: the weight of the upper component, both
        means and both standard deviations.
    """
    total = np.maximum(counts.sum(axis=1), 1e-9)
    mean = (counts * centres).sum(axis=1) / total
    spread = np.sqrt((counts * (centres - mean[:, None]) ** 2).sum(axis=1) / total)
    # A component as narrow as a bin would explain only that bin.
    least = np.maximum(0.05 * spread, 1e-9)
    if start is None:
        upper = np.full(len(counts), 0.5)
        low, high = mean - spread, mean + spread
        first = second = np.maximum(0.5 * spread, least)
    else:
        upper, low, high, first, second = start
    for _ in range(iterations):
        share = _responsibility((upper, low, high, first, second), centres)
        ours = counts * share
        theirs = counts - ours
        n_high, n_low = ours.sum(axis=1) + 1e-9, theirs.sum(axis=1) + 1e-9
        upper = n_high / (n_high + n_low)
        high, low = (ours * centres).sum(axis=1) / n_high, (theirs * centres).sum(axis=1) / n_low
        second = np.sqrt((ours * (centres - high[:, None]) ** 2).sum(axis=1) / n_high)
        first = np.sqrt((theirs * (centres - low[:, None]) ** 2).sum(axis=1) / n_low)
        first, second = np.maximum(first, least), np.maximum(second, least)
    return upper, low, high, first, second


def _responsibility(fit: _Fit, centres: FloatArray) -> FloatArray:
    """The probability of the upper component in each bin."""
    upper, low, high, first, second = (part[:, None] for part in fit)
    with np.errstate(divide="ignore"):
        above = np.log(upper) - np.log(second) - 0.5 * ((centres - high) / second) ** 2
        below = np.log1p(-upper) - np.log(first) - 0.5 * ((centres - low) / first) ** 2
    return 1.0 / (1.0 + np.exp(np.clip(below - above, -500.0, 500.0)))


def _posterior(fit: _Fit, centres: FloatArray) -> FloatArray:
    """The same, but rising with the loss: a wide component must not claim the lowest losses."""
    share = _responsibility(fit, centres)
    share = np.where(centres <= fit[1][:, None], 0.0, share)
    return np.maximum.accumulate(share, axis=1)
