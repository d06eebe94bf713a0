"""Draws batch after batch, uniformly or by importance, as the gate says.

This file decides which examples the next batch holds and what they weigh.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from typing import Any, Literal

import numpy as np

from keras_swift.data.arrays import select
from keras_swift.data.reader import ArraySupply, StreamSupply
from keras_swift.importance.batch import Batch, mask_correction
from keras_swift.importance.gate.measured import RATIOS, MeasuredGate
from keras_swift.importance.gate.published import Gate
from keras_swift.importance.gate.run_watch import RunWatch, examples_to_watch
from keras_swift.importance.resampling import (
    check_scores,
    draw,
    sampling_probability,
    variance_reduction,
)
from keras_swift.scoring.compiled import build_for
from keras_swift.scoring.scorer import Scorer, not_finite, warn_not_finite
from keras_swift.validation import explained

# While the gate is shut, every 16th batch is scored at first, later one after another eighth of the
# run and at last every 64th: at f = 0.3 (scoring an example over training one) that costs 2 % of a
# step at first, and 0.5 % at last.
PROBE_INTERVALS = (16, 64)
NO_PRESAMPLE = (
    "`presample='auto'` cannot draw by importance from `x`, so batches are uniform from here on. {}"
)


class BatchDrawer:
    """Algorithm 1 of the paper, a batch at a time.

    Args:
        supply: where uniform batches and presamples come from.
        scorer: `Scorer`, whose first quantity is the score.
        gate: `Gate` or `MeasuredGate`, which has the presample ratio.
        floor: float in [0, 1), the uniform share of the probabilities.
        generator: `np.random.Generator`, for the draws.
        check_labels: function that raises for targets that do not fit.

    Attributes:
        step: int, batches drawn so far.
        values: the model's values as `backends` captured them, to score by;
            `None` for those that it has.
        watch: `RunWatch` that looks at the run for the gate, or `None`.

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep
        Learning with Importance Sampling", ICML 2018, Algorithm 1.
    """

    def __init__(
        self,
        supply: ArraySupply | StreamSupply,
        scorer: Scorer,
        gate: Gate | MeasuredGate,
        floor: float,
        generator: np.random.Generator,
        check_labels: Callable[[Any], None],
    ) -> None:
        self._supply = supply
        self._scorer = scorer
        self.gate = gate
        self._floor = floor
        self._generator = generator
        self._check_labels = check_labels
        name = scorer.quantities[0]
        self._score_name = name if isinstance(name, str) else "custom_0"
        self.step = 0
        # Steps since a batch was scored.
        self._unprobed: int | None = None
        self.values: Any = None
        self.watch: RunWatch | None = None
        self._by_index = False
        self._warned = False

    def draw_by_index(self) -> None:
        """From here on a batch needs no `x` and `y` besides its indices; they may be `None`."""
        self._by_index = True
        if self.watch is not None:
            # Loading a batch tells nothing any more of what loading a presample costs.
            self.watch.load = self._supply.load

    def draw(self) -> Batch:
        """The next batch; moves on."""
        batch = self._importance_batch() if self.gate.is_open else self._uniform_batch()
        self.step += 1
        return batch

    def count_ahead(self) -> int:
        """How many batches can be drawn now for which the model is not looked at; 0 if none."""
        if self.gate.is_open:
            return 0
        if self.watch is not None:
            unseen = self.watch.steps_until_due(self.step)
        else:
            unseen = 0 if self._unprobed is None else self._probe_interval - 1 - self._unprobed
        return min(self._supply.together, unseen)

    @property
    def _probe_interval(self) -> int:
        shortest, longest = PROBE_INTERVALS
        return max(shortest, min(longest, self.step // 8))

    def take_back(self, batches: Collection[Batch]) -> None:
        """Undoes that these were drawn ahead, the last ones."""
        self._supply.take_back(sum(len(batch.importance) for batch in batches))
        self.step -= len(batches)
        if self.watch is None:
            self._unprobed = (self._unprobed or 0) - len(batches)

    def state(self) -> dict[str, Any]:
        """What `restore` brings back; where the supply is, it knows itself."""
        return {
            "generator": self._generator.bit_generator.state,
            "gate": self.gate.state(),
            "step": self.step,
            "unprobed": self._unprobed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state["generator"]
        self.gate.restore(state["gate"])
        self.step = state["step"]
        self._unprobed = state["unprobed"]

    def _uniform_batch(self) -> Batch:
        unprobed = self._unprobed or 0
        due = self._unprobed is None or unprobed + 1 >= self._probe_interval
        probes = self.watch is None and due
        if self._by_index and not probes:
            examples = self._supply.uniform(by_index=True)
        else:
            with self._timing("load", self._supply.batch_size):
                examples = self._supply.uniform()
        x, y, sample_weight = examples.data
        self._check_labels(y)
        scores = None
        if self.watch is not None:
            self._unprobed = 0
        elif probes:
            scores, _ = self.scores(x, y, sample_weight)
            if np.isfinite(scores).all():
                tau = variance_reduction(sampling_probability(scores))
                self.gate.update(tau, steps=unprobed + 1)
            self._unprobed = 0
        else:
            self._unprobed = unprobed + 1
        count = len(examples)
        ones = np.ones(count, np.float32)
        return Batch(
            x=x,
            y=y,
            weights=self._scorer.loss_weights(ones, sample_weight),
            importance=ones,
            indices=examples.indices,
            scores=scores,
            presample_size=count,
            by_importance=False,
        )

    def _importance_batch(self) -> Batch:
        size = self._supply.presample_size(self.gate.ratio)
        try:
            with self._timing("load", size):
                presample = self._supply.presample(size)
        except ValueError as error:
            if not isinstance(self.gate, MeasuredGate):
                raise
            # Nobody has asked for presamples: only the batches that `fit` would have are needed.
            self.gate.stay_shut()
            warnings.warn(NO_PRESAMPLE.format(error), stacklevel=2)
            return self._uniform_batch()
        self._check_labels(presample.data[1])
        with self._timing("score", len(presample)), explained(*presample.data[:2]):
            scores, valid = self.scores(*presample.data)
        reason = not_finite(scores, *presample.data, self.step)
        if reason is not None:
            if not self._warned:
                warn_not_finite(reason)
            self._warned = True
            # As many as the gate has asked for have been scored.
            self._unprobed = 0
            return self._uniform_batch()
        drawn = draw(scores, presample.draws, self._generator, self._floor)
        self.gate.update(drawn.tau)
        self._unprobed = 0
        parts = (None, None, presample.data[2]) if self._by_index else presample.data
        x, y, sample_weight = select(parts, drawn.positions)
        indices = presample.indices
        return Batch(
            x=x,
            y=y,
            weights=self._scorer.loss_weights(
                drawn.weights * presample.weight,
                sample_weight,
                mask_correction(valid, drawn.positions),
            ),
            importance=(drawn.weights * presample.weight).astype(np.float32),
            indices=None if indices is None else indices[drawn.positions],
            scores=scores[drawn.positions],
            presample_size=len(presample),
            by_importance=True,
            rate_scale=self.gate.rate_scale,
        )

    def _timing(self, part: str, count: int) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.watch is None else self.watch.timing(part, count)

    def scores_and_losses(
        self, data: tuple[Any, Any, Any], values: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and losses of some examples under given values, for a `RunWatch`."""
        quantities = self._scorer(*data, values=values)
        return quantities[self._score_name].astype(np.float64), quantities["loss"]

    def scores(self, x: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scores of some examples, and their shares of unmasked entries.

        Raises:
            ValueError: if scores are negative.
        """
        quantities = self._scorer(x, y, sample_weight, values=self.values)
        scores = quantities[self._score_name].astype(np.float64)
        if np.isfinite(scores).all():
            check_scores(scores)
        return scores, quantities["valid"]


def drawer_for(
    model: Any,
    supply: ArraySupply | StreamSupply,
    generator: np.random.Generator,
    *,
    presample: float | Literal["auto"],
    tau_threshold: float | None,
    score: Any,
    floor: float,
    scoring_dtype: str | None,
    cost_ratio: float | None,
) -> BatchDrawer:
    """The `BatchDrawer` for a model and settings that have been checked.

    Args:
        model: a compiled `keras.Model`; is built if it is not.
        score: as for `ImportanceDataset`, or a `Scorer`, so that a further
            `fit` does not compile it again.

    Raises:
        ValueError: if the data and the model do not go together.
    """
    gate: Gate | MeasuredGate
    if isinstance(presample, str):
        ratios = tuple(ratio for ratio in RATIOS if ratio <= supply.largest_ratio)
        size = supply.presample_size(max((1, *ratios[:1])))
        gate = MeasuredGate(ratios)
    else:
        size = supply.presample_size(presample)
        gate = Gate(size, supply.batch_size, tau_threshold)
    first = supply.first(supply.batch_size)
    with explained(*first[:2]):
        check_labels = build_for(model, supply)
    if not isinstance(score, Scorer):
        # With a given cost nothing is to depend on the clock.
        settled = scoring_dtype == "auto" and cost_ratio is not None
        score = Scorer(model, (score,), None if settled else scoring_dtype)
    drawer = BatchDrawer(supply, score, gate, floor, generator, check_labels)
    with explained(*first[:2]):
        # So that a wrong score shows before training starts.
        scores, _ = drawer.scores(*first)
        # What scoring costs is measured on a presample.
        score.settle(*supply.first(size))
    if isinstance(gate, MeasuredGate):
        if np.isfinite(scores).all():
            gate.update(variance_reduction(sampling_probability(scores)))
        try:
            examples = examples_to_watch(supply)
        except ValueError as error:
            gate.stay_shut()
            warnings.warn(NO_PRESAMPLE.format(error), stacklevel=4)
            examples = first
        drawer.watch = RunWatch(
            model, drawer.scores_and_losses, gate, supply.batch_size, examples, cost_ratio
        )
    return drawer
