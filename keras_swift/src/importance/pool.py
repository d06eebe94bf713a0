"""Importance sampling by remembered scores from a pool: the next batches of a `PyDataset`.

A `PyDataset` gives whole batches, so an example cannot be read alone. This file decides what is
drawn from batches that are read anyway: each once an epoch, as in `model.fit`. A row is in one pool
of an epoch, and drawn with exact weights there, so the gradient summed over an epoch stays
unbiased.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from keras_swift.src._types import FloatArray, IntArray, State
from keras_swift.src.data.arrays import Data, select
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.reader import ArrayReader, Examples
from keras_swift.src.importance import resampling
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.remembered import Part, RememberedSampler
from keras_swift.src.records.identity import NotPooled, PlacedReader
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.scoring.scorer import Scorer


@dataclasses.dataclass
class PooledPart(Part):
    """The next batches of a `PyDataset`: as they come, or drawn from all their rows.

    As they come, `indices` and `weights` are empty, because nothing has been read yet, and
    `candidate` has the weights of all examples.

    Attributes:
        steps: int, how many batches there are; `used` counts these.
        data: the rows of the pool, `(x, y, sample_weight)`.
        positions: int array, shape `(m,)`, the drawn rows.
        places: int array, shape `(m,)`, the drawn examples in the order of batches and rows.
        ends: int array, shape `(steps,)`, where each drawn batch ends.
    """

    steps: int = 0
    data: Data = (None, None, None)
    positions: IntArray | None = None
    places: IntArray | None = None
    ends: IntArray | None = None

    @property
    def left(self) -> int:
        return self.steps - self.used


class PooledSampler(RememberedSampler):
    """Draws from pools of the batches of a `PyDataset` by remembered scores.

    From a pool of `m` rows `m` are drawn, row `i` with the probability
    `p_i = floor / m + (1 - floor) s_i / sum(s)` and the weight `1 / (m p_i)`,
    and cut into batches as long as those that were read. Until most examples
    have a score, and while scores gain nothing, batches are handed over as
    they are read.

    Args:
        reader: `PlacedReader`.
        scorer, memory, floor, generator, check_labels, step_power, easing: as for
            `RememberedSampler`; the memory has the examples by their numbers in `reader.places`.
    """

    def __init__(
        self,
        reader: PlacedReader,
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
        self._part_steps = reader.most_pooled(self._part_steps)

    @property
    def is_over(self) -> bool:
        """bool, whether the source turned out to give other examples at the same places."""
        return not self._batches.places.is_consistent

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins, always with an empty pool."""
        self._part = None

    def end_epoch(self) -> None:
        """Called when an epoch ends; drops what is left of a pool."""
        super().end_epoch()
        self._part = None

    def state(self) -> State:
        """State for `restore`, between two epochs."""
        return {**super().state(), "places": self._batches.places.state()}

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""
        self._batches.places.restore(state["places"])
        size = len(state["memory"]["latest"])
        self.memory.resize(size)
        if self._valid is not None:
            self._valid = np.full((size, self._valid.shape[1]), np.nan, np.float32)
        super().restore(state)

    def _uniform_part(self, steps: int, candidates: FloatArray | None = None) -> Part:
        nothing = np.zeros(0, np.int64)
        return PooledPart(nothing, np.zeros(0), candidates, steps=steps)

    def _drawn_part(self, steps: int, scores: FloatArray, probability: FloatArray) -> Part:
        try:
            pool = self._batches.pool(steps)
        except NotPooled:
            return self._uniform_part(steps)
        # Rows that were never read before get the mean, as others without a score do.
        known = np.full(self._make_room(), scores.mean())
        known[: len(scores)] = scores
        scores = known[pool.numbers]
        probability = resampling.sampling_probability(scores, self._floor)
        positions = systematic_draw(len(probability) * probability, self._generator)
        drawn = resampling.importance_weights(probability)[positions]
        return PooledPart(
            pool.numbers[positions],
            drawn,
            drawn,
            by_importance=True,
            steps=steps,
            data=pool.data,
            positions=positions,
            places=pool.indices[positions],
            ends=np.cumsum(pool.lengths),
        )

    def _take(self, part: Part) -> tuple[Examples, IntArray, FloatArray, FloatArray | None]:
        pool = cast(PooledPart, part)
        pool.used += 1
        if pool.positions is None or pool.places is None or pool.ends is None:
            return self._as_it_comes(pool.candidate)
        start = pool.ends[pool.used - 2] if pool.used > 1 else 0
        rows = slice(start, pool.ends[pool.used - 1])
        x, y, sample_weight = select(pool.data, pool.positions[rows])
        drawn = pool.weights[rows]
        return Examples((x, y, sample_weight), pool.places[rows]), pool.indices[rows], drawn, drawn

    def _as_it_comes(
        self, candidates: FloatArray | None
    ) -> tuple[Examples, IntArray, FloatArray, FloatArray | None]:
        batch = self._batches.batch()
        numbers, candidate = batch.numbers, None
        if candidates is not None and numbers[-1] < len(candidates):
            candidate = candidates[numbers]
        return Examples(batch.data, batch.indices), numbers, np.ones(len(numbers)), candidate

    def _make_room(self) -> int:
        """Makes room for what is known of the examples read so far; returns their number."""
        count = self._batches.places.count
        if len(self.memory) < count:
            self.memory.resize(count)
        if self._valid is not None and len(self._valid) < count:
            extra = count - len(self._valid)
            self._valid = np.pad(self._valid, ((0, extra), (0, 0)), constant_values=np.nan)
        return count
