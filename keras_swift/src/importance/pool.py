"""Importance sampling by remembered scores from pools: the next batches of a stream.

A stream gives whole batches, so an example cannot be read alone. This file decides what is drawn
from batches that are read anyway: each once an epoch, as in `model.fit`. A pool is the batches just
read and some before them. As many rows are drawn as were just read, with weights that are exact in
the pool, so a step's expected gradient is that of the pool's mean. A row is in five pools of a long
epoch, and drawn once in all of them if scores are equal. The next batches are read while a pool is
trained on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from keras_swift.src._types import FloatArray, IntArray, State
from keras_swift.src.data.arrays import select
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.reader import ArrayReader, Examples
from keras_swift.src.importance import resampling
from keras_swift.src.importance.batch import mask_correction
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.remembered import PARTS, Drawn, Part, RememberedSampler, Taken
from keras_swift.src.records.known_reader import KnownReader, NotPooled
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.pooled import Group, drawn_batches, row_length
from keras_swift.src.scoring.scorer import Scorer


@dataclasses.dataclass
class PooledPart(Part):
    """The next batches of a stream: as they come, or drawn from all their rows.

    As they come, `indices` and `weights` are empty, because nothing has been read yet, and
    `candidate` has the weights of all examples.

    Attributes:
        steps: int, how many batches there are; `used` counts these.
        plan: list of the group and the slice of its draws that make each batch.
    """

    steps: int = 0
    plan: list[tuple[Group, slice]] = dataclasses.field(default_factory=list)

    @property
    def left(self) -> int:
        return self.steps - self.used


class PooledSampler(RememberedSampler):
    """Draws from pools of the batches of a stream by remembered scores.

    From the `k` rows of one shape in a pool as many are drawn as were just read, row `i` with the
    probability `p_i = floor / k + (1 - floor) s_i / sum(s)` and the weight `1 / (k p_i)`,
    and cut into batches as long as those that were read. Until most examples
    of a pool are known, and while scores gain nothing, batches are handed over as
    they are read.

    Args:
        reader: `KnownReader`.
        scorer, memory, floor, generator, check_labels, step_power, easing: as for
            `RememberedSampler`; the memory has the examples by their numbers in `reader.identity`.
    """

    def __init__(
        self,
        reader: KnownReader,
        scorer: Scorer,
        memory: ExampleMemory,
        floor: float,
        generator: np.random.Generator,
        check_labels: Callable[[Any], None],
        step_power: float = 1.0,
        easing: Easing | None = None,
    ) -> None:
        # What else is asked of an `ArrayReader` is overridden here.
        arrays = cast(ArrayReader, reader)
        super().__init__(arrays, scorer, memory, floor, generator, check_labels, step_power, easing)
        self._batches = reader
        self._part_steps = reader.pool_steps
        # The gain is measured over as long a part of an epoch as with arrays.
        self._measured_steps = math.ceil(reader.num_batches / PARTS)
        self._unmeasured = 0
        self._steps_left = 0
        # Whether an epoch has begun in which examples may come that were read before.
        self._may_know = False

    @property
    def is_over(self) -> bool:
        """bool, whether the source turned out to give other examples in each pass."""
        return not self._batches.identity.is_consistent

    def release(self) -> None:
        """Called when others draw from here on: frees what examples were known by."""
        self._batches.stop_reading_ahead()
        self._batches.forget_earlier()
        self._batches.identity.release()

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins, always with an empty pool."""
        self._part = None
        self._may_know = len(self.memory) > 0

    def end_epoch(self) -> None:
        """Called when an epoch ends; drops what is left of a pool."""
        super().end_epoch()
        self._batches.stop_reading_ahead()
        self.memory.ids = self._batches.identity.ids
        self._part = None

    def state(self) -> State:
        """State for `restore`, between two epochs."""
        return {
            **super().state(),
            "identity": self._batches.identity.state(),
            "unmeasured": self._unmeasured,
            "read": self._batches.state(),
        }

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""
        self._batches.identity.restore(state["identity"])
        self._unmeasured = state["unmeasured"]
        self.memory.resize(len(state["memory"]["latest"]))
        if self._valid_rows is not None:
            self._valid_rows.resize(len(self.memory))
        super().restore(state)
        self.memory.ids = self._batches.identity.ids
        self._batches.restore(state["read"])

    def ready_part(self, steps_left: int) -> Part:
        self._steps_left = steps_left
        self._part_steps = self._batches.new_steps(steps_left)
        return super().ready_part(steps_left)

    def measure_gain(self) -> None:
        if self._unmeasured >= self._measured_steps:
            self._unmeasured = 0
            super().measure_gain()

    def _scores(self) -> FloatArray | None:
        seen = self.memory.seen
        if not self._may_know or not seen.any():
            return None
        scores: FloatArray = self.memory.score.astype(np.float64)
        scores[~seen] = scores[seen].mean()
        return scores

    def _uniform_part(self, steps: int, candidates: FloatArray | None = None) -> Part:
        if self._easing.is_on:
            self._batches.forget_earlier()
        nothing = np.zeros(0, np.int64)
        return PooledPart(nothing, np.zeros(0), candidates, steps=steps)

    def _drawn_part(self, steps: int, scores: FloatArray, probability: FloatArray) -> Part:
        try:
            batches = self._batches.pool(steps, self._steps_left)
        except NotPooled:
            return self._uniform_part(steps)
        # Rows that were never read before get the mean, as others without a score do.
        known = np.full(self._make_room(), scores.mean())
        known[: len(scores)] = scores
        nothing = np.zeros(0, np.int64)

        earlier = self._batches.earlier
        pool = [*earlier, *batches]

        def draw(places: list[int], count: int) -> tuple[IntArray, FloatArray]:
            numbers = np.concatenate([pool[place].numbers for place in places])
            chances = resampling.sampling_probability(known[numbers], self._floor)
            positions = systematic_draw(count * chances, self._generator)
            return positions, resampling.importance_weights(chances)[positions]

        plan = drawn_batches(batches, draw, earlier)
        return PooledPart(nothing, np.zeros(0), by_importance=True, steps=len(batches), plan=plan)

    def _take(self, part: Part) -> Taken:
        pool = cast(PooledPart, part)
        pool.used += 1
        self._unmeasured += 1
        if not pool.plan:
            return self._as_it_comes(pool.candidate)
        group, rows = pool.plan[pool.used - 1]
        positions, weights = group.positions[rows], group.weights[rows]
        examples = Examples(select(group.data, rows), group.indices[rows])
        drawn = Drawn(group.pool[positions], weights, weights, group.length)
        return Taken(examples, drawn, self._corrections_in(group, positions))

    def _as_it_comes(self, candidates: FloatArray | None) -> Taken:
        batch = self._batches.batch(self._steps_left)
        numbers, candidate = batch.numbers, None
        if candidates is not None and numbers.max() < len(candidates):
            candidate = candidates[numbers]
        examples = Examples(batch.data, batch.indices)
        drawn = Drawn(numbers, np.ones(len(numbers)), candidate, row_length(batch.data))
        return Taken(examples, drawn)

    def _corrections_in(self, group: Group, positions: IntArray) -> FloatArray | None:
        """As `_corrections`, for a uniform batch of the group."""
        if self._valid is None:
            return None
        valid = self._valid[group.pool].astype(np.float64)
        if not np.isfinite(valid).any():
            return None
        return mask_correction(np.nan_to_num(valid, nan=float(np.nanmean(valid))), positions)

    def _make_room(self) -> int:
        """Makes room for what is known of the examples read so far; returns their number."""
        count = max(self._batches.identity.count, len(self.memory))
        self.memory.resize(count)
        if self._valid_rows is not None:
            self._valid_rows.resize(count)
        return count
