"""Makes the record of a training.

This file decides how: from the training's own steps, or by forward passes where steps cannot be
recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import own_methods
from keras_swift.src._types import ArrayTree, FloatArray, IntArray, Logs
from keras_swift.src.backends.base import Tap
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.fitting.own_step import OwnStep
from keras_swift.src.records.examples import ArrayExamples, Examples
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.outputs import LabelScorer, combined
from keras_swift.src.records.target_record import TargetRecord
from keras_swift.src.records.targets import TargetOutput

# The cost of a forward pass over the data in epochs of training, which have a backward pass too.
FORWARD_COST = 1.0 / 3.0
# The most forward passes in a training: more of them hardly change the means over it.
LOOKS = 16
# How many times as large the batches of a forward pass are: it keeps no activations.
LARGER_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where a loss was first not finite.

    Attributes:
        epoch: int, from 1.
        step: int, from 1, the step of that epoch; `None` if it was seen at the epoch's end.
        index: int, the example.
    """

    epoch: int
    step: int | None
    index: int


class Drawn(Protocol):
    """A data set that knows which examples it handed out, in order.

    Attributes:
        most_unread: int, how many examples there may be between two readings of the steps.
        reads_after: int, after how many examples the steps are read within an epoch; `None` to read
            them only at its end.
    """

    @property
    def most_unread(self) -> int: ...

    @property
    def reads_after(self) -> int | None: ...

    def start_epoch(self, epoch: int) -> None:
        """Begins this epoch, unless it has begun."""

    def drawn(self, epoch: int) -> list[IntArray]:
        """The examples of each batch handed out in this epoch, the current or the previous one."""


class RecordingCallback(keras.callbacks.Callback):
    """Records examples as they are trained on, or all of them by a forward pass after an epoch.

    Args:
        examples: `Examples` that are trained on.
        scorer: `LabelScorer` of the model in training.
        batch_size: int, of training.
        every: int, epochs from one forward pass to the next; the first is after the first epoch.
        step: `RecordedStep` of the model, or `None` for forward passes.

    Attributes:
        record: `ExampleMemory` so far, with averages. Its score is the gradient norm if that is
            recorded, else the loss.
        targets: `TargetRecord` of the scorer's targets, or `None` if it has none.
        cost: float, of the forward passes so far, in epochs of training.
        diverged: `Divergence`, the first loss that was not finite, or `None`.
    """

    def __init__(
        self,
        examples: Examples,
        scorer: LabelScorer,
        batch_size: int,
        every: int,
        step: RecordedStep | None = None,
    ) -> None:
        super().__init__()
        self._every = every
        self.record = ExampleMemory(examples.size, averages=True)
        self.targets = TargetRecord(scorer.targets, examples.size) if scorer.targets else None
        self.cost = 0.0
        self.journal = Journal()
        self.diverged: Divergence | None = None
        self._epoch = 0
        self._examples = examples
        self._scorer = scorer
        self._batch_size = LARGER_BATCH * batch_size
        self._step = step
        self._dataset: Drawn | None = None
        # How many steps of the epoch have been read.
        self._read_steps = 0

    @property
    def has_labels(self) -> bool:
        """bool, whether margins and probabilities are recorded."""
        return self._scorer.labels is not None

    @property
    def has_gradient_norms(self) -> bool:
        """bool, whether gradient norms are recorded: only steps compute them."""
        return self._step is not None and self._scorer.gradient_norms

    @contextlib.contextmanager
    def listening(self, dataset: Drawn) -> Iterator[None]:
        """A context for `model.fit(dataset, callbacks=[self])`; restores the model at its end."""
        self._dataset = dataset
        with contextlib.ExitStack() as stack:
            if self._step is not None:
                self.journal = Journal()
                self.journal.tap = stack.enter_context(self._step.entered(dataset.most_unread))
            yield

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch, self._read_steps = epoch, 0
        if self._dataset is not None:
            self._dataset.start_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        dataset = self._dataset
        if self._step is None or dataset is None or dataset.reads_after is None:
            return
        taken = dataset.drawn(self._epoch)[self._read_steps : batch + 1]
        if sum(map(len, taken)) >= dataset.reads_after:
            self._read(taken)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._step is not None and self._dataset is not None:
            self._read(self._dataset.drawn(epoch)[self._read_steps :], ends=True)
        if self._step is None and epoch % self._every == 0:
            self.record_all()

    def record_all(self) -> None:
        """Records every example with the model's current weights."""
        size = min(max(self._examples.size, 1), self._batch_size)
        found = False
        for indices, x, y in self._examples.chunks(size):
            found = True
            scores = {k: v[: len(indices)] for k, v in self._scorer(x, y).items()}
            loss = np.asarray(scores["loss"], np.float64)
            labels = self._scorer.labels
            numbers: list[FloatArray] = [loss, loss]
            if labels is not None:
                weights = [label.output.weight for label in labels]
                numbers += [combined(scores, name, weights) for name in ("margin", "probability")]
            self._add([indices], np.stack(numbers, axis=1))
            if self.targets is not None:
                self.targets.add(indices, scores["targets"])
        if not found:
            raise ValueError(
                "`x` must be data that can be read again, because the model's steps cannot be "
                "recorded, and forward passes make the record. Received: a source that can be read "
                "once. Pass arrays, a `PyDataset` or a `tf.data.Dataset`."
            )
        self.cost += FORWARD_COST

    def _read(self, drawn: list[IntArray], ends: bool = False) -> None:
        """Reads what the steps on these batches recorded; if they did not, uses forward passes.

        Args:
            drawn: list of int arrays, the examples of each batch.
            ends: bool, whether a callback may have ended the epoch before the last of them.
        """
        rows, size = self.journal.rows(), sum(map(len, drawn))
        stopped = ends and self.model.stop_training and len(rows) + self._read_steps > 0
        if len(rows) != size and not stopped:
            self._step = self.journal.tap = None
            warnings.warn(
                "The model's `train_step` must call `compute_loss` once for each batch, with its "
                f"targets and outputs, to be recorded. Received: {len(rows)} losses for {size} "
                f"examples. {_UNTIL_THEN}",
                stacklevel=2,
            )
            return
        columns = 4 if self.has_labels else 2
        self._add(drawn, rows[:, :columns])
        if self.targets is not None and len(rows):
            self.targets.add(np.concatenate(drawn)[: len(rows)], rows[:, columns:])
        self._read_steps += len(drawn)

    def _add(self, batches: list[IntArray], numbers: FloatArray) -> None:
        """Adds rows to the record.

        Args:
            batches: list of int arrays, the examples of each batch.
            numbers: float array, a row for each example, or for the first ones if training stopped,
                as `ExampleMemory.record` takes them.
        """
        if not len(numbers):
            return
        indices = np.concatenate(batches)[: len(numbers)]
        finite = np.isfinite(numbers[:, 1])
        if self.diverged is None and not finite.all():
            place = int(np.argmin(finite))
            ends = np.cumsum([len(batch) for batch in batches])
            step = int(np.searchsorted(ends, place, side="right")) + self._read_steps + 1
            self.diverged = Divergence(
                self._epoch + 1, None if self._step is None else step, int(indices[place])
            )
        # A stream may have yielded new examples since the last rows.
        size = max(len(self.record), self._examples.size)
        self.record.resize(size)
        if self.targets is not None:
            self.targets.resize(size)
        self.record.record(indices, numbers)


