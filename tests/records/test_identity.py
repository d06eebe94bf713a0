"""Which examples of a stream are the same in another epoch, and in which order they are."""

import keras
import numpy as np
import pytest

from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Identity, Places, places_of
from keras_swift.src.records.known_reader import KnownReader, NotPooled


class Lengths(keras.utils.PyDataset):
    """Batches of these lengths, which hold the numbers from 0 on."""

    def __init__(self, *lengths, width=1):
        super().__init__()
        self.ends, self.width = np.cumsum([0, *lengths]), width

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        numbers = np.arange(*self.ends[index : index + 2])
        width = self.width(index) if callable(self.width) else self.width
        return np.repeat(numbers[:, None], width, 1).astype("float32"), numbers


class Hooked(Lengths):
    def on_epoch_end(self):
        pass


def reading(source, seed=0, steps=None):
    reader = StreamReader(source, None, np.random.default_rng(seed).spawn(2), True, steps)
    return KnownReader(reader, Identity(reader))


@pytest.mark.parametrize("lengths", [(3, 3, 3, 1), (2, 5, 1, 4), (4,)])
def test_numbers_are_those_of_the_first_reading_and_have_an_order(lengths):
    for seed in range(5):
        known = reading(Lengths(*lengths), seed)
        found = [known.batch() for _ in lengths]
        np.testing.assert_array_equal(
            np.concatenate([part.numbers for part in found]), np.arange(sum(lengths))
        )
        values = np.concatenate([part.data[1] for part in found])
        np.testing.assert_array_equal(values[known.identity.order()], np.arange(sum(lengths)))
        pool = known.pool(len(lengths))
        for part in pool:
            np.testing.assert_array_equal(part.indices, part.data[1])
            np.testing.assert_array_equal(values[part.numbers], part.data[1])
        assert sorted(size for part in pool for size in part.sizes) == sorted(lengths)


def test_indices_are_known_before_all_batches_are_if_only_the_last_is_shorter():
    for seed in range(20):
        known = reading(Lengths(3, 3, 3, 3, 1), seed)
        for _ in range(5):
            batch = known.batch()
            np.testing.assert_array_equal(batch.indices, batch.data[1])
            order = known.identity.order()
            assert set(order[batch.indices]) == set(batch.numbers)


def test_a_batch_of_another_length_or_number_ends_it():
    places = Places(2, 3, compares=False)
    places.numbers(0, (np.zeros(3), None, None))
    assert (
        places.numbers(0, (np.zeros(3), np.ones(3), None)).tolist() == [0, 1, 2]
        and places.is_consistent
    )
    assert (
        places.numbers(0, (np.zeros(2), None, None)).tolist() == [3, 4] and not places.is_consistent
    )
    places = Places(2, 3, compares=False)
    assert (
        places.numbers(2, (np.zeros(2), None, None)).tolist() == [0, 1] and not places.is_consistent
    )


@pytest.mark.parametrize("kind", [Lengths, Hooked])
@pytest.mark.parametrize(
    "targets", [np.arange(3), np.array(["a", "b", "c"], object), {"a": np.arange(3.0), "b": None}]
)
def test_other_targets_are_other_examples_where_a_hook_may_reorder_them(kind, targets):
    reader = StreamReader(kind(3, 3), None, np.random.default_rng(0).spawn(2), True, None)
    places = places_of(reader)
    places.numbers(0, (np.zeros(3), targets, None))
    places.numbers(0, (np.ones(3), targets, None))
    assert places.is_consistent
    changed = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[::-1], targets)
    places.numbers(0, (np.zeros(3), changed, None))
    assert places.is_consistent == (kind is Lengths)


class Dealt(Lengths):
    """Deals its numbers out anew after each epoch."""

    order = np.arange(12)

    def on_epoch_end(self):
        self.order = np.random.default_rng(len(self.order)).permutation(12)

    def __getitem__(self, index):
        numbers = self.order[slice(*self.ends[index : index + 2])]
        return numbers[:, None].astype("float32"), numbers % 5


def test_examples_that_a_hook_reorders_are_known_by_content_with_the_numbers_they_had():
    known = reading(source := Dealt(5, 5, 2))
    first = [known.batch() for _ in range(3)]
    numbers = np.zeros(12, np.int64)
    for part in first:
        numbers[part.data[0][:, 0].astype(int)] = part.numbers
    assert known.identity.kind == "places"
    source.on_epoch_end()
    again = [known.batch() for _ in range(3)]
    assert known.identity.kind == "content" and known.identity.is_consistent
    assert known.identity.count == 12 and known.identity.order() is None
    for part in again:
        np.testing.assert_array_equal(numbers[part.data[0][:, 0].astype(int)], part.numbers)


