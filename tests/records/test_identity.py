"""Which examples of a `PyDataset` are the same in another epoch, and in which order they are."""

import keras
import numpy as np
import pytest

from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import NotPooled, PlacedReader, Places, places_of


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


def reading(source, seed=0):
    reader = StreamReader(source, None, np.random.default_rng(seed).spawn(2), True, None)
    return PlacedReader(reader, places_of(reader))


@pytest.mark.parametrize("lengths", [(3, 3, 3, 1), (2, 5, 1, 4), (4,)])
def test_numbers_are_those_of_the_first_reading_and_have_an_order(lengths):
    for seed in range(5):
        placed = reading(Lengths(*lengths), seed)
        found = [placed.batch() for _ in lengths]
        np.testing.assert_array_equal(
            np.concatenate([part.numbers for part in found]), np.arange(sum(lengths))
        )
        values = np.concatenate([part.data[1] for part in found])
        assert placed.size == sum(lengths)
        np.testing.assert_array_equal(values[placed.places.order()], np.arange(sum(lengths)))
        pool = placed.pool(len(lengths))
        np.testing.assert_array_equal(pool.indices, pool.data[1])
        np.testing.assert_array_equal(values[pool.numbers], pool.data[1])
        assert sum(pool.lengths) == sum(lengths) and sorted(pool.lengths) == sorted(lengths)


def test_indices_are_known_before_all_batches_are_if_only_the_last_is_shorter():
    for seed in range(20):
        placed = reading(Lengths(3, 3, 3, 3, 1), seed)
        for _ in range(5):
            batch = placed.batch()
            np.testing.assert_array_equal(batch.indices, batch.data[1])
            order = placed.places.order()
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
    places = reading(kind(3, 3)).places
    places.numbers(0, (np.zeros(3), targets, None))
    places.numbers(0, (np.ones(3), targets, None))
    assert places.is_consistent
    changed = keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[::-1], targets)
    places.numbers(0, (np.zeros(3), changed, None))
    assert places.is_consistent == (kind is Lengths)


def test_batches_of_several_forms_are_not_pooled_and_are_read_again():
    for seed in range(5):
        placed = reading(Lengths(2, 2, 2, width=lambda index: index + 1), seed)
        with pytest.raises(NotPooled):
            placed.pool(2)
        assert not placed.places.is_consistent
        values = np.concatenate([placed.batch().data[1] for _ in range(3)])
        assert sorted(values) == list(range(6))


def test_a_pool_has_the_memory_of_a_queue_or_more(monkeypatch):
    placed = reading(Lengths(*[8] * 40))
    assert placed.most_pooled(40) == 40 and placed.most_pooled(3) == 3
    # A batch has 32 bytes of inputs and 64 of targets.
    monkeypatch.setattr("keras_swift.src.records.identity.POOL_BYTES", 96 * 20)
    assert placed.most_pooled(40) == 20
    monkeypatch.setattr("keras_swift.src.records.identity.POOL_BYTES", 0)
    assert placed.most_pooled(40) == 10


def test_places_survive_the_round_trip():
    first, second = reading(Lengths(2, 3, 1)), reading(Hooked(2, 3, 1), seed=1)
    for _ in range(2):
        first.batch()
    second.places.restore(first.places.state())
    np.testing.assert_array_equal(second.places.order(), first.places.order())
    assert second.places.count == first.places.count and second.places.is_consistent
