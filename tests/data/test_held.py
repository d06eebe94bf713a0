"""Data sets held in memory as arrays."""

import keras
import numpy as np
import pytest

from keras_swift.src.data import held as module
from keras_swift.src.data.held import held, held_examples


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, *rest, length=3):
        super().__init__()
        self.parts, self.length = (x, y, *rest), length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return tuple(part[rows] for part in self.parts)


X, Y, W = np.arange(20.0).reshape(10, 2), np.arange(10), np.linspace(0, 1, 10)


def test_arrays_stay_as_they_are():
    for given in ((X, Y), [X, Y], (X, Y, W)):
        assert all(ours is theirs for ours, theirs in zip(held(given), given, strict=True))


@pytest.mark.parametrize("parts", [(X, Y), (X, Y, W), ({"a": X, "b": Y}, Y)])
def test_data_sets_are_read_once(parts):
    class Structures(Batches):
        def __getitem__(self, index):
            rows = slice(4 * index, 4 * index + 4)
            return keras.tree.map_structure(lambda leaf: leaf[rows], self.parts)

    found = held(Structures(*parts))
    keras.tree.map_structure(np.testing.assert_array_equal, found, parts)
    found = held(iter_once := _Iterable(list(Structures(*parts)[k] for k in range(3))))
    keras.tree.map_structure(np.testing.assert_array_equal, found, parts)
    assert iter_once.read == 1


class _Iterable:
    def __init__(self, batches):
        self.batches, self.read = batches, 0

    def __iter__(self):
        self.read += 1
        return iter(self.batches)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((b for b in [(X, Y)]), TypeError, "`validation_data` must be data that has an end"),
        (iter([(X, Y)]), TypeError, "`validation_data` must be data that has an end"),
        (7, TypeError, r"`validation_data` must be `\(x, y\)` or a data set"),
        ((X,), ValueError, "Received: 1 parts"),
        (Batches(X, Y, length=None), ValueError, "`validation_data` must have an end"),
        (Batches(X, Y, length=0), ValueError, "at least one batch"),
        (_Iterable([X]), ValueError, "must yield targets"),
    ],
)
def test_what_cannot_be_held_is_named(data, error, message):
    with pytest.raises(error, match=message):
        held(data)


def test_no_more_is_held_than_promised(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 10 * 8)
    with pytest.raises(ValueError, match="held in memory"):
        held(Batches(X, Y))
    with pytest.raises(ValueError, match=r"all of a stream: `SwiftTraining\(model, result"):
        held(Batches(X, Y), "x")


def test_a_dataset_without_an_end_is_refused_before_it_is_read():
    class Endless:
        def cardinality(self):
            return -1

        def __iter__(self):
            raise AssertionError("read")

    with pytest.raises(ValueError, match="must have an end"):
        held(Endless())


def test_examples_of_a_data_set_are_held_in_the_order_of_a_pass():
    x, y, weights = held_examples(Batches(X, Y, W), None, None)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(weights, W)
    assert held_examples(Batches(X, Y), None, None)[2] is None
    assert held_examples(X, Y, None) == (X, Y, None)
    # Ids are not needed where examples have an index.
    x, y, weights = held_examples(_Iterable([(X, Y, None, np.arange(len(X)))]), None, None)
    assert weights is None
    np.testing.assert_array_equal(x, X)


class Shuffled:
    reads = 0

    def __iter__(self):
        self.reads += 1
        return iter([(X + self.reads, Y)])


@pytest.mark.parametrize(
    ("data", "given", "error", "message"),
    [
        (Shuffled(), {}, ValueError, "`x` must be the same examples in the same order"),
        (Batches(X, Y), {"y": Y}, ValueError, "`y` must not be given with a data set"),
        (Batches(X, Y), {"sample_weight": W}, ValueError, "`sample_weight` must not be given"),
        ((b for b in [(X, Y)]), {}, TypeError, "`x` must be data that has an end"),
        (Batches(X, Y, length=None), {}, ValueError, "`x` must have an end"),
    ],
)
def test_examples_that_cannot_be_held_are_named(data, given, error, message):
    with pytest.raises(error, match=message):
        held_examples(data, **{"y": None, "sample_weight": None, **given})


STRINGS = pytest.param(
    X.astype(str),
    marks=pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="has no strings"),
)


@pytest.mark.parametrize("x", [np.where(X == 3, np.nan, X), STRINGS, X > 3])
def test_nan_and_strings_are_the_same_in_each_pass(x):
    found = held_examples(Batches(x, Y), None, None)
    np.testing.assert_array_equal(found[0], x)
