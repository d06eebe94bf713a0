"""Sources of batches: their order, their end, their workers and what is read ahead."""

import threading
import time

import keras
import numpy as np
import pytest

from keras_swift.src.data import stream_reader as stream_reader_module
from keras_swift.src.data.reader import ArrayReader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.data.streams import Stream, is_stream


class Numbered(keras.utils.PyDataset):
    """Batch `i` holds the numbers `3 i` to `3 i + 2`, and how often it was asked for."""

    def __init__(self, batches=5, last=3, **settings):
        super().__init__(**settings)
        self.batches, self.last = batches, last
        self.asked, self.events, self.threads = [], [], set()

    @property
    def num_batches(self):
        return self.batches

    def __getitem__(self, index):
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        if self.workers > 1 and index % 2 == 0:
            # Out of order, were it not for the order they are given back in.
            time.sleep(0.01)
        size = self.last if index == (self.batches or -5) - 1 else 3
        numbers = np.arange(3.0 * index, 3.0 * index + size)
        return numbers[:, None], numbers.astype("int64")

    def on_epoch_begin(self):
        self.events.append("begin")

    def on_epoch_end(self):
        self.events.append("end")


class Loader:
    """What a `DataLoader` looks like: a length, and a new pass for each `iter`."""

    def __init__(self, batches=5, length=True):
        self.batches, self.passes = batches, 0
        if length:
            self.__class__ = type("LoaderWithLength", (Loader,), {"__len__": lambda s: s.batches})

    def __iter__(self):
        self.passes += 1
        for index in range(self.batches):
            yield np.full((3, 1), index), np.full(3, index)


def endless():
    for index in range(10**9):
        yield np.full((3, 1), index), np.full(3, index)


def first_of(stream, count):
    return [int(stream.next_batch()[1][0]) for _ in range(count)]


def generators(seed=0):
    return np.random.default_rng(seed).spawn(2)


def stream_reader(source, shuffle=False, steps=None, class_weight=None):
    return StreamReader(source, class_weight, generators(), shuffle, steps)


@pytest.mark.parametrize("source", [Numbered(), Loader(), endless(), [1].__iter__(), {1, 2}])
def test_what_gives_batches_is_a_stream(source):
    assert is_stream(source)


@pytest.mark.parametrize("source", [np.zeros(3), [np.zeros(3)], {"a": np.zeros(3)}, 3, None])
def test_arrays_are_no_stream(source):
    assert not is_stream(source)


def test_a_source_begins_anew_at_its_end():
    assert first_of(Stream(Numbered(2)), 5) == [0, 3, 0, 3, 0]
    assert first_of(Stream(Loader(2)), 5) == [0, 1, 0, 1, 0]


def test_a_generator_that_ends_says_so():
    stream = Stream(iter(list(zip(range(2), range(2), strict=True))))
    with pytest.raises(ValueError, match="first axis that counts the examples.*a scalar"):
        stream.next_batch()
    stream = Stream(batch for batch, _ in zip(endless(), range(2), strict=False))
    first_of(stream, 2)
    with pytest.raises(ValueError, match="The generator ended before training did"):
        stream.next_batch()


@pytest.mark.parametrize("settings", [{}, {"workers": 3}])
def test_shuffled_batches_come_once_a_pass_and_in_new_orders(settings):
    stream = Stream(Numbered(5, **settings), np.random.default_rng(0))
    passes = [first_of(stream, 5) for _ in range(6)]
    stream.close()
    assert all(sorted(order) == [0, 3, 6, 9, 12] for order in passes)
    assert len({tuple(order) for order in passes}) > 1


def test_workers_change_neither_order_nor_draws_and_do_the_loading():
    plain = Stream(Numbered(5), np.random.default_rng(0))
    dataset = Numbered(5, workers=3)
    parallel = Stream(dataset, np.random.default_rng(0))
    assert first_of(plain, 12) == first_of(parallel, 12)
    parallel.close()
    assert threading.get_ident() not in dataset.threads