class RecordedStep:
    """Records the numbers of the examples that a model's steps train on, in step order.

    Args:
        model: a compiled, built `keras.Model`.
        scorer: its `LabelScorer`.
    """

    def __init__(self, model: keras.Model, scorer: LabelScorer) -> None:
        self._own = OwnStep(model)
        self._scorer = scorer
        # Whether this thread is in a training step: validation computes losses too.
        self._inside = threading.local()

    @contextlib.contextmanager
    def entered(self, rows: int) -> Iterator[Tap]:
        """A context in which `model.fit` is recorded; restores the model at its end.

        Args:
            rows: int, how many examples there may be between two readings.

        Yields:
            The `Tap` of the scorer's `columns` numbers for each example.
        """
        tap = self._own.record(self._scorer.columns, rows)
        with self._own.entered(self._train_step, self._inputs, self._scorer.of_outputs):
            yield tap

    def _train_step(self, *arguments: Any) -> Any:
        self._inside.step = True
        try:
            return self._own.replaced(*arguments)
        finally:
            self._inside.step = False

    def _inputs(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ...] | None:
        # A `train_step` of the model's own may compute losses of other outputs.
        inside = getattr(self._inside, "step", False) and self._scorer.fits(y, y_pred)
        return (y, y_pred) if inside else None


_UNTIL_THEN = "Until then the record is made by forward passes over the data."


def recording(
    model: keras.Model,
    source: ArraySource | Examples,
    batch_size: int,
    epochs: int,
    gradient_norms: bool = False,
    targets: Sequence[TargetOutput] = (),
) -> RecordingCallback:
    """A recorder for a training run: enter its `listening`, and pass it to `fit` as a callback.

    Args:
        model: a built, compiled `keras.Model`.
        source: `ArraySource` of the data it is trained on, or `Examples`.
        batch_size: int.
        epochs: int, of the training; 0 for a trained model, whose record is one forward pass.
        gradient_norms: bool, whether the steps record them too. Defaults to `False`.
        targets: sequence of `TargetOutput`, each of whose targets is recorded too. Defaults to
            none.
    """
    examples = ArrayExamples(source) if isinstance(source, ArraySource) else source
    scorer = LabelScorer(model, *examples.specimen(), gradient_norms, targets=targets)
    obstacle = backends.active().tap_obstacle(model)
    if obstacle and epochs:
        warnings.warn(f"{obstacle} {_UNTIL_THEN}", stacklevel=3)
    step = RecordedStep(model, scorer) if epochs and obstacle is None else None
    return RecordingCallback(examples, scorer, batch_size, _looks_every(epochs), step)


def record_cost(model: keras.Model, epochs: int) -> float:
    """The most that the record of a training can cost, in epochs of training."""
    # Whether a `train_step` of the model's own can be recorded shows only when it runs.
    if backends.active().tap_obstacle(model) is None and "train_step" not in own_methods(model):
        return 0.0
    return -(-epochs // _looks_every(epochs)) * FORWARD_COST


def _looks_every(epochs: int) -> int:
    return max(1, -(-epochs // LOOKS))
