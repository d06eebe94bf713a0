"""Reads what training steps recorded of their examples back into the memory.

This file decides which recorded row belongs to which example, and after how many silent steps a
model counts as one that records nothing.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance.batch import Batch, mask_correction
from keras_swift.src.importance.parts import Drawn, Taken
from keras_swift.src.importance.resampling import check_scores, weighted_squares
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.memory import ExampleMemory, MemoryState

# Rows that may stay on the device before they are read. Taps hold more than twice as many, because
# batches drawn ahead add theirs.
UNREAD = 2**14


@dataclasses.dataclass(frozen=True)
class Moments(SavedState):
    """Sums over the examples of some steps, from which `gates.RealisedGain` computes the gain.

    Attributes:
        weights: float, the sum of the weights `w` they had.
        uniform: float, `sum(w s**2)` for their scores `s`.
        drawn: float, `sum(w c s**2)` for the weights `c` they had, or would have had, if drawn by
            importance.
        inverse: float, `sum(w / c)`.
    """

    weights: float = 0.0
    uniform: float = 0.0
    drawn: float = 0.0
    inverse: float = 0.0

    def plus(self, weights: FloatArray, candidate: FloatArray, scores: FloatArray) -> Moments:
        """The sums with further examples added; scores that are not finite count as 0."""
        squares = np.square(scores.astype(np.float64))
        squares[~np.isfinite(squares)] = 0.0
        return Moments(
            weights=self.weights + float(np.sum(weights)),
            uniform=self.uniform + float(np.sum(weights * squares)),
            drawn=self.drawn + float(np.sum(weights * weighted_squares(candidate, squares))),
            inverse=self.inverse + float(np.sum(weights / candidate)),
        )


@dataclasses.dataclass(frozen=True)
class StepRecordsState(SavedState):
    """The state of `StepRecords`.

    Attributes:
        memory: `MemoryState`.
        valid: float32 array, shape `(n, outputs)`, unmasked shares times the length of a row;
            `None` without masks.
        moments: `Moments`.
    """

    memory: MemoryState
    valid: FloatArray | None
    moments: Moments


class StepRecords:
    """The batches whose records have not been read back, and what was read of the others.

    Args:
        memory: `ExampleMemory` that gets the scores.
        outputs: int, how many outputs have their unmasked shares recorded too: all of them if any
            has a mask, else 0.

    Attributes:
        memory: as above.
        moments: `Moments` since they were last taken.
        records_nothing: bool, whether steps run without leaving a record.
        unread_rows: int, how many examples have been drawn and not been read back.
    """

    def __init__(self, memory: ExampleMemory, outputs: int) -> None:
        self.memory = memory
        self._outputs = outputs
        # The unmasked shares times the length of a row, if outputs carry masks.
        self._valid_rows: GrowingRows | None = None
        if outputs:
            self._valid_rows = GrowingRows(len(memory), (outputs,), np.nan, np.float32)
        self._journal: Journal | None = None
        self._unread: collections.deque[Drawn] = collections.deque()
        self.unread_rows = 0
        # How many batches may be drawn ahead of their steps, and how many were drawn since a record
        # was last found.
        self._in_flight = 1
        self._unheard = 0
        self.records_nothing = False
        self.moments = Moments()

    def listen(self, journal: Journal, in_flight: int) -> None:
        """Called before training.

        Args:
            journal: `Journal` with the tap that will record the steps.
            in_flight: int, the most batches drawn for later steps, besides those drawn together.
        """
        self._journal = journal
        self._in_flight = in_flight
        self.forget_unread()

    @property
    def are_due(self) -> bool:
        """bool, whether so many rows are unread that they must be read now."""
        return self.unread_rows >= UNREAD

    def expect(self, drawn: Drawn) -> None:
        """Called for each batch that is drawn, in the order of the steps."""
        self._unread.append(drawn)
        self.unread_rows += len(drawn.numbers)
        self._unheard += 1

    def take_back(self, batches: list[Batch]) -> None:
        """Undoes `expect` for these batches, which are the last ones drawn."""
        for _ in batches[: len(self._unread)]:
            self.unread_rows -= len(self._unread.pop().numbers)
            self._unheard -= 1

    def read_back(self, count: int, together: int) -> None:
        """Reads what the steps have recorded since the last call.

        Args:
            count: int, how many examples are known.
            together: int, how many batches are drawn together at most.
        """
        if self._journal is None:
            return
        rows = self._journal.rows()
        batches, read = [], 0
        while self._unread and read + len(self._unread[0].numbers) <= len(rows):
            batches.append(self._unread.popleft())
            read += len(batches[-1].numbers)
        self.unread_rows -= read
        if not batches:
            quiet = self._unheard > together + self._in_flight
            self.records_nothing = self.records_nothing or quiet
            return
        self._unheard = len(self._unread)
        self.make_room(count)
        self._store(batches, rows[:read])

    def _store(self, batches: list[Drawn], rows: FloatArray) -> None:
        indices = np.concatenate([batch.numbers for batch in batches])
        scores = rows[:, : rows.shape[1] - self._outputs]
        check_scores(scores[np.isfinite(scores[:, 0]), 0], empty=True)
        self.memory.record(indices, scores)
        if self._valid_rows is not None:
            valid = rows[:, rows.shape[1] - self._outputs :]
            self._valid_rows.values[indices] = valid * _lengths(batches)
        candidates = [batch.candidate for batch in batches if batch.candidate is not None]
        if len(candidates) == len(batches):
            weights = np.concatenate([batch.weights for batch in batches])
            candidate = np.concatenate(candidates)
            self.moments = self.moments.plus(weights, candidate, scores[:, 0])

    def take_moments(self) -> Moments:
        """Returns `moments` and begins new ones."""
        moments, self.moments = self.moments, Moments()
        return moments

    def make_room(self, count: int) -> None:
        """Makes room for at least `count` examples."""
        count = max(count, len(self.memory))
        self.memory.resize(count)
        if self._valid_rows is not None:
            self._valid_rows.resize(count)

    def forget_unread(self) -> None:
        """Drops the batches that have not been read back: their steps will record nothing more."""
        self._unread.clear()
        self.unread_rows = 0

    def corrections(self, taken: Taken) -> FloatArray | None:
        """Factors that undo the division by the batch's unmasked share, shape `(outputs,)`.

        `None` without masks, or while no share is known.
        """
        if self._valid_rows is None:
            return None
        valid = self._valid_rows.values
        valid = (valid if taken.among is None else valid[taken.among]).astype(np.float64)
        if not np.isfinite(valid).any():
            return None
        return mask_correction(np.nan_to_num(valid, nan=float(np.nanmean(valid))), taken.positions)

    def state(self) -> StepRecordsState:
        """State for `restore`, between two epochs."""
        valid = None if self._valid_rows is None else self._valid_rows.values.copy()
        return StepRecordsState(self.memory.state(), valid, self.moments)

    def restore(self, state: StepRecordsState) -> None:
        """Restores what `state` returned."""
        self.memory.restore(state.memory)
        if self._valid_rows is not None and state.valid is not None:
            self._valid_rows.resize(len(state.valid))
            self._valid_rows.values[:] = state.valid
        self.moments = state.moments
        self._unheard = 0
        self.forget_unread()


def _lengths(batches: list[Drawn]) -> FloatArray:
    """The length of each row of these batches, a float32 array of shape `(k, 1)`.

    The unmasked share times this length is the same however far an example was padded.
    """
    found = [batch.length for batch in batches]
    return np.repeat(found, [len(batch.numbers) for batch in batches])[:, None].astype(np.float32)