def test_every_batch_of_a_pass_is_loaded_once():
    dataset = Numbered(6, workers=2, max_queue_size=3)
    stream = Stream(dataset)
    first_of(stream, 6)
    stream.close()
    assert sorted(dataset.asked) == list(range(6))


def test_a_new_pass_begins_at_the_beginning_whatever_was_looked_at():
    for source in (Numbered(4), Loader(4)):
        stream = Stream(source)
        first = first_of(stream, 1)
        with stream.unchanged():
            first_of(stream, 2)
        stream.restart()
        assert first_of(stream, 1) == first


# JAX warns of every fork in a process that has used it, as it does under Keras' own `fit`.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_processes_load_where_the_dataset_asks_for_them():
    stream = Stream(Numbered(3, workers=2, use_multiprocessing=True))
    assert first_of(stream, 4) == [0, 3, 6, 0]
    stream.close()
    # Asked in another process, so nothing was noted in this one.
    assert stream._source.asked == []


@pytest.mark.parametrize("settings", [{}, {"workers": 2, "max_queue_size": 4}])
def test_a_stream_taken_back_gives_the_same_batches_again(settings):
    for source in (Numbered(5, **settings), Numbered(None, **settings), endless()):
        stream = Stream(source, np.random.default_rng(0))
        before = first_of(stream, 2)
        with stream.unchanged():
            looked = first_of(stream, 3)
        with stream.unchanged():
            assert first_of(stream, 1) == looked[:1]
        assert first_of(stream, 3) == looked
        assert len({*before, *looked}) == 5
        stream.close()


def test_the_state_of_a_dataset_is_what_was_consumed_not_what_was_read_ahead():
    stream = Stream(Numbered(7, workers=2), np.random.default_rng(3))
    first_of(stream, 3)
    with stream.unchanged():
        first_of(stream, 2)
    state = stream.state()
    rest = first_of(stream, 9)
    again = Stream(Numbered(7), np.random.default_rng(99))
    again.restore(state)
    assert first_of(again, 9) == rest
    stream.close()


def test_a_generator_has_no_state_to_come_back_to():
    stream = Stream(endless())
    assert stream.state() is None
    stream.restore(None)
    assert first_of(stream, 1) == [0]


def test_what_was_read_ahead_of_the_first_epoch_is_dropped_too():
    dataset = Numbered(6, workers=2, max_queue_size=6)
    stream = Stream(dataset)
    first_of(stream, 1)
    time.sleep(0.1)
    dataset.asked.clear()
    stream.begin_epoch()
    first_of(stream, 1)
    stream.close()
    assert 1 in dataset.asked


def test_what_was_read_ahead_is_dropped_between_epochs():
    dataset = Numbered(6, workers=2, max_queue_size=6)
    stream = Stream(dataset)
    stream.begin_epoch()
    assert first_of(stream, 2) == [0, 3]
    time.sleep(0.1)
    stream.end_epoch()
    # The dataset may hold other items in this epoch.
    dataset.asked.clear()
    stream.begin_epoch()
    assert first_of(stream, 1) == [6]
    stream.close()
    assert 2 in dataset.asked
    assert dataset.events == ["begin", "end", "begin"]


def test_uniform_epochs_are_whole_passes_and_presamples_go_on_across_epochs():
    found = stream_reader(Numbered(5))
    assert (found.batch_size, found.num_batches, found.presample_size(3.0)) == (3, 5, 9)
    numbers = [int(found.uniform().data[1][0]) for _ in range(3)]
    joined = [found.presample(9).data[1].tolist() for _ in range(2)]
    found.restart()
    numbers.append(int(found.uniform().data[1][0]))
    assert numbers == [0, 3, 6, 0]
    # Every batch once before any a second time: 0 to 14, then from 0.
    assert joined == [list(range(9)), [*range(9, 15), *range(3)]]
    assert found.presample(6).data[1].tolist() == [*range(3, 9)]


