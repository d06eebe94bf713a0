"""Batches on their way to training: drawn, handed over, counted.

This file decides how many batches are drawn at a time.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

from keras_swift import backends
from keras_swift.importance.batch import Batch
from keras_swift.importance.sampler import BatchDrawer


class BatchQueue:
    """The batches of an epoch, from a `BatchDrawer` to whoever trains on them.

    With `steps_per_execution` above 1 the batches of an execution are all
    drawn before it: during it the weights are in flux (and on JAX out of
    reach), so the last of k batches is scored k - 1 steps early. Otherwise
    batches are drawn together where nothing can come between.

    Args:
        drawer: `BatchDrawer`.
        model: `keras.Model`.

    Attributes:
        steps: int, batches handed over in this epoch.
    """

    def __init__(self, drawer: BatchDrawer, model: Any) -> None:
        self._drawer, self._model = drawer, model
        self._drawn: collections.deque[Batch] = collections.deque()
        # Handed over together, for steps that have not begun.
        self._early: collections.deque[Batch] = collections.deque()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begins to count; what is left of the epoch before is dropped."""
        self._drawn.clear()
        self._early.clear()
        self.steps = self._by_importance = 0
        self._ratios = 0.0

    def end_epoch(self) -> None:
        """Gives back what an epoch that was ended early has not trained on."""
        if self._model.steps_per_execution > 1:
            return
        # Only uniform ones are drawn early.
        self.steps -= len(self._early)
        self._ratios -= len(self._early)
        self._drawer.take_back([*self._early, *self._drawn])
        self._drawn.clear()
        self._early.clear()

    def begin_step(self) -> None:
        """Called before a step, of which the batch may have been handed over before."""
        if self._early:
            self._early.popleft()

    @property
    def is_empty(self) -> bool:
        """bool, whether the next batch is still to be drawn."""
        return not self._drawn

    @property
    def is_early(self) -> bool:
        """bool, whether the batch of the next step was drawn before an earlier step."""
        return bool(self._early or (self._drawn and self._model.steps_per_execution == 1))

    def next(self, steps_left: int, together: bool) -> Batch:
        """Hands over the next batch.

        Args:
            steps_left: int, of the epoch, this one included.
            together: bool, whether batches may be drawn before their step.
        """
        if not self._drawn:
            for _ in range(self._count(steps_left, together)):
                self._drawn.append(self._drawer.draw())
        batch = self._drawn.popleft()
        self.steps += 1
        self._by_importance += batch.by_importance
        self._ratios += batch.presample_size / len(batch.importance)
        return batch

    def follows(self, batch: Batch) -> bool:
        """Whether the next batch is there, of the length of this one."""
        return bool(self._drawn) and len(self._drawn[0].importance) == len(batch.importance)

    def are_early(self, batches: list[Batch]) -> None:
        """Says that these were handed over for later steps, of which `begin_step` will tell."""
        self._early.extend(batches)

    def shares(self) -> dict[str, float]:
        """For the history: `importance` and `presample`, means over the steps."""
        steps = max(self.steps, 1)
        return {
            "importance": float(self._by_importance / steps),
            "presample": float(self._ratios / steps),
        }

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context after which the same batches wait and the counts are as before."""
        before = self._drawn.copy(), self.steps, self._by_importance, self._ratios
        try:
            yield
        finally:
            self._drawn, self.steps, self._by_importance, self._ratios = before

    def _count(self, steps_left: int, together: bool) -> int:
        """How many batches to draw now."""
        count = self._model.steps_per_execution
        if count > 1 and not self.steps:
            # Where items are asked for one step early, so is that of the next execution, when
            # the first step has taken the values that it could be scored by.
            count += backends.active().asks_one_ahead()
        elif count == 1 and together:
            count = self._drawer.count_ahead()
        return max(1, min(count, steps_left))
