"""Importance sampling by remembered scores: no example is scored only for the draw.

A training step computes the outputs from which the scores of its examples follow. The remembered
scores decide which examples the next part of an epoch holds. This file decides whether that part is
drawn by importance, and how much larger its steps may be. Stale scores cost variance but cause no
bias: the weights are exact for the probabilities that were used.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._state import SavedState
from keras_swift.src.data.leaves import pieces
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.gates import RealisedGain
from keras_swift.src.importance.parts import Parts, Taken
from keras_swift.src.importance.resampling import RememberedScores
from keras_swift.src.importance.step_records import StepRecords, StepRecordsState
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.scoring.scorer import Scorer

# Draws by importance begin when the gain that the scores predict is above the first, and pause
# while the realised gain is not above the second.
OPENS_ABOVE = 1.05
SHUTS_BELOW = 1.02
# The factor of the learning rate after easing off, until the smaller steps have made up for what
# the run is ahead of uniform training: otherwise it would memorise more in as many epochs.
PAYING_BACK = 0.2
NOT_RECORDED = (
    "The model's `train_step` does not call `compute_loss`, so its scores cannot be taken from the "
    "training step: examples are drawn by fresh scores of a presample, while those pay. Call "
    "`self.compute_loss(x, y, y_pred, sample_weight)` to remember scores. "
    + read_on("compatibility.md#models")
)


@dataclasses.dataclass(frozen=True)
class Plan(SavedState):
    """How the batches of a part are trained on.

    Attributes:
        by_importance: bool, whether they were drawn by importance.
        rate_scale: float, the factor of the learning rate.
        gain: float, the realised variance gain so far.
        worth: float, how many uniform steps at the optimizer's own rate a step is worth.
    """

    by_importance: bool = False
    rate_scale: float = 1.0
    gain: float = 1.0
    worth: float = 1.0


@dataclasses.dataclass(frozen=True)
class RememberedState(SavedState):
    """The state of a `RememberedSampler`.

    Attributes:
        records: `StepRecordsState`.
        parts: the state of the parts.
        plan: `Plan` of the present part.
        gain: float, the realised gain so far.
        is_measured: bool, whether there was a measurement of it.
        unmeasured: int, the steps since the last measurement.
        tau: float, the variance reduction that the scores predict.
        ahead: float, the sum of `worth - 1` over all steps.
    """

    records: StepRecordsState
    parts: Any
    plan: Plan
    gain: float
    is_measured: bool
    unmeasured: int
    tau: float
    ahead: float


class RememberedSampler:
    """Draws the parts of an epoch by the scores that earlier steps stored in a memory.

    Of the `m` draws of a part, example `i` gets `m p_i` on average, with
    `p_i = floor / n + (1 - floor) s_i / sum(s)` and the weight `1 / (n p_i)`.
    Over an epoch the counts of an example add up to what was expected, up to
    rounding, as in a shuffled epoch each comes once. Until most examples
    have a score, and while draws by importance promise no gain, batches are
    uniform, as in `model.fit`.

    Args:
        parts: `Parts` of the data.
        scorer: `Scorer`, which knows the shape of each loss's weights.
        memory: `ExampleMemory` of the examples of `parts`.
        floor: float in [0, 1), the uniform share of the probabilities.
        check_labels: function that raises for targets that do not fit.
        step_power: float, the learning rate is multiplied by this power of the realised gain.
            Defaults to 1.0; 0.0 leaves the rate as it is.
        easing: `Easing`; while it is on, batches are uniform. Defaults to `None`, never.
        gain: `RealisedGain` of the trainings so far. Defaults to `None`, there were none.
    """

    def __init__(
        self,
        parts: Parts,
        scorer: Scorer,
        memory: ExampleMemory,
        floor: float,
        check_labels: Callable[[Any], None],
        step_power: float = 1.0,
        easing: Easing | None = None,
        gain: RealisedGain | None = None,
    ) -> None:
        self.parts = parts
        self.scorer = scorer
        self.memory = memory
        self.records = StepRecords(memory, len(scorer.outputs) if scorer.has_masks else 0)
        self._easing = Easing(enabled=False) if easing is None else easing
        self._check_labels = check_labels
        self._floor = floor
        self._step_power = step_power
        self._plan = Plan()
        self.gain = RealisedGain() if gain is None else gain
        # Steps since the gain was measured.
        self._unmeasured = 0
        self._tau = 0.0

    def listen(self, journal: Journal, in_flight: int) -> None:
        """Called before training; passes both to `StepRecords.listen`."""
        self.records.listen(journal, in_flight)

    def begin_step(self, model: keras.Model) -> None:
        """Does nothing: the steps record the scores, so no values need to be captured."""

    def next_batches(self, count: int, steps_left: int) -> list[Batch]:
        """The next batches; draws the next part when one is used up."""
        found: list[Batch] = []
        while len(found) < count:
            left = steps_left - len(found)
            self._have_part(left)
            # With masks each batch has an unmasked share of its own to correct for.
            together = 1 if self.scorer.has_masks else count - len(found)
            found += self._batches(self.parts.take(together, left))
        return found

    def _batches(self, taken: Taken) -> list[Batch]:
        plan, examples, drawn = self._plan, taken.examples, taken.drawn
        number = len(taken.sizes)
        self._unmeasured += number
        self.gain.ahead += number * (plan.worth - 1.0)
        x, y, sample_weight = examples.data
        if y is not None:
            self._check_labels(y)
        corrections = scores = None
        if plan.by_importance:
            corrections = self.records.corrections(taken)
            scores = self.memory.score[drawn.numbers].astype(np.float64)
        weights = self.scorer.loss_weights(drawn.weights, sample_weight, corrections, y)
        importance = drawn.weights.astype(np.float32)
        ends = np.cumsum([0, *taken.sizes]).tolist()
        rows = [slice(*ends[place : place + 2]) for place in range(number)]
        of_each = zip(
            rows,
            *(pieces(part, rows) for part in (x, y, weights, sample_weight)),
            strict=True,
        )
        found = []
        for own, own_x, own_y, own_weights, own_sample_weight in of_each:
            self.records.expect(drawn.part(own))
            found.append(
                Batch(
                    x=own_x,
                    y=own_y,
                    weights=own_weights,
                    importance=importance[own],
                    indices=None if examples.indices is None else examples.indices[own],
                    sample_weight=own_sample_weight,
                    scores=None if scores is None else scores[own],
                    presample_size=own.stop - own.start,
                    by_importance=plan.by_importance,
                    rate_scale=plan.rate_scale,
                    gain=plan.gain,
                )
            )
        return found

    def batches_ready(self, steps_left: int) -> int:
        """How many batches can be drawn before the model must be read again; 1 or more."""
        self._have_part(steps_left)
        return max(1, min(self.parts.together, self.parts.left, steps_left))

    def draw_by_index(self) -> None:
        """Switches to index-only batches, whose `x` and `y` may be `None`."""
        self.parts.draw_by_index()

    def take_back(self, batches: list[Batch]) -> None:
        """Undoes the draw of these batches, which are the last ones drawn."""
        self.parts.take_back(len(batches))
        self.gain.ahead -= len(batches) * (self._plan.worth - 1.0)
        self.records.take_back(batches)

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins; `restarts` if it must be a whole permutation."""
        self.parts.begin_epoch(restarts)

    def end_epoch(self) -> None:
        """Called when an epoch ends; reads what its steps have recorded."""
        self._read_back()
        self.records.forget_unread()
        self.parts.end_epoch()

    @property
    def is_over(self) -> bool:
        """bool, whether scores can no longer be remembered, so that another sampler must draw."""
        return self.records.records_nothing or not self.parts.are_known_again

    def retire(self) -> None:
        """Warns if the model's steps record nothing, and frees what is no longer needed."""
        if self.records.records_nothing:
            warnings.warn(NOT_RECORDED, stacklevel=3)
        self.parts.release()

    @property
    def tau(self) -> float:
        """float, the variance reduction that the remembered scores predict; 0 while unknown."""
        return self._tau

    @property
    def mean_score(self) -> float:
        """float, the mean of the remembered scores; NaN while there are none."""
        if not self.memory.seen.any():
            return math.nan
        return float(np.nanmean(self.memory.score, dtype=np.float64))

    def state(self) -> RememberedState:
        """State for `restore`; the reader and the generator have their own."""
        return RememberedState(
            records=self.records.state(),
            parts=self.parts.state(),
            plan=self._plan,
            gain=self.gain.value,
            is_measured=self.gain.is_measured,
            unmeasured=self._unmeasured,
            tau=self._tau,
            ahead=self.gain.ahead,
        )

    def restore(self, state: RememberedState) -> None:
        """Restores what `state` returned."""
        self.records.restore(state.records)
        self.parts.restore(state.parts)
        self._plan = state.plan
        self.gain.value, self.gain.is_measured = state.gain, state.is_measured
        self._unmeasured = state.unmeasured
        self._tau, self.gain.ahead = state.tau, state.ahead

    def _read_back(self) -> None:
        self.records.read_back(self.parts.count, self.parts.together)

    def _have_part(self, steps_left: int) -> None:
        """Draws the next part if this one is used up."""
        if self.records.are_due:
            self._read_back()
        if not self.parts.left:
            self._plan = self._next_part(steps_left)
            self.records.make_room(self.parts.count)

    def _next_part(self, steps_left: int) -> Plan:
        self.parts.look_ahead(steps_left)
        self._read_back()
        if self._unmeasured >= self.parts.measured_steps:
            self._unmeasured = 0
            self.gain.update(**dataclasses.asdict(self.records.take_moments()))
        steps = self.parts.next_steps(steps_left)
        rests = self._easing.is_on
        scores = self._scores()
        if scores is None:
            self.parts.take_uniform(steps, None, rests)
            return Plan()
        self._tau = scores.tau
        if not self._is_worth_it(scores):
            self.parts.take_uniform(steps, scores, rests)
            pays_back = rests and self.gain.ahead > 0
            scale = PAYING_BACK if pays_back else 1.0
            return Plan(rate_scale=scale, worth=scale)
        if not self.parts.draw(steps, scores, steps_left):
            return Plan()
        gain = self.gain.value
        # Also where the rate grows by a root of the gain alone: less noise is progress too.
        worth = max(1.0, gain) if self._step_power else 1.0
        scale = max(1.0, gain) ** self._step_power
        return Plan(by_importance=True, rate_scale=scale, gain=gain, worth=worth)

    def _scores(self) -> RememberedScores | None:
        """The scores of all examples; `None` while too few are known."""
        scores = RememberedScores(self.memory.score, self._floor)
        return scores if self.parts.may_draw(scores.known, self.gain.is_measured) else None

    def _is_worth_it(self, scores: RememberedScores) -> bool:
        if self._easing.is_on:
            return False
        if self.gain.is_measured:
            return self.gain.value > SHUTS_BELOW
        return scores.predict_gain() > OPENS_ABOVE
