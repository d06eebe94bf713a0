"""The parts of a stream for draws by remembered scores: pools of its next batches.

A stream yields whole batches, so an example cannot be read alone. This file decides what is drawn
from the batches that are read anyway, each once an epoch, as in `model.fit`. A pool is the batches
just read and some before them. As many rows are drawn as were just read, with weights that are
exact for their probabilities in the pool. In a long epoch a row is in five pools; its counts in the
five add up to what was expected, up to rounding, so with equal scores it is drawn once. As in a
shuffled epoch, an unbiased gradient is that of the whole: a row that was just drawn is not due
again in the next pool. Its score is that of its first pool in all five: if it changed once the row
was drawn, the weights would no longer be right on average. The next batches are read while the
model trains on a pool.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.data.arrays import select
from keras_swift.src.data.draws import draw_by_credit, first_credit
from keras_swift.src.data.reader import Examples
from keras_swift.src.importance import resampling
from keras_swift.src.importance.parts import PARTS, Drawn, Taken
from keras_swift.src.importance.resampling import RememberedScores
from keras_swift.src.records.identity import IdentityState
from keras_swift.src.records.known import Known
from keras_swift.src.records.known_reader import KnownReader, NotPooled
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.pooled import Group, drawn_batches, row_length


@dataclasses.dataclass(frozen=True)
class PooledPartsState(SavedState):
    """The state of `PooledParts` between two epochs, when there is no pool.

    Attributes:
        identity: `IdentityState`.
        read: lists of int, which items of a `PyDataset` were read last, from `KnownReader.state`;
            `None` for other sources.
        pooled: float64 array, shape `(k, 2)`, `Known.pooled` of their rows.
    """

    identity: IdentityState
    read: list[list[int]] | None
    pooled: FloatArray


class PooledParts:
    """Parts of a stream: its next batches as they come, or batches drawn from a pool's rows.

    From the `k` rows of one shape in a pool as many are drawn as were just read, row `i` with the
    probability `p_i = floor / k + (1 - floor) s_i / sum(s)` and the weight `1 / (k p_i)`,
    and cut into batches as long as those that were read. Batches that are not drawn by importance
    are handed over as they are read.

    Args:
        reader: `KnownReader`.
        memory: `ExampleMemory` of its examples, by their numbers in `reader.identity`.
        floor: float in [0, 1), the uniform share of the probabilities.
        generator: `np.random.Generator`, for the draws.
    """

    def __init__(
        self,
        reader: KnownReader,
        memory: ExampleMemory,
        floor: float,
        generator: np.random.Generator,
    ) -> None:
        self._reader = reader
        self._memory = memory
        self._floor = floor
        self._generator = generator
        # The gain is measured over as long a part of an epoch as with arrays.
        self.measured_steps = math.ceil(reader.num_batches / PARTS)
        self.left = 0
        # The group and the slice of its draws that make each batch; empty for batches as they come.
        self._drawn: collections.deque[tuple[Group, slice]] = collections.deque()
        # In a part of batches as they come: the scores from which the weights would follow that
        # examples would have if drawn by importance.
        self._candidates: RememberedScores | None = None
        # Whether an epoch has begun in which examples that were read before may come again.
        self._may_know = False
        # Whether the last part was drawn by importance.
        self._draws = False

    @property
    def together(self) -> int:
        # Batches as they come are read one by one: a step may change the source of the next.
        return max(1, len(self._drawn))

    @property
    def count(self) -> int:
        return max(self._reader.identity.count, len(self._memory))

    @property
    def are_known_again(self) -> bool:
        return self._reader.identity.is_consistent

    def draw_by_index(self) -> None:
        """Does nothing: a stream has no arrays to gather rows from."""

    def may_draw(self, known: int, is_measured: bool) -> bool:
        return self._may_know and known > 0

    def look_ahead(self, steps_left: int) -> None:
        # Steps may still be running on the device. Reading scores waits for them, reading the
        # stream need not.
        if self._draws:
            self._reader.look_ahead(steps_left)

    def next_steps(self, steps_left: int) -> int:
        return self._reader.new_steps(steps_left)

    def take_uniform(self, steps: int, scores: RememberedScores | None, rests: bool) -> None:
        if rests:
            self._reader.forget_earlier()
        self.left, self._candidates, self._draws = steps, scores, False

    def draw(self, steps: int, scores: RememberedScores, steps_left: int) -> bool:
        try:
            batches = self._reader.pool(steps, steps_left)
        except NotPooled:
            self.take_uniform(steps, None, rests=False)
            return False
        earlier = self._reader.earlier
        pool = [*earlier, *batches]

        def draw(places: list[int], count: int) -> tuple[IntArray, FloatArray]:
            numbers = np.concatenate([pool[place].numbers for place in places])
            pooled = np.concatenate([pool[place].pooled for place in places])
            new = np.isnan(pooled[:, 0])
            pooled[new, 0] = first_credit(int(new.sum()), self._generator)
            pooled[new, 1] = scores.of(numbers[new])
            # Views: the draw changes the credit in place.
            credit, score = pooled.T
            chances = resampling.sampling_probability(score, self._floor)
            positions = draw_by_credit(credit, count * chances, self._generator)
            _keep([pool[place] for place in places], pooled)
            return positions, resampling.importance_weights(chances)[positions]

        self._drawn.extend(drawn_batches(batches, draw, earlier))
        self.left, self._draws = steps, True
        return True

    def take(self, count: int, steps_left: int) -> Taken:
        if not self._drawn:
            self.left -= 1
            return self._as_it_comes(steps_left)
        group, rows = self._drawn.popleft()
        sizes = [rows.stop - rows.start]
        while self._drawn and self._drawn[0][0] is group and len(sizes) < count:
            rows = slice(rows.start, self._drawn[0][1].stop)
            _, own = self._drawn.popleft()
            sizes.append(own.stop - own.start)
        self.left -= len(sizes)
        positions, weights = group.positions[rows], group.weights[rows]
        examples = Examples(select(group.data, rows), group.indices[rows])
        drawn = Drawn(group.pool[positions], weights, weights, group.length)
        return Taken(examples, drawn, sizes, group.pool, positions)

    def _as_it_comes(self, steps_left: int) -> Taken:
        batch = self._reader.batch(steps_left)
        numbers, candidates, candidate = batch.numbers, self._candidates, None
        if candidates is not None and numbers.max() < len(candidates):
            candidate = candidates.weights(numbers)
        examples = Examples(batch.data, batch.indices)
        drawn = Drawn(numbers, np.ones(len(numbers)), candidate, row_length(batch.data))
        return Taken(examples, drawn, [len(numbers)], None, numbers)

    def take_back(self, count: int) -> None:
        """Does nothing: batches are given back at the end of an epoch, which drops the pool."""

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins, always with an empty pool."""
        self._drop()
        self._may_know = len(self._memory) > 0

    def end_epoch(self) -> None:
        """Called when an epoch ends; drops what is left of a pool."""
        self._drop()
        self._reader.stop_reading_ahead()
        self._memory.ids = self._reader.identity.ids

    def _drop(self) -> None:
        self.left = 0
        self._drawn.clear()

    def release(self) -> None:
        self._reader.stop_reading_ahead()
        self._reader.forget_earlier()
        self._reader.identity.release()

    def state(self) -> PooledPartsState:
        read = self._reader.state()
        held = [] if read is None else self._reader.held
        pooled = np.concatenate([np.zeros((0, 2)), *(batch.pooled for batch in held)])
        return PooledPartsState(self._reader.identity.state(), read, pooled)

    def restore(self, state: PooledPartsState) -> None:
        self._reader.identity.restore(state.identity)
        self._memory.ids = self._reader.identity.ids
        self._reader.restore(state.read)
        if state.read is not None:
            _keep(self._reader.held, state.pooled)


def _keep(batches: list[Known], pooled: FloatArray) -> None:
    """Stores what is `pooled` of the rows of these batches, one batch after another."""
    ends = np.cumsum([0, *(len(batch.numbers) for batch in batches)])
    for batch, (begin, end) in zip(batches, itertools.pairwise(ends), strict=True):
        batch.pooled[:] = pooled[begin:end]
