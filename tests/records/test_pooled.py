"""Pools of the batches of a stream: what was just read, and some of what was read before."""

import threading
import types

import numpy as np
import pytest

from keras_swift.src.data import read_ahead
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records import known_reader
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known import Known, joined_by_shape
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.pooled import drawn_batches


class Numbered:
    """Batches of two rows that hold their numbers, always in one order; some are `wide`."""

    def __init__(self, batches, wide=()):
        self.batches, self.wide = batches, wide

    def __len__(self):
        return self.batches

    def __iter__(self):
        for batch in range(self.batches):
            rows = 2 * batch + np.arange(2)
            yield np.repeat(rows[:, None], 1 + (batch in self.wide), 1).astype("float32"), rows


def known(batches, wide=()):
    source = Numbered(batches, wide)
    reader = StreamReader(source, None, np.random.default_rng(0).spawn(2), True, None)
    return KnownReader(reader, Identity(reader))


def epoch_of(reader, batches):
    """`(numbers of the new rows, numbers of all)` for each pool of an epoch."""
    left, found = batches, []
    while left:
        steps = reader.new_steps(left)
        new = reader.pool(steps, left)
        left -= steps
        pool = np.concatenate([batch.numbers for batch in (*reader.earlier, *new)])
        found.append((np.concatenate([batch.numbers for batch in new]), pool))
    return found


@pytest.mark.parametrize("batches", [7, 40, 105, 240, 1000])
def test_a_row_is_drawn_once_in_all_of_its_pools_if_scores_are_equal(batches):
    reader = known(batches)
    for left in range(batches, 0, -1):
        reader.batch(left)
    drawn = np.zeros(2 * batches)
    pools = [pool for _ in range(3) for pool in epoch_of(reader, batches)]
    for new, pool in pools:
        drawn[pool] += len(new) / len(pool)
        # A quarter of an epoch, as the parts of one are whole batches of equal numbers.
        assert len(pool) <= max(2 * batches / 4 + 12, 2)
    # Parts have equal numbers of batches, or one more or less.
    part = batches / max(1, len(pools) / 3)
    np.testing.assert_allclose(drawn, 3, atol=3 / part)
    assert drawn.sum() == pytest.approx(6 * batches)
    new = np.concatenate([new for new, _ in pools])
    np.testing.assert_array_equal(np.bincount(new), np.full(2 * batches, 3))


def test_long_epochs_have_pools_of_a_quarter_of_which_a_fifth_is_new():
    reader = known(1000)
    for left in range(1000, 0, -1):
        reader.batch(left)
    assert {(len(new), len(pool)) for new, pool in epoch_of(reader, 1000)} == {(100, 500)}


