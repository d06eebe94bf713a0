"""Importance sampling by remembered scores: no example is scored only for the draw.

A training step computes the outputs from which the scores of its examples follow. These scores,
remembered, decide which examples the next part of an epoch holds. This file decides when enough
scores are known, what is drawn, and how much larger the steps may be. Stale scores cost variance,
never bias: the weights are exact for the probabilities that were used.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_swift.src._types import FloatArray, IntArray, State
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.reader import ArrayReader, Examples
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance import resampling
from keras_swift.src.importance.batch import Batch, mask_correction
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.gain import RealisedGain
from keras_swift.src.importance.presampling import uniform_batch
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.scoring.scorer import Scorer

# The number of parts an epoch is drawn in. Halves and eighths differ by 1 % of the training loss.
PARTS = 4
# The uniform share of the probabilities bounds the weights by 2, so stale scores do little harm.
FLOOR = 0.5
# Draws by importance begin when this share of the examples has been seen, if the gain that the
# scores predict is above the first; they pause while the realised gain is below the second.
KNOWN = 0.9
OPENS_ABOVE = 1.05
SHUTS_BELOW = 1.02
# The factor of a step while batches are uniform because importance stopped helping, until what
# larger steps were ahead is made up for: else the run learns more by heart than at its own rate.
PAYING_BACK = 0.5
# Batches handed over together if the backend gathers the rows.
TOGETHER = 64
# Rows that may stay on the device before they are read; a tap holds four times as many.
UNREAD = 2**14


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What the record of a batch's step is read by.

    Attributes:
        numbers: int array, shape `(b,)`, the rows of the memory that its examples have.
        weights: float64 array, shape `(b,)`, their importance weights.
        candidate: float64 array, shape `(b,)`, as in a `Part`; `None` while scores are not known.
        length: int, how many numbers a row of its first input has.
    """

    numbers: IntArray
    weights: FloatArray
    candidate: FloatArray | None
    length: int = 1


@dataclasses.dataclass(frozen=True)
class Taken:
    """A batch of a part.

    Attributes:
        examples: `Examples`.
        drawn: `Drawn`.
        corrections: float64 array, one factor for each output, or `None`, by `mask_correction`.
    """

    examples: Examples
    drawn: Drawn
    corrections: FloatArray | None = None


@dataclasses.dataclass
class Part:
    """The examples of the next batches.

    Attributes:
        indices: int64 array, shape `(m,)`, into the data.
        weights: float64 array, shape `(m,)`, their importance weights.
        candidate: float64 array, shape `(m,)`, the weights they have, or would have if drawn by
            importance; `None` while scores are not known.
        by_importance: bool, whether they were drawn by importance.
        rate_scale: float, the factor of the learning rate.
        gain: float, the realised variance gain so far.
        used: int, how many have been handed over.
    """

    indices: IntArray
    weights: FloatArray
    candidate: FloatArray | None = None
    by_importance: bool = False
    rate_scale: float = 1.0
    gain: float = 1.0
    used: int = 0

    @property
    def left(self) -> int:
        return len(self.indices) - self.used


