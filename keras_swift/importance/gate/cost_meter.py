"""What scoring, loading and looking at a run cost in training steps, by the clock."""

import collections
import contextlib
import math
import statistics
import time

# Steps timed after each look and in the middle between two; an epoch has to be longer. Where steps
# run asynchronously, timing them makes the host wait.
STEPS_TIMED = 4


class CostMeter:
    """What scoring an example costs over training one, by the clock.

    Medians, because steps that compile something or wait for another process
    say nothing of the cost.

    Args:
        batch_size: int, `b`.

    Attributes:
        was_interrupted: bool, whether the last few steps could not be timed.
    """

    def __init__(self, batch_size):
        self._batch_size = batch_size
        self.was_interrupted = False
        self._steps = collections.deque(maxlen=8)
        self._parts = {name: collections.deque(maxlen=32) for name in ("score", "load")}
        self._began = None
        self._aside = self._watched = 0.0
        self._looks = None

    @contextlib.contextmanager
    def timing(self, part, count):
        """A context that costs what `part` (`"score"` or `"load"`) does for `count` examples."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._parts[part].append(seconds / count)
        if part == "score":
            self._aside += seconds

    def begin(self, step):
        """Between two steps, when the one before is known to be over: time the next few."""
        self._began, self._aside = (step, time.perf_counter()), 0.0
        self.was_interrupted = False

    @property
    def over_at(self):
        """float, the step before which `end` is to be called; infinity where nothing is timed."""
        return math.inf if self._began is None else self._began[0] + STEPS_TIMED

    def is_over(self, step):
        """Whether the few steps have been trained, so that `end` may be called."""
        return step >= self.over_at

    def end(self, step):
        """Between two steps, when the one before is known to be over."""
        first, then = self._began
        seconds = time.perf_counter() - then - self._aside
        self._steps.append(seconds / (step - first))
        self._began = None

    @contextlib.contextmanager
    def watching(self):
        """A context of which the time counts as that of the present look."""
        start = time.perf_counter()
        yield
        self._watched += time.perf_counter() - start

    def look_ends(self):
        """The present look is over."""
        # The first compiles something.
        if self._looks is None:
            self._looks = collections.deque(maxlen=4)
        else:
            self._looks.append(self._watched)
        self._watched = 0.0

    @property
    def look(self):
        """float, what a look costs, in steps; 0.0 before it is known."""
        if not self._looks or not self._steps:
            return 0.0
        # The least, because others may have waited for another process.
        return min(self._looks) / statistics.median(self._steps)

    def pause(self):
        """Something else than training comes next; it does not count."""
        self.was_interrupted = self.was_interrupted or self._began is not None
        self._began = None

    @property
    def ratio(self):
        """float, `f`, the loading of the presample included; `None` before it is known."""
        if len(self._steps) < 3 or not self._parts["score"]:
            return None
        step = statistics.median(self._steps) / self._batch_size
        return sum(statistics.median(part) for part in self._parts.values() if part) / step
