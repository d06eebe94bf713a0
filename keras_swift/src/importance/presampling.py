"""Algorithm 1 of the paper, a batch at a time: presample, score, resample.

This file decides which examples the next batch holds and their weights, from fresh scores;
`remembered` does so from the scores of earlier steps.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._pages import read_on
from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray
from keras_swift.src.data.arrays import select
from keras_swift.src.data.reader import Examples, Reader
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance import resampling
from keras_swift.src.importance.batch import Batch, mask_correction
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.gates import CostGate, Gate
from keras_swift.src.importance.settings import ImportanceSettings
from keras_swift.src.scoring.finite import not_finite, warn_not_finite
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.validation import explained

# The shortest and the longest interval, in steps, at which batches are scored while the gate is
# shut; between the two it is an eighth of the steps so far. Scoring costs a third of training, so
# it adds 2 % to the cost of a step at first, and 0.5 % in the end.
PROBE_INTERVALS = (16, 64)
NO_PRESAMPLE = (
    "`presample='auto'` cannot draw by importance from `x`, so batches are uniform from here on. "
    "{} " + read_on("compatibility.md#data")
)


@dataclasses.dataclass(frozen=True)
class PresamplingState(SavedState):
    """The state of an `ImportanceSampler`.

    Attributes:
        generator: dict, the state of the generator.
        gate: the state of the gate.
        step: int, how many batches were drawn.
        unprobed: int, the steps since a batch was last scored; `None` if none has been.
        owed: float, the fraction of an example that is carried to the next batch.
    """

    generator: Mapping[str, Any]
    gate: Any
    step: int
    unprobed: int | None
    owed: float


class ImportanceSampler:
    """Draws batches by the scores of a presample; uniformly while the gate is shut.

    Args:
        reader: `Reader`, for uniform batches and presamples.
        scorer: `Scorer`, whose first quantity is the score.
        gate: `Gate`, which decides between uniform and importance, and has the presample ratio.
        settings: `ImportanceSettings`.
        generator: `np.random.Generator`, for the draws.
        check_labels: function that raises for targets that do not fit.
        journal: `Journal` that notes the scores.
        easing: `Easing`; while it is on, batches are uniform.
        step_power: float, the learning rate is multiplied by this power of the variance gain.

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep
        Learning with Importance Sampling", ICML 2018, Algorithm 1.
    """

    def __init__(
        self,
        reader: Reader,
        scorer: Scorer,
        gate: Gate,
        settings: ImportanceSettings,
        generator: np.random.Generator,
        check_labels: Callable[[Any], None],
        journal: Journal,
        easing: Easing,
        step_power: float,
    ) -> None:
        self._score_inputs = settings.score_inputs
        self._floor = settings.floor_of(remembered=False)
        self._journal = journal
        self._easing = easing
        self.reader = reader
        self.scorer = scorer
        self.gate = gate
        self.generator = generator
        self.check_labels = check_labels
        self._step_power = step_power
        self._step = 0
        # Steps since a batch was last scored; `None` if none has been.
        self._unprobed: int | None = None
        # The model's values as the backend captured them; `None` to use its current ones.
        self._values: Any = None
        self._by_index = False
        self._has_warned = False
        # The fraction of an example that is carried to the next batch.
        self._owed = 0.0

    def begin_step(self, model: keras.Model) -> None:
        """Captures the model's values that the next presample is scored with."""
        self._values = backends.active().capture_values(model)

    def next_batches(self, count: int, steps_left: int) -> list[Batch]:
        """The next batches, one after another."""
        return [self.next_batch() for _ in range(count)]

    def next_batch(self) -> Batch:
        """One iteration of Algorithm 1 (Katharopoulos and Fleuret 2018)."""
        self._step += 1
        presample = self._presample() if self._is_open else None
        if presample is None:
            return self._uniform_batch()
        scores, valid = self.score(presample)
        if not self._are_finite(scores, presample):
            return self._uniform_batch(probes=False)
        drawn = resampling.draw(scores, self._draws(presample), self.generator, self._floor)
        self.gate.update(drawn.tau)
        return self._drawn_batch(presample, scores, valid, drawn)

    def score(self, examples: Examples) -> tuple[FloatArray, FloatArray]:
        """Scores of `k` examples, shape `(k,)`, and their unmasked shares, `(k, outputs)`.

        Raises:
            ValueError: if scores are negative.
        """
        quantities = self._journal.told(lambda: self._quantities(examples))
        scores = quantities[self.scorer.score_name].astype(np.float64)
        resampling.check_scores(scores[np.isfinite(scores)], empty=True)
        return scores, quantities["valid"]

    def _quantities(self, examples: Examples) -> dict[str, FloatArray]:
        x, y, sample_weight = examples.data
        if self._score_inputs is not None:
            x = self._score_inputs(x)
        with explained(x, y):
            return self.scorer(x, y, sample_weight, values=self._values)

    def batches_ready(self, steps_left: int) -> int:
        """How many batches can be drawn before the model must be read again; 1 or more."""
        if self._is_open or self._unprobed is None:
            return 1
        unseen = self._probe_interval - 1 - self._unprobed
        return max(1, min(self.reader.together, unseen, steps_left))

    def draw_by_index(self) -> None:
        """Switches to index-only batches, whose `x` and `y` may be `None`."""
        self._by_index = True

    def take_back(self, batches: list[Batch]) -> None:
        """Undoes the draw of these uniform batches, which are the last ones drawn."""
        self.reader.take_back(sum(len(batch.importance) for batch in batches))
        self._step -= len(batches)
        self._unprobed = (self._unprobed or 0) - len(batches)

    def begin_epoch(self, restarts: bool) -> None:
        """Does nothing: the feed restarts the reader."""

    def end_epoch(self) -> None:
        """Drops the captured values: outside an epoch the model's own are current."""
        self._values = None

    is_over = False

    def retire(self) -> None:
        """Does nothing: this sampler can draw from any data."""

    # Nothing is remembered.
    mean_score = math.nan

    @property
    def tau(self) -> float:
        """float, the gate's running mean of the variance reduction."""
        return self.gate.tau

    def state(self) -> PresamplingState:
        """State for `restore`; the reader has its own."""
        return PresamplingState(
            generator=self.generator.bit_generator.state,
            gate=self.gate.state(),
            step=self._step,
            unprobed=self._unprobed,
            owed=self._owed,
        )

    def restore(self, state: PresamplingState) -> None:
        """Restores what `state` returned."""
        self.generator.bit_generator.state = state.generator
        self.gate.restore(state.gate)
        self._step = state.step
        self._unprobed = state.unprobed
        self._owed = state.owed

    @property
    def _is_open(self) -> bool:
        return self.gate.is_open and not self._easing.is_on

    @property
    def _probe_interval(self) -> int:
        shortest, longest = PROBE_INTERVALS
        return max(shortest, min(longest, self._step // 8))

    def _presample(self) -> Examples | None:
        """The next presample; with `"auto"`, a warning and `None` where the data allow none."""
        try:
            presample = self.reader.presample(self.reader.presample_size(self.gate.ratio))
        except ValueError as error:
            if not isinstance(self.gate, CostGate):
                raise
            self.gate.stay_shut()
            warnings.warn(NO_PRESAMPLE.format(error), stacklevel=3)
            return None
        self.check_labels(presample.data[1])
        return presample

    def _draws(self, presample: Examples) -> int:
        """How many examples to draw: as many as its batches have on average.

        The next batch makes up for what rounding leaves: Keras divides the sum of an epoch's losses
        by the sum of these numbers, which would otherwise be too small or too large.
        """
        wanted = presample.mean_length + self._owed
        draws = max(1, round(wanted))
        self._owed = wanted - draws
        return draws

    def _drawn_batch(
        self,
        presample: Examples,
        scores: FloatArray,
        valid: FloatArray,
        drawn: resampling.Draw,
    ) -> Batch:
        self._unprobed = 0
        parts = (None, None, presample.data[2]) if self._by_index else presample.data
        x, y, sample_weight = select(parts, drawn.positions)
        # The number of draws is rounded. With this factor the weights sum to the unrounded number,
        # on average, so a presample counts by its size.
        counts = presample.mean_length / len(drawn.positions)
        indices, importance = presample.indices, drawn.weights * counts
        return Batch(
            x=x,
            y=y,
            weights=self.scorer.loss_weights(
                importance, sample_weight, mask_correction(valid, drawn.positions), y
            ),
            importance=importance.astype(np.float32),
            indices=None if indices is None else indices[drawn.positions],
            sample_weight=sample_weight,
            scores=scores[drawn.positions],
            presample_size=len(presample),
            by_importance=True,
            rate_scale=self.gate.gain**self._step_power,
            gain=self.gate.gain,
        )

    def _are_finite(self, scores: FloatArray, examples: Examples) -> bool:
        """Whether all scores are finite; warns once if not.

        Training continues with uniform batches, as in `fit`: callbacks decide what to do about NaN.
        """
        x, y, sample_weight = examples.data
        reason = not_finite(scores, x, y, sample_weight, self._step - 1)
        if reason is not None and not self._has_warned:
            self._has_warned = True
            warn_not_finite(reason)
        return reason is None

    def _uniform_batch(self, probes: bool = True) -> Batch:
        unprobed = self._unprobed or 0
        probes = probes and (self._unprobed is None or unprobed + 1 >= self._probe_interval)
        examples = self.reader.uniform(by_index=self._by_index and not probes)
        x, y, sample_weight = examples.data
        if y is not None:
            self.check_labels(y)
        scores = None
        self._unprobed = 0 if probes else unprobed + 1
        if probes:
            scores, _ = self.score(examples)
            if self._are_finite(scores, examples):
                tau = resampling.variance_reduction(resampling.sampling_probability(scores))
                self.gate.update(tau, steps=unprobed + 1)
        return uniform_batch(self.scorer, examples, scores)


def uniform_batch(scorer: Scorer, examples: Examples, scores: FloatArray | None = None) -> Batch:
    """A batch of these examples with importance weights of 1."""
    x, y, sample_weight = examples.data
    count = len(examples)
    ones = np.ones(count, np.float32)
    return Batch(
        x=x,
        y=y,
        weights=scorer.loss_weights(ones, sample_weight, None, y),
        importance=ones,
        indices=examples.indices,
        sample_weight=sample_weight,
        scores=scores,
        presample_size=count,
        by_importance=False,
    )
