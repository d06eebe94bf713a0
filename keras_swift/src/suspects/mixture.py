"""Estimates how many labels are wrong, and which.

Pure NumPy. This file decides when an example counts as more likely wrong than right: by a mixture
model of the losses where they fall into two kinds, else by the most confident predictions.
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
# Two components further apart than this, in their standard deviations, are distinct
# (Ashman, Bird and Zepf 1994).
TWO_KINDS = 2.0
# The share of the examples that are anchors: those whose predictions are the most confident.
CONFIDENT = 0.1
# A label whose mean margin is below this was contradicted with confidence.
DEEP = -0.3
# Constants of the interval of the share of wrong labels, fitted to generated cases: see
# `_share_of_margins`.
OF_CONFIDENT, OF_CONTRADICTED, OF_BELIEVED, ALLOWED = 0.85, 0.7, 0.5, 0.02
# With a smaller share of contradicted labels, the verdict is never `NOT_LEARNED`.
MANY = 0.05
# If a smaller share of the contradicted labels is contradicted with confidence, and losses are of
# one kind, half of the suspects are right.
SEPARATED = 0.4
# If a larger share of the contradicted labels was predicted right when last seen, the verdict is
# `MEMORISED`.
LEARNED_BY_HEART = 0.5
NOT_LEARNED = "not learned yet"
MEMORISED = "memorised"


class WrongShare(NamedTuple):
    """The share of examples whose label is wrong.

    Attributes:
        estimate: float from 0 to 1, the share of the labels that are suspects,
            before a verdict leaves fewer of them.
        low: float, the lower end of an interval that is meant to hold the true
            share in nine cases of ten. It counts the labels that the model
            contradicted with confidence; 0 for entries of multi-label targets
            and for losses without class probabilities.
        high: float, the upper end. It counts all labels that the model
            contradicted, and adds an allowance for wrong labels that look right
            or were memorised. `benchmarks/wrong_share.py` measures how often
            the interval holds the truth.

    For targets that are values, all three count those beyond a tail of
    distances from the predictions.
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
        probability: float64 array, shape `(n,)`, of a wrong label, by the
            mixture model.
        suspect: bool array, shape `(n,)`: more likely wrong than right.
        share: `WrongShare`.
        verdict: str: a reason to rely less on the doubts, `NOT_LEARNED` or
            `MEMORISED`; `""` without one.
    """

    scores: FloatArray
    probability: FloatArray
    suspect: BoolArray
    share: WrongShare
    verdict: str = ""

    @property
    def order(self) -> IntArray:
        """int array, shape `(n,)`: indices of the labels, most doubtful first; NaN last."""
        return np.argsort(-np.nan_to_num(self.scores, nan=-np.inf), kind="stable")


def find_doubts(record: TrainingRecord, classes: IntArray | None) -> Doubts:
    """Finds doubtful labels from a record of training.

    Fits a mixture of two normal distributions to the logarithms of the mean
    losses, separately in each class of at least `LARGE_CLASS` examples:
    classes differ in difficulty and in how often they are mislabelled. A label
    is a suspect if the mixture puts it into the upper component, and if on
    average over training another class was more probable than the label,
    because hard examples of clean data form an upper component too.

    Where the two components are not distinct, the network has not learned enough
    to separate the two kinds, and the mixture may call half of a clean class
    wrong. The share of suspects in such a class, its lowest margins, is then
    limited to the share of the most confident predictions (anchor points, as in
    Patrini et al., CVPR 2017) that contradict their labels. If most of the
    contradicted labels of the class are contradicted with confidence, with a
    mean margin below `DEEP`, the limit is at least `OF_CONFIDENT` times their
    share. If more than half of the anchors contradict their labels, no such
    class has suspects. Without class probabilities none has either.

    The verdict is `MEMORISED` if most of the contradicted labels were predicted
    right when last seen. It is `NOT_LEARNED` if less than `SEPARATED` of them
    were contradicted with confidence and the components are not distinct for
    most examples. With a verdict and such components, the share of suspects is at
    most the lower end of the share of wrong labels.

    Args:
        record: a `TrainingRecord`, in which every loss is finite; margins and
            probabilities are NaN if the loss has no class probabilities.
        classes: int array, shape `(n,)`; `None` fits all examples together.
    """
    loss = np.asarray(record.mean_loss, np.float64)
    margin = np.asarray(record.mean_margin, np.float64)
    # The logarithm needs positive numbers, and a loss may be negative or 0.
    shifted = loss - min(float(loss.min()), 0.0)
    values = np.log(shifted + 1e-3 * max(float(np.median(shifted)), 1e-9))
    groups = _groups(classes, len(values))
    bins, centres, counts = _histograms(values, groups)
    fitted = _fit(centres, counts)
    probability = _posterior(fitted, centres)[groups, bins]
    _, low, high, first, second = fitted
    distinct = np.sqrt(2.0) * (high - low) / np.sqrt(first**2 + second**2) > TWO_KINDS
    known = bool(np.isfinite(margin).all())
    suspect = (margin < 0 if known else distinct[groups]) & (probability > 0.5)
    upper = float(np.mean(probability > 0.5))
    verdict = ""
    if known:
        separated = float(np.mean(distinct[groups])) > 0.5
        verdict = _verdict(record, separated)
        few = bool(verdict) and not separated
        judges = _keep_as_many_as_anchors(suspect, record, groups, distinct, few)
        share = _share_of_margins(margin, float(suspect.mean()))
        if not judges:
            share = WrongShare(0.0, 0.0, share.high)
        if few:
            _keep_lowest(suspect, margin, np.arange(len(margin)), int(share.low * len(margin)))
    else:
        # Losses alone do not say whether another class was more probable.
        estimate = float(suspect.mean())
        share = WrongShare(estimate, 0.0, min(1.0, upper + _sampling_error(upper, len(loss))))
    certain = np.nextafter(0.5, 1.0)
    return Doubts(
        scores=-margin if known else loss,
        probability=np.where(
            suspect, np.maximum(probability, certain), np.minimum(probability, 0.5)
        ),
        suspect=suspect,
        share=share,
        verdict=verdict,
    )


def _keep_as_many_as_anchors(
    suspect: BoolArray,
    record: TrainingRecord,
    groups: IntArray,
    distinct: BoolArray,
    few: bool,
) -> bool:
    """Limits the suspects in groups without distinct components to what anchors contradict.

    Args:
        suspect: bool array, shape `(n,)`, changed in place.
        few: bool, whether labels that are contradicted with confidence do not raise the limit.

    Returns:
        Whether the network can judge labels: most anchors agree with their labels, or suspects are
        left.
    """
    mixed = np.flatnonzero(~distinct[groups])
    if not len(mixed):
        return True
    margin = np.asarray(record.mean_margin, np.float64)
    # The largest probability: the label's, plus what another class had more where the margin is
    # below 0.
    confidence = np.asarray(record.mean_probability, np.float64) - np.minimum(margin, 0.0)
    order = np.argsort(-confidence[mixed], kind="stable")
    anchors = mixed[order[: max(1, round(CONFIDENT * len(mixed)))]]
    contradicted = float(np.mean(margin[anchors] < 0))
    # The next word of a text, say, is rarely the most probable one: a network that predicts it
    # cannot judge labels.
    judges = contradicted <= 0.5
    if not judges:
        contradicted = 0.0
    sizes = np.bincount(groups)
    for group in np.flatnonzero(~distinct):
        members = np.flatnonzero(groups == group)
        most = contradicted * sizes[group]
        deep = np.sum(margin[members] < DEEP)
        # Hard examples are rarely contradicted with confidence, so here they are the minority.
        if judges and not few and deep > 0.5 * np.sum(margin[members] < 0):
            most = max(most, OF_CONFIDENT * deep)
        _keep_lowest(suspect, margin, members, round(most))
    return judges or bool(suspect.any())


def _keep_lowest(suspect: BoolArray, margin: FloatArray, members: IntArray, most: int) -> None:
    """Leaves at most `most` suspects among these examples, those with the lowest margins."""
    members = members[suspect[members]]
    suspect[members[np.argsort(margin[members], kind="stable")[most:]]] = False


def _share_of_margins(margin: FloatArray, estimate: float) -> WrongShare:
    """The interval of the share of wrong labels from the mean margins.

    A hard example of clean data is contradicted too, but hardly with confidence; a wrong label that
    resembles its class, or that was memorised, is not contradicted at all. How many these are was
    fitted to generated cases: the constants hold the truth in nine of ten of those.
    """
    size = len(margin)
    contradicted = float(np.mean(margin < 0))
    confidently = float(np.mean(margin < DEEP))
    low = OF_CONFIDENT * confidently - ALLOWED
    believed = OF_BELIEVED * np.sqrt(contradicted) * (1.0 - contradicted)
    high = OF_CONTRADICTED * contradicted + ALLOWED + believed
    # Anchors may have limited the suspects to fewer than that.
    low = max(0.0, min(low - _sampling_error(confidently, size), estimate))
    high = min(1.0, max(high, estimate) + _sampling_error(contradicted, size))
    return WrongShare(float(np.clip(estimate, low, high)), low, float(high))


def _sampling_error(share: float, size: int) -> float:
    """Half the width of a 90 % interval for a share that was counted in `size` examples."""
    return 1.645 * float(np.sqrt(share * (1.0 - share) / size))


def _verdict(record: TrainingRecord, separated: bool) -> str:
    """The reason to rely less on the doubts, or `""`.

    Args:
        separated: bool, whether most examples are in groups with distinct components.
    """
    margin = np.asarray(record.mean_margin, np.float64)
    last = np.asarray(record.margin, np.float64)
    doubted = margin < 0
    contradicted = float(np.mean(doubted))
    if contradicted > ALLOWED and np.mean(last[doubted] > 0) > LEARNED_BY_HEART:
        return MEMORISED
    confidently = float(np.mean(margin < DEEP))
    if not separated and contradicted > MANY and confidently < SEPARATED * contradicted:
        return NOT_LEARNED
    return ""


def _groups(classes: IntArray | None, size: int) -> IntArray:
    """The number of each example's group: a large class, or all small classes together."""
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


def _fit(centres: FloatArray, counts: FloatArray) -> _Fit:
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
    upper = np.full(len(counts), 0.5)
    low, high = mean - spread, mean + spread
    first = second = np.maximum(0.5 * spread, least)
    for _ in range(ITERATIONS):
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
    """The probability of the upper component, made to rise with the loss.

    Otherwise a wide upper component would claim the lowest losses too.
    """
    share = _responsibility(fit, centres)
    share = np.where(centres <= fit[1][:, None], 0.0, share)
    return np.maximum.accumulate(share, axis=1)
