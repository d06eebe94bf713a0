"""What Keras reads in training: batches drawn in step with it, and their state.

This file decides which sampler draws the next batch, and what an item holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._state import SavedState
from keras_swift.src._types import ArrayTree, State
from keras_swift.src.data.fingerprint import of_arrays
from keras_swift.src.data.reader import Reader, ReaderState
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.fitting.run import StepBarrier
from keras_swift.src.importance.batch import Batch, Sampler
from keras_swift.src.importance.easing import Easing, EasingState
from keras_swift.src.importance.epoch_steps import EpochSteps
from keras_swift.src.importance.presampling import (
    ImportanceSampler,
    PresamplingState,
    uniform_batch,
)

# Arrays up to this size are copied for a backend that gathers rows itself, as `model.fit` does
# with arrays of any size.
COPIED_BYTES = 2**30
# The largest share of an accelerator's free memory that copies may take.
FREE_SHARE = 1 / 8


@dataclasses.dataclass(frozen=True)
class FeedState(SavedState):
    """The state of a `Feed`.

    Attributes:
        reader: `ReaderState`.
        steps_in_pass: int, how many steps of the current pass were taken.
        easing: `EasingState`.
        fresh: `PresamplingState`.
        remembered: the state of the sampler by remembered scores, or `None`.
        remembers: bool, whether the sampler by remembered scores is the one that draws.
    """

    reader: ReaderState
    steps_in_pass: int
    easing: EasingState
    fresh: PresamplingState
    remembered: Any
    remembers: bool


class Feed(keras.utils.PyDataset):
    """The batches of a training run, epoch after epoch.

    Items are `(x, y, weights)`, where `weights` is the dict that a `WeightedStep` takes. Outside an
    epoch an item shows the first examples, and changes no state.

    Args:
        model: `keras.Model` in training.
        reader: `Reader` of the data.
        fresh: `ImportanceSampler`, which draws until another sampler does.
        steps: `EpochSteps`.
        journal: `Journal` of what the model tells the samplers.
        easing: `Easing`.
        on_draw: callable that gets every `Batch` before it is trained on, or `None`.
        scales_rate: bool, whether items carry the factor of the learning rate.

    Attributes:
        model, reader, steps, journal, easing: as above.
        sampler: the `Sampler` that draws at present.
        barrier: `StepBarrier` that items wait for, or `None`.
        error: the last exception, or `None`.
    """

    def __init__(
        self,
        model: keras.Model,
        reader: Reader,
        fresh: ImportanceSampler,
        steps: EpochSteps,
        journal: Journal,
        easing: Easing,
        on_draw: Callable[[Batch], None] | None = None,
        scales_rate: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.reader = reader
        self.form = reader.form
        self.steps = steps
        self.journal = journal
        self.easing = easing
        self.fresh = fresh
        self.sampler: Sampler = fresh
        # The sampler by remembered scores, kept for its state even after it is over.
        self._remembered: Sampler | None = None
        self._on_draw = on_draw
        self._scales_rate = scales_rate
        self._processes = backends.active().process()[1]
        self.barrier: StepBarrier | None = None
        self.error: Exception | None = None

    def draw_by(self, sampler: Sampler) -> None:
        """Has `sampler` draw from here on, until it is over."""
        self.sampler = self._remembered = sampler

    @property
    def num_batches(self) -> int:
        steps = self.steps
        if steps.ends_with_a_pass and not steps.is_open_ended:
            # Keras splits a pass into epochs itself.
            return int(steps.pass_length)
        return steps.in_epoch

    @property
    def is_open_ended(self) -> bool:
        """bool, whether `goes_on` tells before each item if there is one."""
        return self.steps.is_open_ended

    def goes_on(self) -> bool:
        """Whether the epoch has another item."""
        with self._keeping_errors():
            return self.steps.goes_on()

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        with self._keeping_errors():
            if not self.steps.within_epoch:
                return self.specimens(1)[0]
            if self.barrier is not None:
                self.barrier.wait(index)
            return self._packed(self.next_batch())

    def next_batch(self) -> Batch:
        """Draws the next batch.

        Raises:
            ValueError: if scores are negative.
        """
        if self.sampler.is_over:
            self.sampler.retire()
            self.sampler = self.fresh
        batch = self.steps.next_batch(self.sampler)
        size = self.reader.batch_size
        if self._processes > 1 and len(batch.importance) != size:
            raise ValueError(
                "With several processes, all batches of a stream must have one size, or the "
                f"processes would wait for one another. Received: one of {len(batch.importance)} "
                f"examples after {size}. Drop the last batch of an epoch."
            )
        if self._on_draw is not None:
            self._on_draw(batch)
        return batch

    def next_batches(self) -> list[tuple[Any, dict[str, Any]]]:
        """The batches that can be drawn together, as `(indices, weights)` pairs of one length.

        All but the first are for later steps, which `EpochSteps.begin_step` announces: the
        callback calls it.
        """
        with self._keeping_errors():
            if not self.steps.within_epoch:
                drawn = self.uniform_specimens(1)
            else:
                drawn = [self.next_batch()]
                while self.steps.follows(drawn[0]):
                    drawn.append(self.next_batch())
                # The first is for the step that has begun.
                self.steps.are_early(drawn[1:])
            return [(batch.indices, self._packed(batch)[2]) for batch in drawn]

    def specimens(self, count: int) -> list[tuple[Any, Any, Any]]:
        """Up to `count` items of the shapes and types of training; draws nothing.

        There are fewer at the end of a generator.
        """
        return [self._packed(batch) for batch in self.uniform_specimens(count)]

    def uniform_specimens(self, count: int) -> list[Batch]:
        """Up to `count` batches of the shapes of training, with importance weights of 1."""
        return [uniform_batch(self.fresh.scorer, found) for found in self.reader.specimens(count)]

    def arrays_to_gather_from(self) -> tuple[ArrayTree, ArrayTree] | None:
        """Switches to index-only batches if the arrays may be copied.

        Returns:
            A tuple `(x, y)` of structures of NumPy arrays: then `next_batches` is to be called in
            place of items. `None` if nothing has changed.
        """
        source = self.reader.source
        if source is None or self._on_draw is not None or self.barrier is not None:
            return None
        arrays = source.arrays(COPIED_BYTES)
        if arrays is not None:
            self.fresh.draw_by_index()
            self.sampler.draw_by_index()
        return arrays

    def keep_on_device(self, free: int) -> None:
        """Keeps `x` and `y` on the accelerator unless they take too many bytes.

        Args:
            free: int, the accelerator's free bytes, of which at most an eighth, and never more than
                `COPIED_BYTES`, is used.
        """
        # Callbacks that get batches expect NumPy arrays.
        if self._on_draw is None and self.reader.source is not None:
            self.reader.source.keep_on_device(min(COPIED_BYTES, int(FREE_SHARE * free)))

    def begin_epoch(self) -> None:
        """Begins an epoch, unless one has begun: Keras and our callback may both call this."""
        if self.steps.within_epoch:
            return
        self.steps.begin_epoch()
        self.reader.begin_epoch()
        if self.steps.is_pass:
            # A uniform epoch is one whole permutation, as in `model.fit`.
            self.reader.restart()
        self.sampler.begin_epoch(restarts=self.steps.is_pass)

    def end_epoch(self) -> None:
        """Ends the epoch, unless it has ended."""
        if self.steps.within_epoch:
            self.steps.end_epoch(self.sampler)
            self.sampler.end_epoch()
            self.reader.end_epoch()

    def epoch_summary(self) -> dict[str, float]:
        """What was measured in the current epoch or, between two, in the last one.

        Returns:
            A dict of `tau`, `gain`, `importance` and `presample`; see `ImportanceTraining`.
            With several processes they are means over all of them, and all must call this.
        """
        summary = {"tau": float(self.sampler.tau), **self.steps.summary()}
        return backends.active().mean_over_processes(summary)

    def state(self) -> FeedState:
        """State of the permutations, draws, memory and gate, between two epochs.

        Without the position in a source that cannot be indexed by batch, which
        is not known: it is read from its beginning after `restore`.
        """
        return FeedState(
            reader=self.reader.state(),
            steps_in_pass=self.steps.in_pass,
            easing=self.easing.state(),
            fresh=self.fresh.state(),
            remembered=None if self._remembered is None else self._remembered.state(),
            remembers=self.sampler is self._remembered,
        )

    def restore(self, state: FeedState) -> None:
        """Restores what `state` returned."""
        if self.steps.ends_with_a_pass and state.steps_in_pass:
            warnings.warn(
                "A run with `steps_per_epoch` should go on from the end of a pass through the data "
                "to end as one that was not ended: Keras begins a pass again here. Received: "
                f"steps_per_epoch={self.steps.in_epoch}, of which {state.steps_in_pass} steps "
                f"of a pass of {self.steps.pass_length} batches are done.",
                stacklevel=2,
            )
        self.reader.restore(state.reader)
        self.easing.restore(state.easing)
        self.fresh.restore(state.fresh)
        if self._remembered is not None:
            self._remembered.restore(state.remembered)
            self.sampler = self._remembered if state.remembers else self.fresh

    def identity(self) -> State:
        """What must be the same when a run is resumed, as a dict of plain values."""
        reader = self.reader
        found: State = {"batch_size": reader.batch_size, "steps": self.steps.in_epoch}
        if reader.source is not None:
            # Hashing all of it would take long. A stream has no hash: it may augment its examples.
            first = of_arrays(reader.first(reader.batch_size))
            found |= {"examples": reader.source.size, "first_batch": first}
        return found

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def _packed(self, batch: Batch) -> tuple[Any, Any, Any]:
        weights = {"importance": batch.importance}
        if self._scales_rate:
            # In one array, as a second one costs a twentieth of a small step. All arrays of a batch
            # must have its length, so each example has the factor.
            both = np.empty((len(batch.importance), 2), np.float32)
            both[:, 0], both[:, 1] = batch.importance, batch.rate_scale
            weights = {"importance_and_rate": both}
        own = batch.sample_weight
        is_vector = getattr(batch.weights, "ndim", 0) == 1
        if own is not None or not is_vector or self.fresh.scorer.has_masks:
            weights["weights"] = batch.weights
        if own is not None:
            weights["sample_weight"] = own
        return batch.x, batch.y, weights
