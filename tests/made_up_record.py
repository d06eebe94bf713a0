"""A record of training, and its suspects, without a training."""

import numpy as np

from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import ArrayExamples
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.suspects.doubts import OutputDoubts
from keras_swift.src.suspects.mixture import Doubts, WrongShare
from keras_swift.src.suspects.of_record import put_together


def made_up_record(n=100):
    """The last fifth is wrong: high losses, margins below 0."""
    generator = np.random.default_rng(0)
    wrong = np.arange(n) >= 0.8 * n
    loss = np.where(wrong, generator.uniform(2, 4, n), generator.uniform(0.05, 0.3, n))
    margin = np.where(wrong, -0.5, 0.8) + generator.uniform(-0.1, 0.1, n)
    return FinishedRecord(loss, margin, loss, margin, wrong * 1.0, (margin + 1) / 2)


def made_up_suspects(n=80, suspects=(3, 7)):
    """Of `n` examples of four classes, in turn; the last suspect is the most doubtful."""
    labels, suspect = np.arange(n) % 4, np.isin(np.arange(n), suspects)
    doubts = Doubts(np.arange(float(n)), suspect * 0.9, suspect, WrongShare(0.02, 0.01, 0.04))
    output = TargetOutput("", "categorical", None, object(), (), 4)
    return put_together(
        [OutputDoubts(output, labels, doubts)],
        lambda place, examples, entries, labels: (labels[examples, entries] + 1) % 4,
        made_up_record(n),
        ArrayExamples(ArraySource(np.zeros((n, 2)), labels)),
        None,
    )
