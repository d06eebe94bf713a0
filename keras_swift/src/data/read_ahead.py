"""Reads a source in a thread, so that it is read while the model trains.

This file decides which thread reads, and when: one at a time, never more than was allowed, and in
the background only from a source that is slow.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# How long `close` waits for a read that is under way, in seconds. The thread is a daemon, so a
# source that never answers keeps no program from ending.
PATIENCE = 30.0
# A source is slow if reading takes more than this share of the time. Python runs one thread at a
# time, so reading a quick source in a thread costs more than it saves.
SLOW = 1 / 4
# Over how many batches that is measured: JAX returns from its first 32 steps without waiting for
# them, so fewer batches would make training look quicker than it is.
MEASURED = 64


class ReadAhead(Generic[T]):
    """Calls `read` in a thread, and hands over its results in order.

    The thread starts when reading ahead is first allowed; until then `next` calls `read` itself.
    After a `None` (the end of a pass) or an exception nothing is read until `next` has handed it
    over and is called again.

    Args:
        read: function without arguments; never called from two threads at once.

    Example:
        >>> ahead = ReadAhead(iter([1, 2, 3]).__next__)
        >>> ahead.allow(2)
        >>> ahead.next(), ahead.next()
        (1, 2)
        >>> ahead.close()
    """

    def __init__(self, read: Callable[[], T | None]) -> None:
        self._read = read
        self._found: collections.deque[tuple[T | None, BaseException | None]] = collections.deque()
        self._allowed = 0
        self._is_awaited = self._is_reading = self._is_closed = self._is_halted = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def allow(self, count: int) -> None:
        """Lets up to `count` results wait to be handed over; 0 stops reading ahead."""
        if count == self._allowed:
            return
        with self._changed:
            self._allowed = count
            if count and self._thread is None and not self._is_closed:
                self._thread = threading.Thread(
                    target=self._run, name="keras_swift reads ahead", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def next(self) -> T | None:
        """The next result of `read`; raises what `read` raised."""
        with self._changed:
            self._is_halted = False
            if self._thread is not None:
                self._is_awaited = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._found)
                self._is_awaited = False
            if self._found:
                result, error = self._found.popleft()
                self._is_halted = result is None
                self._changed.notify_all()
                if error is not None:
                    raise error
                return result
        return self._read()

    def take(self) -> list[T]:
        """Stops reading ahead and returns what waits; an error or an end that waits is dropped."""
        with self._changed:
            self._allowed = 0
            self._changed.wait_for(lambda: not self._is_reading)
            found = [result for result, _ in self._found if result is not None]
            self._found.clear()
            self._is_halted = False
        return found

    def close(self) -> None:
        """Ends the thread and drops what waits; waits for a read that is under way."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        self._thread = None
        self._found.clear()
        self._is_closed = False
        self._allowed = 0

    @property
    def _may_read(self) -> bool:
        if self._is_halted or (self._found and self._found[-1][0] is None):
            return False
        return len(self._found) < max(self._allowed, self._is_awaited)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_read or self._is_closed)
                if self._is_closed:
                    return
                self._is_reading = True
            result, error = None, None
            try:
                result = self._read()
            except BaseException as raised:  # Handed over, whatever it is.
                error = raised
            with self._changed:
                self._found.append((result, error))
                self._is_reading = False
                self._changed.notify_all()


class Pace:
    """Measures whether a source is slow: whether reading takes more than a quarter of the time.

    Attributes:
        is_slow: bool, whether the source was slow in any measurement so far.

    Example:
        >>> pace = Pace()
        >>> for _ in range(MEASURED + 1):
        ...     with pace.reading(1):
        ...         time.sleep(1e-4)
        >>> pace.is_slow
        True
    """

    def __init__(self) -> None:
        self.is_slow = False
        # Of the last reading: when it ended, how many batches it read, and how long it took.
        self._last: tuple[float, int, float] | None = None
        self._begin()

    def _begin(self) -> None:
        self._batches, self._spent, self._passed = 0, 0.0, 0.0

    def pause(self) -> None:
        """Called at the end of an epoch: the time until the next batch does not count."""
        self._last = None

    @contextlib.contextmanager
    def reading(self, batches: int) -> Iterator[None]:
        """A context in which `batches` batches are read."""
        began = time.perf_counter()
        if self._last is not None:
            # A whole round: reading batches, and training on them until now.
            ended, count, seconds = self._last
            self._batches += count
            self._spent += seconds
            self._passed += seconds + began - ended
            self._last = None
            if self._batches >= MEASURED:
                self.is_slow = self.is_slow or self._spent > SLOW * self._passed
                self._begin()
        yield
        ended = time.perf_counter()
        self._last = (ended, batches, ended - began)
