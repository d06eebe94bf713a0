"""Parts of an epoch that is drawn by remembered scores: the interface, and parts of arrays.

A part holds the examples of the next batches. `remembered` decides when the next part is due, and
whether it is drawn by importance. Which examples it holds is decided here for arrays, and in `pool`
for streams.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.reader import ArrayReader, Examples
from keras_swift.src.importance.resampling import RememberedScores

# The number of parts of an epoch: before each the gain is measured, and whether to draw decided.
PARTS = 4
# Draws by importance begin when this share of the examples has been seen.
KNOWN = 0.9
# Batches handed over together if the backend gathers the rows.
TOGETHER = 64


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Which examples a batch has, and their weights: its step records one row for each.

    Attributes:
        numbers: int array, shape `(b,)`, the examples' rows in the memory.
        weights: float64 array, shape `(b,)`, their importance weights.
        candidate: float64 array, shape `(b,)`, the weights they have, or would have if drawn by
            importance; `None` while scores are not known.
        length: int, how many numbers a row of its first input has. Defaults to 1.
    """

    numbers: IntArray
    weights: FloatArray
    candidate: FloatArray | None
    length: int = 1

    def part(self, rows: slice) -> Drawn:
        """The same of these rows alone."""
        candidate = None if self.candidate is None else self.candidate[rows]
        return Drawn(self.numbers[rows], self.weights[rows], candidate, self.length)


@dataclasses.dataclass(frozen=True)
class Taken:
    """Consecutive batches of a part, taken together: most of the work costs as much as for one.

    Attributes:
        examples: `Examples` of all batches.
        drawn: `Drawn` of all batches.
        sizes: list of int, how many examples each batch has.
        among: int array, shape `(m,)`, the rows of the memory that could be drawn; `None` if all
            could.
        positions: int array, shape `(k,)`, the drawn examples, into `among` or, if that is `None`,
            into the memory.
    """

    examples: Examples
    drawn: Drawn
    sizes: list[int]
    among: IntArray | None
    positions: IntArray


class Parts(Protocol):
    """The examples of the next batches, one part of an epoch after another.

    Attributes:
        measured_steps: int, after how many steps the gain is measured.
    """

    measured_steps: int

    @property
    def left(self) -> int:
        """How many batches of the part have not been taken."""

    @property
    def together(self) -> int:
        """How many batches may be taken ahead of training."""

    @property
    def count(self) -> int:
        """How many examples are known."""

    @property
    def are_known_again(self) -> bool:
        """Whether examples have been recognised so far when they came again."""

    def draw_by_index(self) -> None:
        """Switches to index-only batches, whose `x` and `y` may be `None`."""

    def look_ahead(self, steps_left: int) -> None:
        """Reads what the next part will need, while steps of this one may still be running."""

    def next_steps(self, steps_left: int) -> int:
        """How many batches the next part has, if the epoch has `steps_left` more."""

    def may_draw(self, known: int, is_measured: bool) -> bool:
        """Whether `known` scores are enough; `is_measured` if a gain has been measured."""

    def take_uniform(self, steps: int, scores: RememberedScores | None, rests: bool) -> None:
        """Begins a part of uniform batches.

        Args:
            steps: int, how many batches.
            scores: of all examples, which say what weights examples would have if drawn by
                importance; `None` while too few are known.
            rests: bool, whether no part will be drawn by importance soon.
        """

    def draw(self, steps: int, scores: RememberedScores, steps_left: int) -> bool:
        """Begins a part drawn by importance, or, if that is not possible, a uniform one.

        Args:
            steps: int, how many batches.
            scores: of all examples.
            steps_left: int, how many batches of the epoch are left.

        Returns:
            A bool, whether the part is drawn by importance.
        """

    def take(self, count: int, steps_left: int) -> Taken:
        """The part's next batches, up to `count` and at least one."""

    def take_back(self, count: int) -> None:
        """Puts the last `count` batches back."""

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins; `restarts` if it must be a whole permutation."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def release(self) -> None:
        """Called when another sampler draws from here on."""

    def state(self) -> SavedState:
        """State for `restore`, between two epochs."""

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""


@dataclasses.dataclass(frozen=True)
class ArrayPartsState(SavedState):
    """The state of `ArrayParts`.

    Attributes:
        indices, weights, candidate: the arguments of `ArrayParts.begin`.
        used: int, how many batches of the part were taken.
        planned: int64 array, shape `(k,)`, the rows that were drawn for later parts of the pass.
        planned_weights: float64 array, shape `(k,)`, their importance weights.
        in_pass: int, how many batches of the pass the parts had so far.
    """

    indices: IntArray
    weights: FloatArray
    candidate: FloatArray | None
    used: int
    planned: IntArray
    planned_weights: FloatArray
    in_pass: int


