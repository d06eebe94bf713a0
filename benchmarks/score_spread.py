"""How much drawing by importance can gain in a training, from the scores that it remembers.

After each epoch this compares the scores that were known before it with those that its steps
recorded. `real_networks.py` writes the means over the epochs to its rows.
"""

import keras
import numpy as np

# The rules that a training's scores tell the gain of: how many of an example's last scores are
# averaged, and the floor.
RULES = {
    "last": (1, 0.5),
    "last, floor 0.2": (1, 0.2),
    "mean of two": (2, 0.5),
    "mean of two, floor 0.2": (2, 0.2),
}
# The floors of draws by the scores themselves, as if they were known before the step.
KNOWN = {"known": 0.5, "known, no floor": 0.0}


class ScoreSpread(keras.callbacks.Callback):
    """The variance gain of draws by the scores of the epoch before, and of draws that know all.

    The gain is the second moment of the score under uniform draws over that under draws with
    `p_i = floor / n + (1 - floor) s_i / sum(s)`, as in `RealisedGain`, computed from the
    examples whose score is new. "known" is the gain if the new scores themselves made the
    probabilities, with the floor of 0.5; "known, no floor" is the most that any draw by these
    scores can gain.

    Args:
        scores: function without arguments that returns the newest score of each example, a float
            array of shape `(n,)`, NaN where unknown; `None` while there is none.
    """

    def __init__(self, scores):
        super().__init__()
        self._scores = scores
        self._before, self._found = [], []

    def on_epoch_end(self, epoch, logs=None):
        scores = self._scores()
        if scores is None:
            return
        scores = np.array(scores, np.float64)
        if self._before and len(self._before[-1]) == len(scores):
            self._found.append(gains(self._before, scores))
        self._before = [*self._before[-1:], scores]

    def means(self):
        """The mean of each gain over the epochs with scores of the epoch before; `{}` if none."""
        found = self._found
        return {key: float(np.mean([each[key] for each in found])) for key in (found or [{}])[0]}


def gains(before, scores):
    """The gain of each rule, and of draws that know the new scores.

    Args:
        before: list of one or two float arrays, shape `(n,)`, older scores, oldest first.
        scores: float array, shape `(n,)`, the newest scores.
    """
    new = (scores != before[-1]) & np.isfinite(scores) & np.isfinite(before[-1])
    # An example that is drawn less than once in an epoch counts for those that were not drawn.
    counts = np.maximum(1.0, 1.0 / relative(before[-1], 0.5))[new]
    found = {}
    for rule, (number, floor) in RULES.items():
        found[rule] = gain(relative(mean_of(before[-number:]), floor)[new], scores[new], counts)
    mean = np.average(scores[new], weights=counts)
    for rule, floor in KNOWN.items():
        probability = floor + (1.0 - floor) * scores[new] / mean
        found[rule] = gain(np.maximum(probability, 1e-12), scores[new], counts)
    return found


def gain(probability, scores, counts):
    """The gain of draws with `probability`, relative to uniform ones, on these scores."""
    squares = counts * scores**2
    inverse = (squares / probability).sum() * (counts * probability).sum()
    return float(squares.sum() * counts.sum() / inverse)


def relative(scores, floor):
    """The sampling probability over the uniform one; unknown scores count as the mean."""
    return floor + (1.0 - floor) * np.nan_to_num(scores / np.nanmean(scores), nan=1.0)


def mean_of(arrays):
    """The mean of an example's known scores."""
    return np.where(np.isfinite(arrays[0]), np.mean(arrays, axis=0), arrays[-1])
