"""The means of a record against hand numbers."""

import numpy as np

from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.memory import ExampleMemory


def test_means_are_over_the_times_an_example_was_seen():
    record = ExampleMemory(3, averages=True)
    record.record(np.array([0, 2]), np.array([[9.0, 1.0, 0.5, 0.7], [9.0, 3.0, -0.5, 0.2]]))
    record.record(np.array([2]), np.array([[9.0, 5.0, 0.25, 0.4]]))
    np.testing.assert_array_equal(record.loss, [1, np.nan, 5])
    np.testing.assert_array_equal(record.margin, [0.5, np.nan, 0.25])
    np.testing.assert_array_equal(record.mean_loss, [1, np.nan, 4])
    np.testing.assert_array_equal(record.mean_margin, [0.5, np.nan, -0.125])
    np.testing.assert_array_equal(record.share_wrong, [0, np.nan, 0.5])
    np.testing.assert_allclose(record.mean_probability, [0.7, np.nan, 0.3], rtol=1e-6)
    kept = FinishedRecord.of(record)
    record.record(np.array([0]), np.zeros((1, 4)))
    np.testing.assert_array_equal(kept.mean_loss, [1, np.nan, 4])
    assert kept.mean_loss.dtype == np.float64