class ArrayParts:
    """Parts of arrays: pieces of a permutation, or of draws from all examples.

    The draws of a pass are made together at its beginning, and a part is a piece of them. So over
    the pass the count of an example is what was expected, rounded up or down, and with equal scores
    the pass is a permutation. Scores that come in during the pass count from the next one on: if
    the probability of an example changed once it was drawn, its weights would no longer be right
    on average.

    Args:
        reader: `ArrayReader`.
        generator: `np.random.Generator`, for the draws.

    Attributes:
        steps: int, how many batches a part has at most.
    """

    # The gain is measured after every part.
    measured_steps = 1
    are_known_again = True

    def __init__(self, reader: ArrayReader, generator: np.random.Generator) -> None:
        self.reader = reader
        self.generator = generator
        self.steps = max(1, math.ceil(reader.size / reader.batch_size / PARTS))
        self._of_pass = math.ceil(reader.size / reader.batch_size)
        self._in_pass = 0
        self._by_index = False
        self.drop()

    def drop(self) -> None:
        """Forgets the part, and what was drawn for later ones."""
        self._plan(np.zeros(0, np.int64), np.zeros(0))
        self.begin(np.zeros(0, np.int64), np.zeros(0))

    def _plan(self, indices: IntArray, weights: FloatArray) -> None:
        self._planned, self._planned_weights = indices, weights

    def begin(
        self, indices: IntArray, weights: FloatArray, candidate: FloatArray | None = None
    ) -> None:
        """Begins a part of these examples.

        Args:
            indices: int64 array, shape `(m,)`, into the data.
            weights: float64 array, shape `(m,)`, their importance weights.
            candidate: float64 array, shape `(m,)`, as in `Drawn`.
        """
        self._indices, self._weights, self._candidate = indices, weights, candidate
        # Batches, not rows: the last one may be smaller.
        self._used = 0
        self._in_pass = (self._in_pass + self._batches) % self._of_pass

    @property
    def _batches(self) -> int:
        """How many batches the part has."""
        return math.ceil(len(self._indices) / self.reader.batch_size)

    @property
    def left(self) -> int:
        return max(0, self._batches - self._used)

    @property
    def together(self) -> int:
        return min(self.steps, TOGETHER if self._by_index else self.reader.most_together)

    @property
    def count(self) -> int:
        return self.reader.size

    def draw_by_index(self) -> None:
        self._by_index = True

    def look_ahead(self, steps_left: int) -> None:
        """Does nothing: arrays need not be read ahead."""

    def next_steps(self, steps_left: int) -> int:
        return min(self.steps, max(1, steps_left))

    def may_draw(self, known: int, is_measured: bool) -> bool:
        if known < KNOWN * self.reader.size:
            return False
        # The first epoch is uniform to its end, as in `fit`.
        return is_measured or not self.reader.is_within_pass

    def take_uniform(self, steps: int, scores: RememberedScores | None, rests: bool) -> None:
        self.drop()
        indices = self.reader.uniform_indices(steps * self.reader.batch_size)
        candidate = None if scores is None else scores.weights(indices)
        self.begin(indices, np.ones(len(indices)), candidate)

    def draw(self, steps: int, scores: RememberedScores, steps_left: int) -> bool:
        if not len(self._planned):
            left = self._of_pass - self._in_pass
            expected = scores.probability() * (left * self.reader.batch_size)
            indices = systematic_draw(expected, self.generator)
            self._plan(indices, scores.weights(indices))
        rows = steps * self.reader.batch_size
        weights = self._planned_weights[:rows]
        self.begin(self._planned[:rows], weights, weights)
        self._plan(self._planned[rows:], self._planned_weights[rows:])
        return True

    def take(self, count: int, steps_left: int) -> Taken:
        # On a device, slicing a joint batch costs as much as gathering the rows of each.
        count = 1 if self.reader.source.is_on_device else min(count, self.left)
        size = self.reader.batch_size
        begin = self._used * size
        rows = slice(begin, begin + count * size)
        self._used += count
        indices = self._indices[rows]
        candidate = None if self._candidate is None else self._candidate[rows]
        examples = self.reader.examples(indices, by_index=self._by_index)
        sizes = [size] * (count - 1)
        sizes.append(len(indices) - sum(sizes))
        drawn = Drawn(indices, self._weights[rows], candidate)
        return Taken(examples, drawn, sizes, None, indices)

    def take_back(self, count: int) -> None:
        self._used -= count

    def begin_epoch(self, restarts: bool) -> None:
        if restarts:
            self._in_pass = 0
            self.drop()

    def end_epoch(self) -> None:
        """Does nothing: the rest of the part is trained on in the next epoch."""

    def release(self) -> None:
        """Does nothing: there is nothing to free."""

    def state(self) -> ArrayPartsState:
        return ArrayPartsState(
            self._indices,
            self._weights,
            self._candidate,
            self._used,
            self._planned,
            self._planned_weights,
            self._in_pass,
        )

    def restore(self, state: ArrayPartsState) -> None:
        self.begin(state.indices, state.weights, state.candidate)
        self._used = state.used
        self._plan(state.planned, state.planned_weights)
        self._in_pass = state.in_pass
