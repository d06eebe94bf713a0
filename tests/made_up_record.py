"""A record of training without a training."""

import numpy as np

from keras_swift.src.records.columns import FinishedRecord


def made_up_record(n=100):
    """The last fifth is wrong: high losses, margins below 0."""
    generator = np.random.default_rng(0)
    wrong = np.arange(n) >= 0.8 * n
    loss = np.where(wrong, generator.uniform(2, 4, n), generator.uniform(0.05, 0.3, n))
    margin = np.where(wrong, -0.5, 0.8) + generator.uniform(-0.1, 0.1, n)
    return FinishedRecord(loss, margin, loss, margin, wrong * 1.0, (margin + 1) / 2)
