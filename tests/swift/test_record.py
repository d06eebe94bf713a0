"""The means of a record against hand numbers."""

import numpy as np

from keras_swift.swift.record import ExampleRecord, FinishedRecord


def test_means_are_over_the_times_an_example_was_seen():
    record = ExampleRecord(3)
    record.add(np.array([0, 2]), np.array([1.0, 3.0]), np.array([0.5, -0.5]), np.array([0.7, 0.2]))
    record.add(np.array([2]), np.array([5.0]), np.array([0.1]), np.array([0.4]))
    np.testing.assert_array_equal(record.loss, [1, np.nan, 5])
    np.testing.assert_array_equal(record.margin, [0.5, np.nan, 0.1])
    np.testing.assert_array_equal(record.mean_loss, [1, np.nan, 4])
    np.testing.assert_allclose(record.mean_margin, [0.5, np.nan, -0.2])
    np.testing.assert_array_equal(record.share_wrong, [0, np.nan, 0.5])
    np.testing.assert_allclose(record.mean_probability, [0.7, np.nan, 0.3])
    kept = FinishedRecord.of(record)
    record.add(np.array([0]), np.zeros(1), np.zeros(1), np.zeros(1))
    np.testing.assert_array_equal(kept.mean_loss, [1, np.nan, 4])
