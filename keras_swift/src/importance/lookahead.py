"""The queue of batches between a sampler and training.

This file decides how many batches are drawn at a time.
"""

from __future__ import annotations

import collections

import keras

from keras_swift.src import backends
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.presampling import ImportanceSampler
from keras_swift.src.importance.remembered import RememberedSampler

Sampler = ImportanceSampler | RememberedSampler


class Lookahead:
    """Draws the batches of an epoch and hands them to the training loop.

    With `steps_per_execution` above 1 the batches of an execution are all
    drawn before it: during it the weights change (and cannot be read on JAX),
    so the last of k batches is scored k - 1 steps early. Otherwise batches
    are drawn together if nothing can change between them.

    Args:
        sampler: `Sampler` that draws the batches.
        model: `keras.Model`.

    Attributes:
        sampler: as above; may be replaced between two batches.
        steps: int, batches handed over in this epoch.
    """

    def __init__(self, sampler: Sampler, model: keras.Model) -> None:
        self.sampler, self._model = sampler, model
        self._drawn: collections.deque[Batch] = collections.deque()
        # Batches handed over early, for steps that have not begun.
        self._early: collections.deque[Batch] = collections.deque()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Resets the counts and drops what is left of the epoch before."""
        self._drawn.clear()
        self._early.clear()
        self.steps = self._by_importance = 0
        self._ratios = self._gains = 0.0

    def end_epoch(self) -> None:
        """Returns to the sampler the batches that an epoch ended early did not train on."""
        if self._model.steps_per_execution > 1:
            return
        for batch in self._early:
            self._count(batch, -1)
        self.sampler.take_back([*self._early, *self._drawn])
        self._drawn.clear()
        self._early.clear()

    def begin_step(self) -> None:
        """Called before a step; its batch may have been handed over already."""
        if self._early:
            self._early.popleft()

    def next(self, steps_left: int) -> Batch:
        """Hands over the next batch.

        Args:
            steps_left: int, how many steps of the epoch are left, this one included.
        """
        if not self._drawn:
            for drawn in range(self._number(steps_left)):
                self._drawn.append(self.sampler.next_batch(steps_left - drawn))
        batch = self._drawn.popleft()
        self._count(batch, 1)
        return batch

    def follows(self, batch: Batch) -> bool:
        """Whether the next batch is drawn already and as long as this one."""
        return bool(self._drawn) and len(self._drawn[0].importance) == len(batch.importance)

    @property
    def are_waiting(self) -> bool:
        """bool, whether batches are drawn that have not been handed over."""
        return bool(self._drawn)

    def are_early(self, batches: list[Batch]) -> None:
        """Marks batches as handed over for later steps, each announced by `begin_step`."""
        self._early.extend(batches)

    def summary(self) -> dict[str, float]:
        """For the history: `importance`, `presample` and `gain`, means over the steps."""
        steps = max(self.steps, 1)
        return {
            "importance": float(self._by_importance / steps),
            "presample": float(self._ratios / steps) if self.steps else 1.0,
            "gain": float(self._gains / steps) if self.steps else 1.0,
        }

    def _count(self, batch: Batch, sign: int) -> None:
        self.steps += sign
        self._by_importance += sign * batch.by_importance
        self._ratios += sign * batch.presample_size / len(batch.importance)
        self._gains += sign * batch.gain

    def _number(self, steps_left: int) -> int:
        """How many batches to draw now."""
        number: int = self._model.steps_per_execution
        if number > 1 and not self.steps:
            # An item requested one step early belongs to the next execution, when the
            # first step has taken the values that it could be scored by.
            number += backends.active().prefetch_depth()
        elif number == 1:
            number = self.sampler.batches_ready(steps_left)
        return max(1, min(number, steps_left))