def test_a_ragged_last_batch_is_presampled_whole():
    found = stream_reader(Numbered(3, last=1))
    assert found.presample(9).data[1].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(stream_reader(Numbered(1, last=2)).uniform()) == 2


def test_a_generator_is_shared_by_batches_and_presamples():
    found = stream_reader(endless(), steps=4)
    first = int(found.uniform().data[1][0])
    presample = found.presample(6).data[1].tolist()
    found.restart()
    assert (first, presample) == (0, [1, 1, 1, 2, 2, 2])
    assert int(found.uniform().data[1][0]) == 3


@pytest.mark.parametrize(("ratio", "size"), [(1.2, 6), (2.0, 6), (2.6, 9), (4.0, 12)])
def test_presamples_are_whole_batches_and_at_least_two(ratio, size):
    assert stream_reader(Numbered(5)).presample_size(ratio) == size


def test_steps_are_counted_where_a_source_does_not_tell():
    assert stream_reader(Loader(4)).num_batches == 4
    assert stream_reader(Loader(4), steps=9).num_batches == 9
    with pytest.warns(UserWarning, match="read once from end to end to count"):
        assert stream_reader(Loader(4, length=False)).num_batches == 4
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given for a source"):
        stream_reader(Numbered(None))


@pytest.mark.parametrize("kind", [int, lambda number: lambda: number])
def test_a_source_says_that_it_has_no_end(kind):
    """As data sets of TensorFlow do, by a method, and distributed ones, by a number."""
    source = Loader(4, length=False)
    source.cardinality = kind(-1)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given for a source without"):
        stream_reader(source)
    assert not stream_reader(source, steps=3).is_open_ended
    source.cardinality = kind(-2)
    assert stream_reader(source, steps=3).is_open_ended


def test_a_pass_of_unknown_length_is_counted_as_it_ends():
    found = stream_reader(Loader(4, length=False), steps=9)
    assert found.pass_length == np.inf
    goes_on = []
    for step in range(5):
        goes_on.append(found.goes_on(step, are_waiting=False))
        if goes_on[-1]:
            found.uniform()
    assert goes_on == [True, True, True, True, False]
    assert found.pass_length == 4
    # Known from here on, whatever was read ahead.
    assert found.goes_on(3, are_waiting=True) and not found.goes_on(4, are_waiting=True)
    assert int(found.uniform().data[1][0]) == 0


def test_a_generator_is_read_to_its_end(monkeypatch):
    finite = (batch for batch, _ in zip(endless(), range(4), strict=False))
    found = stream_reader(finite)
    assert found.num_batches == 4
    assert [int(found.uniform().data[1][0]) for _ in range(5)] == [0, 1, 2, 3, 0]
    monkeypatch.setattr(stream_reader_module, "GENERATOR_BYTES", 1000)
    message = r"`steps_per_epoch` must be given for a generator .* 21 batches \(1008 bytes\)"
    with pytest.raises(ValueError, match=message):
        stream_reader(endless())


class MadeAtEpochBegin(Numbered):
    """Has no batches before an epoch begins."""

    def on_epoch_begin(self):
        super().on_epoch_begin()
        self.numbers = np.arange(3.0) + 10 * len(self.events)

    def __getitem__(self, index):
        return self.numbers[:, None], self.numbers.astype("int64")


def test_nothing_is_read_before_the_epoch_begins():
    dataset = MadeAtEpochBegin()
    found = stream_reader(dataset)
    for _ in range(2):
        found.begin_epoch()
        found.restart()
        assert found.uniform().data[1][0] == 10 * len(dataset.events)
        found.end_epoch()
    # No more than with Keras itself.
    assert dataset.events == ["begin", "end", "begin", "end"]


