"""A thread reads what is allowed, in order, and nothing is lost when it stops."""

import threading
import time
import traceback
import types

import pytest

from keras_swift.src.data import read_ahead
from keras_swift.src.data.read_ahead import ReadAhead


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened within ten seconds"
        time.sleep(0.001)


def reading_threads():
    return {t for t in threading.enumerate() if t.name == "keras_swift reads ahead"}


@pytest.fixture
def no_thread_is_left():
    """Those of readers that other tests did not close do not count."""
    before = reading_threads()
    yield
    assert reading_threads() <= before


class Numbers:
    def __init__(self, end=10**9):
        self.count, self.end, self.threads = 0, end, set()

    def __call__(self):
        self.threads.add(threading.current_thread())
        if self.count == self.end:
            return None
        self.count += 1
        return self.count


def test_nothing_is_read_ahead_until_it_is_allowed(no_thread_is_left):
    numbers = Numbers()
    ahead = ReadAhead(numbers)
    assert [ahead.next(), ahead.next()] == [1, 2]
    assert numbers.count == 2 and numbers.threads == {threading.current_thread()}


def test_a_thread_reads_as_many_as_allowed_and_in_order(no_thread_is_left):
    numbers = Numbers()
    ahead = ReadAhead(numbers)
    ahead.allow(3)
    wait_for(lambda: numbers.count == 3)
    time.sleep(0.02)
    assert numbers.count == 3 and threading.current_thread() not in numbers.threads
    assert [ahead.next() for _ in range(20)] == list(range(1, 21))
    ahead.allow(0)
    # One that was being read may still come.
    count = len(ahead.take())
    assert ahead.next() == 21 + count
    ahead.close()


def test_what_waits_is_returned_and_reading_goes_on_after_it():
    numbers = Numbers()
    ahead = ReadAhead(numbers)
    ahead.allow(4)
    wait_for(lambda: numbers.count == 4)
    assert ahead.take() == [1, 2, 3, 4]
    assert ahead.next() == 5
    ahead.close()


def test_nothing_is_read_past_an_end_before_it_was_handed_over():
    numbers = Numbers(end=2)
    ahead = ReadAhead(numbers)
    ahead.allow(5)
    assert [ahead.next(), ahead.next()] == [1, 2]
    wait_for(lambda: ahead._found)
    numbers.end = 3
    time.sleep(0.02)
    assert numbers.count == 2
    assert ahead.next() is None
    time.sleep(0.02)
    assert numbers.count == 2
    assert ahead.next() == 3
    ahead.close()


def test_an_exception_arrives_with_its_own_traceback_after_what_came_before(no_thread_is_left):
    def parts():
        yield 1
        raise KeyError("broken")

    ahead = ReadAhead(parts().__next__)
    ahead.allow(5)
    assert ahead.next() == 1
    with pytest.raises(KeyError, match="broken") as caught:
        ahead.next()
    assert "parts" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    ahead.close()


@pytest.mark.any_backend
@pytest.mark.parametrize(("trained", "is_slow"), [(0.31, False), (0.29, True)])
@pytest.mark.parametrize("pool", [1, 10])
def test_a_source_is_slow_if_a_quarter_of_the_time_goes_into_reading(
    monkeypatch, pool, trained, is_slow
):
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(read_ahead, "time", clock)
    pace = read_ahead.Pace()
    for pools in range(300 // pool):
        # What comes first takes long: a step is compiled.
        clock.now += pool * trained + (100.0 if pools == 1 else 0.0)
        if pools == 50 // pool:
            # So does what comes between two epochs.
            pace.pause()
            clock.now += 100.0
        assert pools * pool > 2 * read_ahead.MEASURED or not pace.is_slow
        with pace.reading(pool):
            clock.now += pool * 0.1
    assert pace.is_slow == is_slow
