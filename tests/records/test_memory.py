import numpy as np
import pytest

from keras_swift.src.records.memory import ExampleMemory

ROWS = np.array([[0.5, 1.0, -1.0, 0.3], [0.1, 0.2, 2.0, 0.9], [0.2, 0.4, 1.0, 0.7]], np.float32)


def test_examples_not_seen_are_nan():
    memory = ExampleMemory(4)
    memory.record(np.array([2, 0]), ROWS[:2])
    np.testing.assert_array_equal(memory.score, np.float32([0.1, np.nan, 0.5, np.nan]))
    np.testing.assert_array_equal(memory.wrong, [0, np.nan, 1, np.nan])
    assert memory.known_share == 0.5


def test_of_an_example_that_comes_twice_the_last_row_stays():
    memory = ExampleMemory(2)
    memory.record(np.array([1, 0, 1]), ROWS)
    assert memory.score.tolist() == ROWS[[1, 2], 0].tolist()


def test_rows_that_are_not_finite_are_left_out():
    memory = ExampleMemory(2)
    memory.record(np.array([0, 1]), np.array([[np.nan, 1, 1, 1], [0.5, 1, 1, 1]], np.float32))
    np.testing.assert_array_equal(memory.seen, [False, True])


def test_averages_are_means_over_all_rows():
    memory = ExampleMemory(3, averages=True)
    memory.record(np.array([1, 0]), ROWS[:2])
    memory.record(np.array([1]), ROWS[2:])
    np.testing.assert_allclose(memory.mean_loss, [0.2, 0.7, np.nan], rtol=1e-6)
    np.testing.assert_allclose(memory.mean_margin, [2.0, 0.0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(memory.mean_probability, [0.9, 0.5, np.nan], rtol=1e-6)
    np.testing.assert_allclose(memory.share_wrong, [0.0, 0.5, np.nan], rtol=1e-6)


def test_rows_that_repeat_are_recorded_as_one_after_another():
    generator = np.random.default_rng(0)
    together, one_by_one = (ExampleMemory(20, averages=True) for _ in range(2))
    for columns in (4, 2):
        indices = generator.integers(0, 15, 100)
        # Halves, whose sums are exact in any order.
        values = generator.integers(-8, 9, (100, 4)).astype("float32")[:, :columns] / 2
        together.record(indices, values)
        for row in range(100):
            one_by_one.record(indices[row : row + 1], values[row : row + 1])
    for name in ("score", "loss", "margin", "probability", "mean_loss", "mean_margin"):
        np.testing.assert_array_equal(getattr(together, name), getattr(one_by_one, name))
    np.testing.assert_array_equal(together.share_wrong, one_by_one.share_wrong)


def test_without_labels_there_is_no_margin():
    memory = ExampleMemory(2, averages=True)
    memory.record(np.array([0, 1]), ROWS[:2, :2])
    assert np.isnan(memory.margin).all() and np.isnan(memory.share_wrong).all()
    assert memory.loss.tolist() == [1.0, ROWS[1, 1]]


def test_means_have_to_be_asked_for():
    with pytest.raises(ValueError, match=r"averages=True.*only the latest numbers"):
        _ = ExampleMemory(2).mean_loss


def test_state_goes_round():
    memory = ExampleMemory(3, averages=True)
    memory.record(np.array([1, 0]), ROWS[:2])
    other = ExampleMemory(3, averages=True)
    other.restore(memory.state())
    memory.record(np.array([2]), ROWS[2:])
    assert np.isnan(other.score[2]) and other.mean_loss[1] == 1.0
    other.record(np.array([2]), ROWS[2:])
    for name in ("score", "loss", "margin", "mean_loss", "share_wrong"):
        np.testing.assert_array_equal(getattr(other, name), getattr(memory, name))


def test_a_memory_takes_another_size_and_order():
    for averages in (False, True):
        memory = ExampleMemory(2, averages)
        values = np.arange(8.0, dtype="float32").reshape(2, 4)
        memory.record(np.array([1, 0]), values)
        memory.resize(4)
        assert memory.score.tolist()[:2] == [4.0, 0.0] and memory.known_share == 0.5
        memory.record(np.array([3]), values[:1] + 20)
        found = memory.arranged(np.array([3, 9, -1, 1, 0]))
        np.testing.assert_array_equal(found.score, [20.0, np.nan, np.nan, 0.0, 4.0])
        np.testing.assert_array_equal(found.probability, [23.0, np.nan, np.nan, 3.0, 7.0])
        if averages:
            np.testing.assert_array_equal(memory.mean_loss, [5.0, 1.0, np.nan, 21.0])
        memory.resize(1)
        assert memory.score.tolist() == [4.0]
