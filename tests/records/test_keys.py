"""Keys of examples: what makes them differ, and a table that numbers them."""

import itertools

import keras
import numpy as np
import pytest

from keras_swift.src.records.keys import KeyTable, content_keys, id_keys

GENERATOR = np.random.default_rng(0)


def keys(*batch):
    return content_keys([batch])


@pytest.mark.parametrize(
    "shape", [(5,), (28, 28), (600, 4), (64, 64, 3)], ids=lambda shape: "x".join(map(str, shape))
)
def test_a_changed_number_of_a_short_row_or_label_changes_the_key(shape):
    x, y = GENERATOR.normal(size=(8, *shape)).astype("float32"), np.arange(8)
    found = keys(x, y)
    assert len(set(found.tolist())) == 8
    np.testing.assert_array_equal(found[::-1], keys(x[::-1], y[::-1]))
    assert (found != keys(x, y + 1)).all()
    changed = x.copy()
    changed[:, 0] += 1
    assert (found != keys(changed, y)).all()


def test_every_byte_of_the_first_two_thousand_counts_and_pieces_after_them():
    row = np.ones((1, 20_000), np.uint8)
    expected = keys(row, np.zeros(1))

    def differs(place):
        changed = row.copy()
        changed[0, place] = 2
        return bool(keys(changed, np.zeros(1)) != expected)

    assert all(differs(place) for place in range(0, 2048, 89)) and differs(2047)
    for start in range(2048, 20_000, 4096):
        assert differs(start) and differs(start + 63) and not differs(start + 64)


def test_padding_does_not_change_a_key():
    for width in (3, 511, 512, 513, 700, 1536, 1537, 3000):
        x = GENERATOR.integers(1, 9, (4, width)).astype("int32")
        for longer in (1, 40, 1024, 1025):
            padded = np.pad(x, ((0, 0), (0, longer)))
            np.testing.assert_array_equal(keys(x, np.zeros(4)), keys(padded, np.zeros(4)))


@pytest.mark.any_backend
def test_rows_that_differ_in_a_regular_way_have_different_keys():
    """Sums of plain words would not, and floats are words that end in many zeros."""
    grid = np.stack(np.meshgrid(np.arange(700), np.arange(700)), axis=-1).reshape(-1, 2)
    for dtype in ("float32", "float64", "int64", "uint8"):
        rows = grid.astype(dtype)
        different = len(np.unique(rows, axis=0))
        assert len(np.unique(keys(rows, None))) == different
        assert len(np.unique(keys(rows[:, 0], rows[:, 1]))) == different
    one_hot = np.eye(500, dtype="float32")
    assert len(np.unique(np.append(keys(one_hot, None), keys(3 * one_hot, None)))) == 1000
    orders = np.array(list(itertools.permutations(range(8))))
    assert len(np.unique(keys(orders, None))) == len(orders)


def test_dicts_strings_and_missing_targets_have_keys():
    x = {"a": np.arange(6.0).reshape(3, 2), "b": np.array(["x", "yy", "z"], object)}
    found = keys(x, None)
    assert len(set(found.tolist())) == 3
    other = {**x, "b": np.array(["x", "y", "z"])}
    assert (found == keys(other, None)).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64])
def test_ids_that_are_integers_have_keys_of_their_own(kind):
    ids = np.arange(200).astype(kind)
    assert len(np.unique(id_keys(ids))) == 200
    np.testing.assert_array_equal(id_keys(ids), id_keys(ids.astype(np.int64)))


def test_ids_that_are_strings_do_not_depend_on_how_they_are_kept():
    names = ["a", "image", "ä"]
    expected = id_keys(np.array(names))
    np.testing.assert_array_equal(expected, id_keys(np.array(["image of a cat", *names]))[1:])
    np.testing.assert_array_equal(expected, id_keys(np.array([n.encode() for n in names])))


def test_the_table_numbers_keys_as_a_dict_does():
    table, numbers = KeyTable(), {}
    # Few different keys, so that many come again, in one batch and in several.
    pool = GENERATOR.integers(0, 2**64, 3000, dtype=np.uint64)
    for _ in range(300):
        batch = GENERATOR.choice(pool, 37)
        expected = [numbers.setdefault(int(key), len(numbers)) for key in batch]
        assert table.numbers(batch).tolist() == expected
    assert len(table) == len(numbers)
    np.testing.assert_array_equal(table.keys, np.array(list(numbers), np.uint64))
    again = KeyTable()
    again.restore(table.keys.copy())
    np.testing.assert_array_equal(again.find(pool), table.find(pool))
    assert again.numbers(np.array([1], np.uint64)).tolist() == [len(numbers)]


def test_keys_in_one_slot_are_told_apart():
    crowded = np.arange(40, dtype=np.uint64)
    table = KeyTable()
    assert table.numbers(crowded).tolist() == list(range(40))
    assert table.find(crowded[::-1]).tolist() == list(range(40))[::-1]
    assert table.find(crowded + np.uint64(40)).tolist() == [-1] * 40


def test_a_table_takes_few_bytes_for_each_key():
    table = KeyTable()
    for start in range(0, 200_000, 1000):
        table.numbers(id_keys(np.arange(start, start + 1000)))
    assert (table._rows._rows.nbytes + table._slots.nbytes) / 200_000 < 24


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same on all backends")
def test_random_keys_hardly_ever_need_many_steps():
    table = KeyTable()
    table.numbers(id_keys(np.arange(50_000)))
    found = table.find(id_keys(np.arange(50_000)))
    np.testing.assert_array_equal(found, np.arange(50_000))
