"""Counts the steps of epochs and passes, and queues the batches that are drawn for them.

This file decides how many batches are drawn at a time, and when an epoch ends.
"""

from __future__ import annotations

import collections

import keras

from keras_swift.src import backends
from keras_swift.src.data.reader import ArrayReader, Reader
from keras_swift.src.importance.batch import Batch, Sampler


class EpochSteps:
    """Where training is in its epoch and in the pass through the data.

    With `steps_per_execution` above 1 the batches of an execution are all
    drawn before it: during it the weights change (and cannot be read on JAX),
    so the last of k batches is scored k - 1 steps early. Otherwise batches
    are drawn together if nothing can change between them.

    Args:
        model: `keras.Model`.
        reader: `Reader`.
        steps_per_epoch: int, or `None` if an epoch is a pass.
        ends_with_a_pass: bool, whether an epoch ends early where a pass does, as in `model.fit`
            with `steps_per_epoch`.

    Attributes:
        is_pass: bool, whether an epoch is one pass through the data.
        ends_with_a_pass: bool, as above.
        in_epoch: int, the steps of an epoch, unless its pass ends sooner.
        taken: int, batches handed over in this epoch.
        in_pass: int, the steps of the current pass that earlier epochs took.
        within_epoch: bool, whether an epoch has begun and not ended.
    """

    def __init__(
        self,
        model: keras.Model,
        reader: Reader,
        steps_per_epoch: int | None,
        ends_with_a_pass: bool,
    ) -> None:
        self._model, self._reader = model, reader
        self.is_pass = steps_per_epoch is None
        self.ends_with_a_pass = ends_with_a_pass
        self.in_epoch: int = steps_per_epoch or reader.num_batches
        self.in_pass = 0
        self.within_epoch = False
        self._drawn: collections.deque[Batch] = collections.deque()
        # Batches handed over early, for steps that have not begun.
        self._early: collections.deque[Batch] = collections.deque()
        self._begin()

    def _begin(self) -> None:
        self._drawn.clear()
        self._early.clear()
        self.taken = self._by_importance = 0
        self._ratios = self._gains = 0.0

    @property
    def is_open_ended(self) -> bool:
        """bool, whether an epoch ends with a pass whose length is not known beforehand."""
        return self.ends_with_a_pass and self._reader.is_open_ended

    @property
    def pass_length(self) -> float:
        """The number of batches after which `fit` begins another pass; infinity if unknown."""
        if self._reader.is_open_ended and not self.is_open_ended:
            # The stream repeats.
            return self.in_epoch
        return self._reader.pass_length

    @property
    def left(self) -> int:
        """int, the steps to come in this epoch."""
        steps = self.in_epoch
        if self.ends_with_a_pass:
            steps = int(min(steps, self.pass_length - self.in_pass))
        return steps - self.taken

    def goes_on(self) -> bool:
        """Whether the epoch has another step; called before each if it `is_open_ended`.

        An epoch has one step at least: where a pass has just ended, the next one begins.
        """
        goes_on = self._reader.goes_on(self.in_pass + self.taken, bool(self._drawn))
        if not goes_on and not self.taken:
            self.in_pass = 0
            self._reader.restart()
        return goes_on or not self.taken

    def begin_epoch(self) -> None:
        """Resets the counts and drops what is left of the epoch before."""
        self.within_epoch = True
        self._begin()

    def end_epoch(self, sampler: Sampler) -> None:
        """Ends the epoch, and its pass if that is over.

        Args:
            sampler: `Sampler`, which takes back the batches that were drawn but not trained on,
                because the epoch ended early.
        """
        self.within_epoch = False
        if self._model.steps_per_execution == 1:
            for batch in self._early:
                self._count(batch, -1)
            sampler.take_back([*self._early, *self._drawn])
            self._drawn.clear()
            self._early.clear()
        self.in_pass += self.taken
        if self.in_pass >= self.pass_length:
            self.in_pass = 0
            # Batches drawn by importance leave part of an array's permutation unread.
            of_arrays = self.ends_with_a_pass and isinstance(self._reader, ArrayReader)
            if self.is_open_ended or of_arrays:
                self._reader.restart()

    def begin_step(self) -> None:
        """Called before a step; its batch may have been handed over already."""
        if self._early:
            self._early.popleft()

    def next_batch(self, sampler: Sampler) -> Batch:
        """Hands over the next batch, and has `sampler` draw some if there is none."""
        if not self._drawn:
            left = self.left
            self._drawn.extend(sampler.next_batches(self._number(sampler, left), left))
        batch = self._drawn.popleft()
        self._count(batch, 1)
        return batch

    def follows(self, batch: Batch) -> bool:
        """Whether the next batch is drawn already and as long as this one."""
        return bool(self._drawn) and len(self._drawn[0].importance) == len(batch.importance)

    def are_early(self, batches: list[Batch]) -> None:
        """Marks batches as handed over for later steps, each announced by `begin_step`."""
        if self.within_epoch:
            self._early.extend(batches)

    def summary(self) -> dict[str, float]:
        """For the history: `importance`, `presample` and `gain`, means over the steps."""
        steps = max(self.taken, 1)
        return {
            "importance": float(self._by_importance / steps),
            "presample": float(self._ratios / steps) if self.taken else 1.0,
            "gain": float(self._gains / steps) if self.taken else 1.0,
        }

    def _count(self, batch: Batch, sign: int) -> None:
        self.taken += sign
        self._by_importance += sign * batch.by_importance
        self._ratios += sign * batch.presample_size / len(batch.importance)
        self._gains += sign * batch.gain

    def _number(self, sampler: Sampler, left: int) -> int:
        """How many batches to draw now."""
        number: int = self._model.steps_per_execution
        if number > 1 and not self.taken:
            # Keras requests these items early, for the next execution. They are drawn now, because
            # the first step consumes the values to score them with (JAX donates the state).
            number += backends.active().prefetch_depth()
        elif number == 1:
            number = sampler.batches_ready(left)
        return max(1, min(number, left))