def test_pools_take_as_many_bytes_as_they_may(monkeypatch):
    # A row has 12 bytes: 4 of `x`, 8 of `y`.
    monkeypatch.setattr(known_reader, "POOL_BYTES", 24 * 100)
    reader = known(1000)
    for left in range(1000, 0, -1):
        reader.batch(left)
    # The new batches, a copy of as many, the next ones, which are read meanwhile, and rare shapes.
    sizes = {len(pool) // 2 + 3 * reader.pool_steps for _, pool in epoch_of(reader, 1000)}
    assert max(sizes) <= 100 and reader.pool_steps == 25


def test_nothing_is_kept_once_it_is_forgotten():
    reader = known(240)
    for left in range(240, 0, -1):
        reader.batch(left)
    reader.forget_earlier()
    reader.pool(12, 240)
    assert reader.earlier == []


def test_drawn_rows_are_those_of_the_joined_batches():
    generator = np.random.default_rng(0)

    def batch(first, rows, width, dtype="float32"):
        x = {"a": generator.normal(size=(rows, width)).astype(dtype)}
        numbers = first + np.arange(rows)
        weights = generator.random(rows)
        return Known((x, numbers.astype("U3"), weights), numbers, numbers + 100, [rows])

    earlier = joined_by_shape([batch(0, 3, 2), batch(3, 2, 5), batch(5, 4, 2, "float64")])
    read = [batch(9, 2, 2), batch(11, 3, 5), batch(14, 1, 2)]
    new = joined_by_shape(read)
    asked = []

    def draw(places, count):
        pool = np.concatenate([(earlier + new)[place].numbers for place in places])
        asked.append((pool.tolist(), count))
        positions = generator.integers(0, len(pool), count)
        return positions, 1.0 / (1 + pool[positions])

    plan = drawn_batches(new, draw, earlier)
    assert asked == [([0, 1, 2, 5, 6, 7, 8, 9, 10, 14], 3), ([3, 4, 11, 12, 13], 3)]
    assert len(earlier) == len(new) == 2
    rows = {
        number: {"x": one.data[0]["a"][row], "weight": one.data[2][row]}
        for one in (*earlier, *read)
        for row, number in enumerate(one.numbers)
    }
    for one, (group, part) in zip(read, plan, strict=True):
        numbers = group.pool[group.positions[part]]
        assert len(numbers) == len(one.numbers)
        x, y, weights = group.data
        assert y[part].tolist() == [str(number) for number in numbers]
        assert group.indices[part].tolist() == (numbers + 100).tolist()
        np.testing.assert_allclose(group.weights[part], 1 / (1 + numbers))
        for place, number in zip(range(part.start, part.stop), numbers, strict=True):
            np.testing.assert_array_equal(x["a"][place], rows[number]["x"])
            assert weights[place] == rows[number]["weight"]


@pytest.mark.any_backend
@pytest.mark.parametrize("wide", [(5, 15), (0, 37, 60, 199)])
def test_rows_of_a_rare_shape_are_drawn_as_often_as_others(wide):
    batches, epochs = 200, 8
    reader = known(batches, wide)
    for left in range(batches, 0, -1):
        reader.batch(left)
    # The last row is of batches that were read before the first pool.
    drawn, read = np.zeros((epochs + 1, batches)), {}

    def draw(places, count):
        known = [[*earlier, *new][place] for place in places]
        rows = sum(len(one.numbers) for one in known)
        for one in known:
            epoch, _ = read.get(id(one), (epochs, one))
            np.add.at(drawn[epoch], one.numbers // 2, count / 2 / rows)
        return np.zeros(count, int), np.ones(count)

    for epoch in range(epochs):
        left = batches
        while left:
            steps = reader.new_steps(left)
            new, earlier = reader.pool(steps, left), reader.earlier
            # The batch too, so that no other one gets its id.
            read |= {id(batch): (epoch, batch) for batch in new}
            drawn_batches(new, draw, earlier)
            left -= steps
        # A quarter of an epoch, and a twentieth for rare shapes.
        assert sum(len(one.sizes) for one in reader.held) <= 0.3 * batches
    # But for the beginning, when few batches of a shape are known, and the end. The pools of the
    # common shape differ by a batch.
    np.testing.assert_allclose(drawn[3:5], 1.0, atol=0.04)


@pytest.mark.any_backend
@pytest.mark.parametrize(("trained", "is_slow"), [(0.4, False), (0.2, True)])
def test_what_was_read_before_a_pool_is_not_taken_for_reading_it(monkeypatch, trained, is_slow):
    """A pool of a hundred batches, more than the pace is measured over."""
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(read_ahead, "time", clock)
    threads = set()

    class Timed(Numbered):
        def __iter__(self):
            for batch in super().__iter__():
                threads.add(threading.get_ident())
                clock.now += 0.1
                yield batch

    source = Timed(2000)
    reader = StreamReader(source, None, np.random.default_rng(0).spawn(2), True, None)
    pools = KnownReader(reader, Identity(reader))
    pools.several(2000, 2000)
    pools.stop_reading_ahead()
    left = 2000
    while left:
        pools.look_ahead(left)
        count = pools.new_steps(left)
        pools.pool(count, left)
        left -= count
        clock.now += count * trained
    reader.close()
    assert (threads != {threading.get_ident()}) == is_slow
