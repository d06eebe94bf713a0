"""The parts in which an epoch is drawn by remembered scores, and those of arrays.

A part holds the examples of the next batches. `remembered` decides when the next one is due, and
whether it is drawn by importance; this file decides which examples of arrays it holds, and `pool`
which of a stream.
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
from keras_swift.src.importance.remembered_scores import RememberedScores

# The number of parts an epoch is drawn in. Halves and eighths differ by 1 % of the training loss.
PARTS = 4
# Draws by importance begin when this share of the examples has been seen.
KNOWN = 0.9
# Batches handed over together if the backend gathers the rows.
TOGETHER = 64


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What the record of a batch's step is read by.

    Attributes:
        numbers: int array, shape `(b,)`, the rows of the memory that its examples have.
        weights: float64 array, shape `(b,)`, their importance weights.
        candidate: float64 array, shape `(b,)`, the weights they have, or would have if drawn by
            importance; `None` while scores are not known.
        length: int, how many numbers a row of its first input has.
    """

    numbers: IntArray
    weights: FloatArray
    candidate: FloatArray | None
    length: int = 1

    def part(self, rows: slice) -> Drawn:
        """These rows of it."""
        candidate = None if self.candidate is None else self.candidate[rows]
        return Drawn(self.numbers[rows], self.weights[rows], candidate, self.length)


@dataclasses.dataclass(frozen=True)
class Taken:
    """Batches of a part, one after another: what is done for all of them at once costs less.

    Attributes:
        examples: `Examples` of all of them.
        drawn: `Drawn`, likewise.
        sizes: list of int, how many examples each batch has.
        among: int array, shape `(m,)`, the rows of the memory from which they were drawn; `None`
            for all of them.
        positions: int array, shape `(k,)`, their examples in `among`.
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
        """Whether examples have been known again so far."""

    def draw_by_index(self) -> None:
        """Switches to batches whose `x` and `y` may be `None`, because their rows are gathered."""

    def look_ahead(self, steps_left: int) -> None:
        """Reads what the next part will need, while steps of this one may still be running."""

    def next_steps(self, steps_left: int) -> int:
        """How many batches the next part has, with so many left in the epoch."""

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
        """Begins a part drawn by importance; returns whether it is.

        Args:
            steps: int, how many batches.
            scores: of all examples.
            steps_left: int, how many batches of the epoch are left.
        """

    def take(self, count: int, steps_left: int) -> Taken:
        """The part's next batches, up to `count` and at least one."""

    def take_back(self, count: int) -> None:
        """Puts the last so many batches back."""

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins; `restarts` if it must be a whole permutation."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def release(self) -> None:
        """Called when others draw from here on."""

    def state(self) -> SavedState:
        """State for `restore`, between two epochs."""

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""


@dataclasses.dataclass(frozen=True)
class ArrayPartsState(SavedState):
    """The examples of a part, as for `ArrayParts.begin`, and how many batches are used."""

    indices: IntArray
    weights: FloatArray
    candidate: FloatArray | None
    used: int


class ArrayParts:
    """Parts of arrays: pieces of a permutation, or systematic draws from all examples.

    Args:
        reader: `ArrayReader`.
        generator: `np.random.Generator`, for the draws.

    Attributes:
        steps: int, how many batches a part has at most.
    """

    # Every part is measured by itself.
    measured_steps = 1
    are_known_again = True

    def __init__(self, reader: ArrayReader, generator: np.random.Generator) -> None:
        self.reader = reader
        self.generator = generator
        self.steps = max(1, math.ceil(reader.size / reader.batch_size / PARTS))
        self._by_index = False
        self.drop()

    def drop(self) -> None:
        """Forgets the part."""
        self.begin(np.zeros(0, np.int64), np.zeros(0))

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

    @property
    def left(self) -> int:
        return max(0, math.ceil(len(self._indices) / self.reader.batch_size) - self._used)

    @property
    def together(self) -> int:
        return min(self.steps, TOGETHER if self._by_index else self.reader.most_together)

    @property
    def count(self) -> int:
        return self.reader.size

    def draw_by_index(self) -> None:
        self._by_index = True

    def look_ahead(self, steps_left: int) -> None:
        """Does nothing: arrays are there."""

    def next_steps(self, steps_left: int) -> int:
        return min(self.steps, max(1, steps_left))

    def may_draw(self, known: int, is_measured: bool) -> bool:
        if known < KNOWN * self.reader.size:
            return False
        # The first epoch is uniform to its end, as in `fit`.
        return is_measured or not self.reader.is_within_pass

    def take_uniform(self, steps: int, scores: RememberedScores | None, rests: bool) -> None:
        indices = self.reader.uniform_indices(steps * self.reader.batch_size)
        candidate = None if scores is None else scores.weights(indices)
        self.begin(indices, np.ones(len(indices)), candidate)

    def draw(self, steps: int, scores: RememberedScores, steps_left: int) -> bool:
        expected = scores.probability() * (steps * self.reader.batch_size)
        indices = systematic_draw(expected, self.generator)
        weights = scores.weights(indices)
        self.begin(indices, weights, weights)
        return True

    def take(self, count: int, steps_left: int) -> Taken:
        # Slices of a tensor on a device cost as much as its rows.
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
            self.drop()

    def end_epoch(self) -> None:
        """Does nothing: what is left comes in the next epoch."""

    def release(self) -> None:
        """Does nothing: the memory stays."""

    def state(self) -> ArrayPartsState:
        return ArrayPartsState(self._indices, self._weights, self._candidate, self._used)

    def restore(self, state: ArrayPartsState) -> None:
        self.begin(state.indices, state.weights, state.candidate)
        self._used = state.used