def test_a_presample_is_worth_the_mean_length_of_its_batches():
    found = stream_reader(Numbered(3, last=1))
    presamples = [found.presample(6) for _ in range(3)]
    assert [len(presample) for presample in presamples] == [6, 4, 4]
    assert [presample.mean_length for presample in presamples] == [3.0, 2.0, 2.0]
    assert found.presample(9).mean_length == pytest.approx(7 / 3)


def test_class_weights_become_weights_of_the_batch():
    found = stream_reader(Numbered(2), class_weight={1: 5.0, 4: 7.0})
    assert found.uniform().data[2].tolist() == [1.0, 5.0, 1.0]
    assert found.presample(6).data[2].tolist() == [1.0, 5.0, 1.0, 1.0, 7.0, 1.0]

    weighted = (((x, y, np.ones(3)) for x, y in endless()),)
    with pytest.raises(ValueError, match="`class_weight` must not be given if the stream"):
        stream_reader(*weighted, steps=1, class_weight={0: 1.0})


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (np.zeros(3), ValueError, "Received: ndarray"),
        ((np.zeros(3),), ValueError, "Received: 1 parts"),
        ((np.zeros(3), np.zeros(2)), ValueError, r"same length.*\[2, 3\]"),
        ((np.zeros((0, 3)), np.zeros(0)), ValueError, r"at least 1.*\[0\]"),
        (
            ([np.zeros(3), np.array([[1], [2, 3], 1], object)], np.zeros(3)),
            TypeError,
            "numbers or strings",
        ),
    ],
)
def test_bad_batches_are_named(batch, error, message):
    with pytest.raises(error, match=message):
        Stream(iter([batch])).next_batch()


def test_batches_of_different_widths_cannot_be_presampled_together():
    def growing():
        for width in range(1, 100):
            yield np.zeros((3, width)), np.zeros(3)

    with pytest.raises(ValueError, match=r"must be of one form.*\(3, 1\).*Pad them"):
        stream_reader(growing(), steps=2).presample(6)


def test_array_reader_looks_like_a_stream_reader():
    from keras_swift.src.data.arrays import ArraySource

    source = ArraySource(np.arange(7)[:, None], np.arange(7))
    found = ArrayReader(source, 3, generators(), False)
    assert (found.num_batches, found.presample_size(2.0)) == (3, 6)
    assert [specimen.indices.tolist() for specimen in found.specimens(2)] == [[0, 1, 2]]
    assert [len(found.uniform()) for _ in range(3)] == [3, 3, 1]
    state = found.state()
    expected = found.presample(6).indices.tolist()
    found.restore(state)
    assert found.presample(6).indices.tolist() == expected


def test_the_first_batch_is_not_the_last_one_which_may_be_smaller():
    sizes = {
        StreamReader(Numbered(4, last=1), None, generators(seed), True, None).batch_size
        for seed in range(20)
    }
    assert sizes == {3}
    assert stream_reader(Numbered(1, last=1), shuffle=True).batch_size == 1


def test_workers_may_be_let_read_further_ahead_than_their_queue():
    dataset = Numbered(9, workers=2, max_queue_size=1)
    stream = Stream(dataset)
    stream.read_ahead(6, in_thread=True)
    first_of(stream, 1)
    end = time.monotonic() + 10
    while len(dataset.asked) < 6 and time.monotonic() < end:
        time.sleep(0.01)
    stream.close()
    assert sorted(dataset.asked) == list(range(6))


def test_a_length_is_asked_for_once_in_a_pass():
    class Growing(Loader):
        asked = 0

        def __len__(self):
            self.asked += 1
            return self.batches

    source = Growing(4, length=False)
    stream = Stream(source)
    assert [stream.length for _ in range(4) if stream.next_read()] == [4] * 4
    assert source.asked == 1
    source.batches = 6
    stream.restart()
    assert (stream.length, source.asked) == (6, 2)