def shuffled(x, y, ids=None, change=None):
    """A finite iterable that gives the rows in another order in each pass."""

    class Source:
        passes = 0

        def __len__(self):
            return len(x) // 4

        def __iter__(self):
            generator = np.random.default_rng(self.passes)
            self.passes += 1
            for rows in np.split(generator.permutation(len(x)), len(self)):
                part = x[rows] if change is None else change(x[rows], generator)
                yield (part, y[rows]) if ids is None else (part, y[rows], None, ids[rows])

    return Source()


X, Y = np.random.default_rng(0).normal(size=(40, 6)).astype("float32"), np.arange(40) % 3


def augment(x, generator):
    return x + generator.normal(size=x.shape).astype("float32")


@pytest.mark.parametrize(
    "ids", [None, np.arange(40) * 10**12 - 7, np.array([f"image {i}" for i in range(40)])]
)
def test_examples_are_known_by_content_or_ids_in_any_order(ids):
    known = reading(shuffled(X, Y, ids, None if ids is None else augment))
    assert known.identity.kind == ("content" if ids is None else "ids")
    first = [known.batch() for _ in range(10)]
    assert np.concatenate([part.numbers for part in first]).tolist() == list(range(40))
    for part in known.pool(10):
        assert part.numbers.max() < 40
        if ids is None:
            rows = np.concatenate([batch.data[0] for batch in first])
            np.testing.assert_array_equal(rows[part.numbers], part.data[0])
        np.testing.assert_array_equal(part.indices, part.numbers)
    assert known.identity.count == 40 and len(known.identity.ids) == 40
    if ids is not None:
        assert sorted(known.identity.ids) == sorted(ids)
    # The names follow the numbers.
    other = reading(shuffled(X, Y, ids))
    other.identity.restore(known.identity.state())
    np.testing.assert_array_equal(other.identity.ids, known.identity.ids)
    assert (other.batch().numbers == first[0].numbers).all()


def test_equal_examples_have_one_number():
    x = np.repeat(X[:10], 4, axis=0)
    known = reading(shuffled(x, np.repeat(Y[:10], 4)))
    numbers = np.concatenate([known.batch().numbers for _ in range(10)])
    assert known.identity.count == 10 and np.bincount(numbers).tolist() == [4] * 10


def test_contents_that_do_not_come_back_are_given_up_and_the_cure_is_named():
    known = reading(shuffled(X, Y, change=augment))
    first = [known.batch() for _ in range(10)]
    with pytest.warns(UserWarning, match="other contents in each pass.*with ids that stay"):
        with pytest.raises(NotPooled):
            known.pool(3)
    assert not known.identity.is_consistent
    assert len(first) == 10


def test_a_pool_of_new_examples_is_read_again():
    source = shuffled(X, Y)
    known = reading(source)
    with pytest.raises(NotPooled):
        known.pool(3)
    assert known.identity.is_consistent
    rows = np.concatenate([known.batch().data[1] for _ in range(10)])
    assert sorted(rows) == sorted(Y)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.arange(3), ValueError, r"shape `\(b,\)`.*shape \(3,\) for 4 examples"),
        (np.array([1, 2, np.nan, 4]), TypeError, "integers or strings.*float64 with NaN"),
        (np.array([None, 1, 2, 3]), TypeError, "integers or strings.*object"),
    ],
)
def test_bad_ids_are_named(ids, error, message):
    with pytest.raises(error, match=message):
        reading([(X[:4], Y[:4], None, ids)])


@pytest.mark.parametrize("first", [True, False])
def test_ids_in_some_batches_only_are_named(first):
    batches = [(X[:4], Y[:4], None, np.arange(4)), (X[4:8], Y[4:8])]
    known = reading(batches if first else batches[::-1])
    known.batch()
    with pytest.raises(ValueError, match="All batches must have ids, their fourth part, or none"):
        known.batch()


def test_a_twentieth_of_a_long_epoch_is_read_for_a_pool_and_little_memory_taken(monkeypatch):
    assert reading(Lengths(*[8] * 400)).pool_steps == 20
    assert reading(Lengths(*[8] * 100)).pool_steps == 10
    assert reading(Lengths(*[8] * 12)).pool_steps == 3
    # A batch has 32 bytes of inputs and 64 of targets, and four times as many are held.
    monkeypatch.setattr("keras_swift.src.records.known_reader.POOL_BYTES", 4 * 96 * 15)
    assert reading(Lengths(*[8] * 400)).pool_steps == 15


def test_places_survive_the_round_trip():
    first, second = reading(Lengths(2, 3, 1)), reading(Hooked(2, 3, 1), seed=1)
    for _ in range(2):
        first.batch()
    second.identity.restore(first.identity.state())
    np.testing.assert_array_equal(second.identity.order(), first.identity.order())
    assert second.identity.count == first.identity.count