class RememberedSampler:
    """Draws the parts of an epoch by the scores that earlier steps stored in a memory.

    Of the `m` draws of a part, example `i` gets `m p_i` on average, with
    `p_i = floor / n + (1 - floor) s_i / sum(s)` and the weight `1 / (n p_i)`:
    systematic draws, so that no count is off by 1 or more. Until most
    examples have a score, and while scores predict no gain, parts are pieces
    of a permutation, as in `model.fit`.

    Args:
        reader: `ArrayReader`, which reads examples by index.
        scorer: `Scorer`, which knows the shape of each loss's weights.
        memory: `ExampleMemory` of as many examples.
        floor: float in [0, 1), the uniform share of the probabilities.
        generator: `np.random.Generator`, for the draws.
        check_labels: function that raises for targets that do not fit.
        step_power: float, the learning rate is multiplied by this power of the realised gain.
            Defaults to 1.0; 0.0 for not at all.
        easing: `Easing`, while which is on batches are uniform. Defaults to `None`, never.
    """

    def __init__(
        self,
        reader: ArrayReader,
        scorer: Scorer,
        memory: ExampleMemory,
        floor: float,
        generator: np.random.Generator,
        check_labels: Callable[[Any], None],
        step_power: float = 1.0,
        easing: Easing | None = None,
    ) -> None:
        self._easing = Easing(enabled=False) if easing is None else easing
        self._check_labels = check_labels
        self.reader = reader
        self.scorer = scorer
        self.memory = memory
        self._floor = floor
        self._generator = generator
        self._step_power = step_power
        self._part_steps = max(1, math.ceil(reader.size / reader.batch_size / PARTS))
        self._gain = RealisedGain()
        # Second moments of the current part: uniform, and as drawn by importance.
        self._sums = [0.0, 0.0]
        self._tau = 0.0
        # By how many steps of the optimizer's own rate the larger steps are ahead.
        self._ahead = 0.0
        self._part: Part | None = None
        self._by_index = False
        # Unmasked shares of the entries of each output, if outputs carry masks.
        self._valid_rows: GrowingRows | None = None
        self._journal: Journal | None = None
        # The batches whose steps are not read back yet.
        self._unread: collections.deque[Drawn] = collections.deque()
        self._unread_rows = 0
        # How many batches may be drawn ahead, and how many were drawn since the last record.
        self._in_flight = 1
        self._unheard = 0
        # Whether steps run without leaving a record.
        self.records_nothing = False
        # Not used: scores are those that the steps recorded.
        self.values: Any = None

    @property
    def _valid(self) -> FloatArray | None:
        return None if self._valid_rows is None else self._valid_rows.values

    def listen(self, journal: Journal, in_flight: int) -> None:
        """Called before training.

        Args:
            journal: `Journal` with the tap that will record the steps.
            in_flight: int, the most batches drawn for later steps, besides those that
                `batches_ready` has allowed.
        """
        self._journal = journal
        self._in_flight = in_flight
        self._forget_unread()
        if self.scorer.has_masks and self._valid is None:
            shape = (len(self.scorer.outputs),)
            self._valid_rows = GrowingRows(len(self.memory), shape, np.nan, np.float32)

    def next_batch(self, steps_left: int = 1) -> Batch:
        """The next batch of the part; draws the next part when this one is used up."""
        part = self.ready_part(steps_left)
        taken = self._take(part)
        self._unread.append(taken.drawn)
        self._unread_rows += len(taken.drawn.numbers)
        self._unheard += 1
        self._ahead += part.rate_scale - 1.0
        examples, weights = taken.examples, taken.drawn.weights
        x, y, sample_weight = examples.data
        if y is not None:
            self._check_labels(y)
        if not part.by_importance:
            uniform = uniform_batch(self.scorer, examples)
            return dataclasses.replace(uniform, rate_scale=part.rate_scale)
        return Batch(
            x=x,
            y=y,
            weights=self.scorer.loss_weights(weights, sample_weight, taken.corrections, y),
            importance=weights.astype(np.float32),
            indices=examples.indices,
            sample_weight=sample_weight,
            scores=self.memory.score[taken.drawn.numbers].astype(np.float64),
            presample_size=len(weights),
            by_importance=True,
            rate_scale=part.rate_scale,
            gain=part.gain,
        )

    def _take(self, part: Part) -> Taken:
        """The part's next batch."""
        rows = slice(part.used, part.used + self.reader.batch_size)
        indices, weights = part.indices[rows], part.weights[rows]
        part.used += len(indices)
        candidate = None if part.candidate is None else part.candidate[rows]
        examples = self.reader.examples(indices, by_index=self._by_index)
        corrections = self._corrections(indices) if part.by_importance else None
        return Taken(examples, Drawn(indices, weights, candidate), corrections)

    def batches_ready(self, steps_left: int) -> int:
        """How many batches can be drawn before the model must be read again; 1 or more."""
        left = math.ceil(self.ready_part(steps_left).left / self.reader.batch_size)
        return max(1, min(self._together, left, steps_left))

    @property
    def _together(self) -> int:
        return TOGETHER if self._by_index else self.reader.most_together

    def draw_by_index(self) -> None:
        """Switches to index-only batches, whose `x` and `y` may be `None`."""
        self._by_index = True

    def take_back(self, batches: list[Batch]) -> None:
        """Undoes the draw of these batches, which are the last ones drawn."""
        if self._part is not None:
            self._part.used -= sum(len(batch.importance) for batch in batches)
            self._ahead -= sum(batch.rate_scale - 1.0 for batch in batches)
        for _ in batches[: len(self._unread)]:
            self._unread_rows -= len(self._unread.pop().numbers)
            self._unheard -= 1

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins; `restarts` if it must be a whole permutation."""
        if restarts:
            self._part = None

    def end_epoch(self) -> None:
        """Called when an epoch ends; reads what its steps have recorded."""
        self._read_back()
        self._forget_unread()

    @property
    def tau(self) -> float:
        """float, the variance reduction that the remembered scores predict; 0 while unknown."""
        return self._tau

    def state(self) -> State:
        """State for `restore`; the reader has its own."""
        return {
            "generator": self._generator.bit_generator.state,
            "memory": self.memory.state(),
            "valid": None if self._valid is None else self._valid.copy(),
            "gain": self._gain.value,
            "sums": list(self._sums),
            "measured": self._gain.is_measured,
            "tau": self._tau,
            "ahead": self._ahead,
            "part": [] if self._part is None else [dict(vars(self._part))],
        }

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""
        self._generator.bit_generator.state = state["generator"]
        self.memory.restore(state["memory"])
        if self._valid is not None and state["valid"] is not None:
            self._valid[:] = state["valid"]
        self._gain.value = state["gain"]
        self._gain.is_measured = state["measured"]
        self._tau = state["tau"]
        self._ahead = state["ahead"]
        self._part = Part(**state["part"][0]) if state["part"] else None
        self._sums = list(state["sums"])
        self._unheard = 0
        self._forget_unread()

    def ready_part(self, steps_left: int) -> Part:
        """The part, or the next one if it is used up."""
        if self._unread_rows >= UNREAD:
            self._read_back()
        if self._part is None or not self._part.left:
            self._part = self._next_part(steps_left)
        return self._part

    def _next_part(self, steps_left: int) -> Part:
        self._read_back()
        self.measure_gain()
        steps = min(self._part_steps, max(1, steps_left))
        scores = self._scores()
        if scores is None:
            return self._uniform_part(steps)
        probability = resampling.sampling_probability(scores, self._floor)
        weights = resampling.importance_weights(probability)
        self._tau = resampling.variance_reduction(resampling.sampling_probability(scores))
        if not self._is_worth_it(scores, weights):
            part = self._uniform_part(steps, weights)
            if self._easing.is_on and self._ahead > 0:
                part.rate_scale = PAYING_BACK
            return part
        part = self._drawn_part(steps, scores, probability)
        if part.by_importance:
            part.gain = self._gain.value
            part.rate_scale = max(1.0, part.gain) ** self._step_power
        return part

    def measure_gain(self) -> None:
        """Adds what the steps of the last part have shown to the realised gain."""
        self._gain.update(*self._sums)
        self._sums = [0.0, 0.0]

    def _uniform_part(self, steps: int, candidates: FloatArray | None = None) -> Part:
        """The next examples of the permutation; `candidates` are weights, shape `(n,)`."""
        indices = self.reader.uniform_indices(steps * self.reader.batch_size)
        candidate = None if candidates is None else candidates[indices]
        return Part(indices, np.ones(len(indices)), candidate)

    def _drawn_part(self, steps: int, scores: FloatArray, probability: FloatArray) -> Part:
        """Examples drawn by their scores, or the probabilities that follow; both `(n,)`."""
        expected = steps * self.reader.batch_size * probability
        indices = systematic_draw(expected, self._generator)
        drawn = resampling.importance_weights(probability)[indices]
        return Part(indices, drawn, drawn, by_importance=True)

    def _scores(self) -> FloatArray | None:
        """The scores of all examples, shape `(n,)`; `None` while too few are known."""
        if self.memory.seen.sum() < KNOWN * self.reader.size:
            return None
        if not self._gain.is_measured and self.reader.is_within_pass:
            # The first epoch is uniform to its end, as in `fit`.
            return None
        scores = self.memory.score.astype(np.float64)
        unknown = ~self.memory.seen
        # Examples without a score get the mean, neither avoided nor preferred.
        scores[unknown] = scores[~unknown].mean()
        return scores

    def _is_worth_it(self, scores: FloatArray, weights: FloatArray) -> bool:
        if self._easing.is_on:
            return False
        if self._gain.is_measured:
            return self._gain.value > SHUTS_BELOW
        # The gain that the scores predict, if they still hold.
        return bool(np.sum(scores**2) > OPENS_ABOVE * np.sum(weights * scores**2))

    def _read_back(self) -> None:
        """Reads what the steps have recorded since the last call."""
        if self._journal is None:
            return
        rows = self._journal.rows()
        batches, count = [], 0
        while self._unread and count + len(self._unread[0].numbers) <= len(rows):
            batches.append(self._unread.popleft())
            count += len(batches[-1].numbers)
        self._unread_rows -= count
        if not batches:
            ahead = min(self._together, self._part_steps) + self._in_flight
            self.records_nothing = self.records_nothing or self._unheard > ahead
            return
        self._unheard = len(self._unread)
        self._make_room()
        indices = np.concatenate([batch.numbers for batch in batches])
        outputs = 0 if self._valid is None else self._valid.shape[1]
        numbers = rows[:count, : rows.shape[1] - outputs]
        self.memory.record(indices, numbers)
        if self._valid is not None:
            self._valid[indices] = rows[:count, rows.shape[1] - outputs :] * _lengths(batches)
        candidates = [batch.candidate for batch in batches if batch.candidate is not None]
        if len(candidates) == len(batches):
            weights = np.concatenate([batch.weights for batch in batches])
            candidate = np.concatenate(candidates)
            squares = np.square(numbers[:, 0].astype(np.float64))
            squares[~np.isfinite(squares)] = 0.0
            self._sums[0] += float(np.sum(weights * squares))
            self._sums[1] += float(np.sum(weights * candidate * squares))

    def _make_room(self) -> int:
        """Makes room in the memory for all examples known so far; returns their number."""
        return len(self.memory)

    def _forget_unread(self) -> None:
        self._unread.clear()
        self._unread_rows = 0

    def _corrections(self, indices: IntArray) -> FloatArray | None:
        """Factors that undo the division by the batch's unmasked share; `None` without masks."""
        if self._valid is None:
            return None
        valid = np.nan_to_num(self._valid.astype(np.float64), nan=float(np.nanmean(self._valid)))
        return mask_correction(valid, indices)


def _lengths(batches: list[Drawn]) -> FloatArray:
    """The length of a row for each row of these batches, shape `(k, 1)`.

    The unmasked share times this is the same however far an example was padded.
    """
    found = [batch.length for batch in batches]
    return np.repeat(found, [len(batch.numbers) for batch in batches])[:, None].astype(np.float32)
