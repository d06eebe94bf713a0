"""The batches of a training run, drawn in step with training.

This file combines reader, scorer, gate and sampler for a model and its data, and decides when a
batch is drawn. `dataset` and `training` hand its batches to `model.fit`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree, Seed, State
from keras_swift.src.backends.base import Tap, Values
from keras_swift.src.data.fingerprint import of_arrays
from keras_swift.src.data.reader import ArrayReader, Examples
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.fitting.arguments import TrainingData
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.gates import COST_RATIO, RATIOS, CostGate, Gate, PublishedGate
from keras_swift.src.importance.lookahead import Lookahead
from keras_swift.src.importance.pool import PooledSampler
from keras_swift.src.importance.presampling import ImportanceSampler, uniform_batch
from keras_swift.src.importance.remembered import RememberedSampler
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.scoring.compiled import build_for
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.validation import check_model, explained

# The uniform share of the probabilities for fresh scores.
FLOOR = 0.1
NOT_RECORDED = (
    "The model's `train_step` does not call `compute_loss`, so its scores cannot be taken from the "
    "training step: examples are drawn by fresh scores of a presample, while those pay. Call "
    "`self.compute_loss(x, y, y_pred, sample_weight)` to remember scores."
)


class Batches:
    """Draws the batches of `model.fit`, epoch after epoch.

    Args:
        model: a compiled `keras.Model`; built here if necessary.
        data: `TrainingData`.
        presample: float above 1, or `"auto"`.
        tau_threshold: float or `None`.
        scorer: `Scorer`.
        floor: float in [0, 1).
        seed: int, `np.random.Generator` or `None`.
        on_draw: callable that gets every `Batch` before it is trained on, or `None`.
        step_power: float, batches drawn by importance multiply the learning rate by this power of
            their variance gain. Defaults to 0.0, not at all.
        score_inputs: function or `None`.
        ends_with_a_pass: bool, whether an epoch ends early where a pass through the data does, as
            in `model.fit` with `steps_per_epoch`. Defaults to `False`.
        easing: `Easing`. Defaults to `None`, one that is never on.

    Attributes:
        easing: as above.
        model: the model.
        reader: `ArrayReader` or `StreamReader`.
        scorer: `Scorer`.
        journal: `Journal` of what the model tells the samplers.
        within_epoch: bool, whether an epoch has begun and not ended.
        ends_with_a_pass: bool, as given.
    """

    def __init__(
        self,
        model: keras.Model,
        data: TrainingData,
        *,
        presample: float | Literal["auto"],
        tau_threshold: float | None,
        scorer: Scorer,
        floor: float,
        seed: Seed,
        on_draw: Callable[[Batch], None] | None,
        step_power: float = 0.0,
        score_inputs: Callable[[ArrayTree], ArrayTree] | None = None,
        ends_with_a_pass: bool = False,
        easing: Easing | None = None,
    ) -> None:
        check_model(model)
        backends.active().check_devices(model)
        self.model = model
        self.easing = Easing(enabled=False) if easing is None else easing
        self._on_draw = on_draw
        self._steps = data.steps_per_epoch
        generator = np.random.default_rng(seed)
        process, self._processes = backends.active().process()
        if self._processes > 1:
            # Each process draws from its own part of the data.
            generator = generator.spawn(self._processes)[process]
        generators = generator.spawn(3)
        reader = self.reader = data.reader(generators[:2])
        if self._processes > 1 and isinstance(reader, ArrayReader) and reader.fixed_size is None:
            raise ValueError(
                "With several processes, each must have a multiple of `batch_size` examples: a "
                "batch drawn by importance is never smaller, and all must be of one size. "
                f"Received: {reader.size} examples, batch_size={reader.batch_size}. "
                f"Leave out {reader.size % reader.batch_size} of them."
            )
        self.scorer = scorer
        first = self.reader.first(self.reader.batch_size)
        with explained(*first[:2]):
            check_labels = build_for(model, self.reader)
        self.journal = Journal()
        self._fresh = ImportanceSampler(
            self.reader,
            scorer,
            _gate(self.reader, presample, tau_threshold),
            floor,
            generators[2],
            check_labels,
            step_power,
            score_inputs,
            self.journal,
            self.easing,
        )
        # Finds a wrong `score` before training starts.
        self._fresh.score(Examples(first, None))
        self._lookahead = Lookahead(self._fresh, model)
        self._pooled: PooledSampler | None = None
        self.within_epoch = False
        self.ends_with_a_pass = ends_with_a_pass
        self._steps_in_pass = 0

    def remember(
        self,
        memory: ExampleMemory,
        tap: Tap,
        floor: float,
        step_power: float,
        identity: Identity | None = None,
    ) -> None:
        """Draws by remembered scores from here on.

        Args:
            memory: `ExampleMemory` of as many examples as there are, or as have a number in
                `identity`.
            tap: `Tap` that will record the training steps.
            floor: float in [0, 1), the uniform share of the probabilities.
            step_power: float, as for the class.
            identity: `Identity` of the examples of a stream. Defaults to `None`, for arrays.
        """
        fresh, reader = self._fresh, self.reader
        rest = (memory, floor, fresh.generator, fresh.check_labels, step_power, self.easing)
        sampler: RememberedSampler
        if isinstance(reader, ArrayReader):
            sampler = RememberedSampler(reader, self.scorer, *rest)
        elif identity is not None:
            known = KnownReader(reader, identity)
            sampler = self._pooled = PooledSampler(known, self.scorer, *rest)
        else:
            raise TypeError("A stream is remembered by an `Identity`. Received: identity=None.")
        self.journal.tap = tap
        sampler.listen(self.journal, self._in_flight)
        self._lookahead = Lookahead(sampler, self.model)

    @property
    def _in_flight(self) -> int:
        """int, how many batches Keras requests before it trains on the first of them."""
        steps: int = self.model.steps_per_execution
        return steps + backends.active().prefetch_depth() + 1

    @property
    def batch_size(self) -> int:
        """int, the number of examples in a batch."""
        return self.reader.batch_size

    @property
    def num_batches(self) -> int:
        """int, the number of batches in an epoch."""
        return self._steps or self.reader.num_batches

    @property
    def pass_length(self) -> float:
        """The number of batches after which `fit` begins another pass; infinity if unknown."""
        if self.reader.is_open_ended and not self.is_open_ended:
            # The stream repeats.
            return self.num_batches
        return self.reader.pass_length

    @property
    def is_open_ended(self) -> bool:
        """bool, whether an epoch ends with a pass whose length nobody knows beforehand."""
        ends = self.ends_with_a_pass and backends.active().ENDS_EPOCHS
        return ends and self.reader.is_open_ended

    def goes_on(self) -> bool:
        """Whether the epoch has another step; called before each if it `is_open_ended`.

        An epoch has one step at least: where a pass has just ended, the next one begins.
        """
        steps = self._lookahead.steps
        waiting = self._lookahead.are_waiting
        goes_on = self.reader.goes_on(self._steps_in_pass + steps, waiting)
        if not goes_on and not steps:
            self._steps_in_pass = 0
            self.reader.restart()
        return goes_on or not steps

    @property
    def _steps_left(self) -> int:
        """int, the steps to come in this epoch."""
        steps = self.num_batches
        if self.ends_with_a_pass:
            steps = int(min(steps, self.pass_length - self._steps_in_pass))
        return steps - self._lookahead.steps

    @property
    def fixed_size(self) -> int | None:
        """int, how many examples every batch has, or `None` if they may differ."""
        return self.reader.fixed_size

    def next_batch(self) -> Batch:
        """Draws the next batch.

        Raises:
            ValueError: if scores are negative.
        """
        lookahead = self._lookahead
        if isinstance(lookahead.sampler, RememberedSampler) and lookahead.sampler.records_nothing:
            warnings.warn(NOT_RECORDED, stacklevel=2)
            lookahead.sampler = self._fresh
        if self._pooled is not None and self._pooled.is_over:
            self._pooled.release()
            lookahead.sampler = self._fresh
        batch = lookahead.next(self._steps_left)
        if self._processes > 1 and len(batch.importance) != self.batch_size:
            raise ValueError(
                "With several processes, all batches of a stream must have one size, or the "
                f"processes would wait for one another. Received: one of {len(batch.importance)} "
                f"examples after {self.batch_size}. Drop the last batch of an epoch."
            )
        if self._on_draw is not None:
            self._on_draw(batch)
        return batch

    def next_batches(self) -> list[Batch]:
        """Draws as many batches as can be drawn together.

        For a pipeline that calls `on_step_begin` as it trains on each of them.

        Returns:
            Batches of one length.
        """
        batches = [self.next_batch()]
        while self._lookahead.follows(batches[0]):
            batches.append(self.next_batch())
        if self.within_epoch:
            # The first is for the current step.
            self._lookahead.are_early(batches[1:])
        return batches

    def specimens(self, count: int = 1) -> list[Batch]:
        """Batches of the shapes and types of the training batches, with weights of 1.

        For a pipeline that must know these before an epoch begins; draws nothing.

        Args:
            count: int, how many; a stream with fewer batches gives those.
        """
        return [uniform_batch(self.scorer, found) for found in self.reader.specimens(count)]

    def state(self) -> State:
        """State of the permutations, draws, memory and gate, between two epochs.

        Sources that cannot be indexed by batch begin again: their position is
        not known.

        Returns:
            A dict of plain values and arrays.
        """
        state: State = {
            "reader": self.reader.state(),
            "steps_in_pass": self._steps_in_pass,
            "easing": self.easing.state(),
            **self._lookahead.sampler.state(),
        }
        if self._pooled is not None:
            state |= {"fresh": self._fresh.state(), **self._pooled.state()}
        return state

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""
        if self.ends_with_a_pass and state["steps_in_pass"]:
            warnings.warn(
                "A run with `steps_per_epoch` should go on from the end of a pass through the data "
                "to end as one that was not ended: Keras begins a pass again here. Received: "
                f"steps_per_epoch={self._steps}, of which {state['steps_in_pass']} steps of a pass "
                f"of {self.pass_length} batches are done.",
                stacklevel=2,
            )
        self.reader.restore(state["reader"])
        self.easing.restore(state["easing"])
        self._lookahead.sampler.restore(state)
        if self._pooled is not None:
            self._fresh.restore(state["fresh"])
            self._pooled.restore(state)

    def identity(self) -> State:
        """What cannot differ between two starts of one run."""
        reader = self.reader
        found: State = {"batch_size": reader.batch_size, "steps": self.num_batches}
        if isinstance(reader, ArrayReader):
            # To hash all of it would take long. A stream may augment its examples.
            first = of_arrays(reader.first(reader.batch_size))
            found |= {"examples": reader.size, "first_batch": first}
        return found

    def first(self, count: int) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
        """The first examples of the data; changes no state.

        Args:
            count: int, how many; repeated if there are fewer.

        Returns:
            A tuple `(x, y, sample_weight)` of NumPy structures.
        """
        return self.reader.first(count)

    def score_by(self, values: Values | None) -> None:
        """Called before a step with the model's values as `backends` captured them, or `None`."""
        self._lookahead.sampler.values = values

    def on_step_begin(self) -> None:
        """Called before a step; its batch may have been handed over already."""
        self._lookahead.begin_step()

    def check_processes(self, epoch: int) -> None:
        """Called before the first epoch; raises if processes would wait for one another."""
        numbers = {
            "The first epoch": epoch,
            "The step to go on from": self.journal.steps,
            "The number of steps in an epoch": self.num_batches,
            "`batch_size`": self.batch_size,
        }
        backends.active().check_agreement(numbers)

    def on_epoch_begin(self) -> None:
        """Starts an epoch, unless one has begun: Keras and our callback both call this."""
        if self.within_epoch:
            return
        self.within_epoch = True
        self._lookahead.begin_epoch()
        self.reader.begin_epoch()
        if self._steps is None:
            # A uniform epoch is one whole permutation, as in `model.fit`.
            self.reader.restart()
        self._lookahead.sampler.begin_epoch(restarts=self._steps is None)

    def on_epoch_end(self) -> None:
        """Ends the epoch, unless it has ended."""
        if self.within_epoch:
            self.within_epoch = False
            self._lookahead.end_epoch()
            self._steps_in_pass += self._lookahead.steps
            if self._steps_in_pass >= self.pass_length:
                self._steps_in_pass = 0
                if self.is_open_ended:
                    # Other backends are already in the next pass here.
                    self.reader.restart()
            self._lookahead.sampler.end_epoch()
            self.reader.end_epoch()

    def judge(self, logs: dict[str, float]) -> None:
        """Called after each epoch and its validation; decides whether the next is uniform.

        Args:
            logs: the logs of the epoch. With several processes all must call this.
        """
        losses = {"loss": float(logs["val_loss"])} if "val_loss" in logs else {}
        if not losses and any(name.startswith("val_") for name in logs):
            # The `test_step` reports no loss.
            self.easing.validates = False
        sampler = self._lookahead.sampler
        score = math.nan
        if isinstance(sampler, RememberedSampler) and sampler.memory.seen.any():
            score = float(np.nanmean(sampler.memory.score, dtype=np.float64))
        # The same decision on each process.
        found = backends.active().mean_over_processes({"score": score, **losses})
        self.easing.hear(found.get("loss"), found["score"])

    def epoch_summary(self) -> dict[str, float]:
        """What was measured in the current epoch, or the last.

        Returns:
            A dict of `tau`, `gain`, `importance` and `presample`; see `ImportanceTraining`.
            With several processes they are means over these: all must call this.
        """
        summary = {"tau": float(self._lookahead.sampler.tau), **self._lookahead.summary()}
        return backends.active().mean_over_processes(summary)

    def arrays_to_gather_from(self) -> tuple[ArrayTree, ArrayTree] | None:
        """Switches to index-only batches if the arrays may be copied.

        Returns:
            A tuple `(x, y)` of structures of NumPy arrays; or `None`, and nothing has changed.
        """
        arrays = None if self._on_draw is not None else self.reader.arrays()
        if arrays is not None:
            self._fresh.draw_by_index()
            self._lookahead.sampler.draw_by_index()
        return arrays

    def keep_on_device(self, free: int) -> None:
        """Keeps `x` and `y` on the accelerator if they fit into an eighth of `free` bytes."""
        # Callbacks that get batches expect NumPy arrays.
        if self._on_draw is None:
            self.reader.keep_on_device(free)

    def close(self) -> None:
        """Stops the stream's workers and frees copies on a device, if there are any."""
        self.reader.close()


def _gate(
    reader: ArrayReader | StreamReader,
    presample: float | Literal["auto"],
    tau_threshold: float | None,
) -> Gate:
    if isinstance(presample, str):
        ratios = tuple(ratio for ratio in RATIOS if ratio <= reader.largest_ratio)
        return CostGate(ratios, COST_RATIO)
    size = reader.presample_size(presample)
    return PublishedGate(size, reader.batch_size, tau_threshold)
