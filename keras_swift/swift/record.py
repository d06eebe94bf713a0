"""Records each example's loss and margin, epoch by epoch, for the features from training.

This file decides how a training is recorded. A snapshot of a trained network says little about
wrong labels, because it has memorised them; the course of its training says much.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import keras
import numpy as np

from keras_swift._types import FloatArray, IntArray, Logs
from keras_swift.data.arrays import ArraySource
from keras_swift.swift.outputs import LabelScorer, combined

# The cost of a forward pass over the data in epochs of training, which have a backward pass too.
FORWARD_COST = 1.0 / 3.0
# More records of a training hardly change the means over it.
LOOKS = 16
# A forward pass keeps no activations for a backward pass, so it takes more examples at a time.
LARGER_BATCH = 4


class TrainingRecord(Protocol):
    """The read interface of a record: arrays of shape `(n,)`, NaN for examples never seen.

    Attributes:
        loss, margin: as last seen.
        mean_loss, mean_margin, share_wrong, mean_probability: means over all
            times an example was seen. The margin is the probability of the
            label minus the largest of any other class; wrong is a margin
            below 0.
    """

    @property
    def loss(self) -> FloatArray: ...

    @property
    def margin(self) -> FloatArray: ...

    @property
    def mean_loss(self) -> FloatArray: ...

    @property
    def mean_margin(self) -> FloatArray: ...

    @property
    def share_wrong(self) -> FloatArray: ...

    @property
    def mean_probability(self) -> FloatArray: ...


class ExampleRecord:
    """A `TrainingRecord` filled from arrays of losses, margins and probabilities.

    Args:
        size: int, how many examples there are.
    """

    def __init__(self, size: int) -> None:
        self.loss = np.full(size, np.nan)
        self.margin = np.full(size, np.nan)
        self._seen = np.zeros(size)
        self._sums = {name: np.zeros(size) for name in ("loss", "margin", "wrong", "probability")}

    def add(
        self, indices: IntArray, loss: FloatArray, margin: FloatArray, probability: FloatArray
    ) -> None:
        """Adds one record of some examples, each at most once.

        Args:
            indices: int array, shape `(k,)`.
            loss, margin, probability: float arrays, shape `(k,)`; NaN margins
                and probabilities for models that are not classifiers.
        """
        self.loss[indices] = loss
        self.margin[indices] = margin
        self._seen[indices] += 1
        self._sums["loss"][indices] += loss
        self._sums["margin"][indices] += margin
        self._sums["probability"][indices] += probability
        self._sums["wrong"][indices] += np.where(np.isnan(margin), np.nan, margin < 0)

    @property
    def mean_loss(self) -> FloatArray:
        return self._mean("loss")

    @property
    def mean_margin(self) -> FloatArray:
        return self._mean("margin")

    @property
    def share_wrong(self) -> FloatArray:
        return self._mean("wrong")

    @property
    def mean_probability(self) -> FloatArray:
        return self._mean("probability")

    def _mean(self, name: str) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sums[name] / self._seen


class RecordingCallback(keras.callbacks.Callback):
    """Records every example at the ends of epochs, by a forward pass over the data.

    Args:
        source: `ArraySource`.
        scorer: `LabelScorer` of the model in training.
        batch_size: int, of training.
        every: int, epochs from one record to the next; the first epoch is recorded.

    Attributes:
        record: the `ExampleRecord` so far.
        cost: float, in epochs of training.
    """

    def __init__(
        self, source: ArraySource, scorer: LabelScorer, batch_size: int, every: int
    ) -> None:
        super().__init__()
        self._every = every
        self.record = ExampleRecord(source.size)
        self.cost = 0.0
        self._source = source
        self._scorer = scorer
        self._batch_size = min(source.size, LARGER_BATCH * batch_size)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if epoch % self._every == 0:
            self.look()

    def look(self) -> None:
        """Records every example with the model's current weights."""
        size, batch_size = self._source.size, self._batch_size
        for start in range(0, size, batch_size):
            indices = np.arange(start, min(start + batch_size, size))
            # The last batch is padded, so that all batches have one compiled shape.
            x, y, _ = self._source.take(np.minimum(np.arange(start, start + batch_size), size - 1))
            scores = {k: v[: len(indices)] for k, v in self._scorer(x, y).items()}
            nothing = np.full(len(indices), np.nan)
            labels = self._scorer.labels
            if labels is None:
                margin, probability = nothing, nothing
            else:
                weights = [label.output.weight for label in labels]
                margin = combined(scores, "margin", weights)
                probability = combined(scores, "probability", weights)
            loss = np.asarray(scores["loss"], np.float64)
            self.record.add(indices, loss, margin, probability)
        self.cost += FORWARD_COST


def recording(
    model: keras.Model, source: ArraySource, batch_size: int, epochs: int
) -> tuple[RecordingCallback, list[keras.callbacks.Callback]]:
    """A recorder for a training run, and the callbacks to pass to `fit` for it.

    The only place that decides how a record is made.

    Args:
        model: a built, compiled `keras.Model`.
        source: `ArraySource` of the data it is trained on.
        batch_size: int.
        epochs: int, of the training.
    """
    scorer = LabelScorer(model, *source.take(np.zeros(1, np.int64))[:2])
    recorder = RecordingCallback(source, scorer, batch_size, _looks_every(epochs))
    return recorder, [recorder]


_NAMES = ("loss", "margin", "mean_loss", "mean_margin", "share_wrong", "mean_probability")


@dataclasses.dataclass(frozen=True)
class FinishedRecord:
    """A `TrainingRecord` that is complete: plain float64 arrays, shape `(n,)`."""

    loss: FloatArray
    margin: FloatArray
    mean_loss: FloatArray
    mean_margin: FloatArray
    share_wrong: FloatArray
    mean_probability: FloatArray

    @classmethod
    def of(cls, record: TrainingRecord) -> FinishedRecord:
        """The arrays of any record, copied."""
        return cls(**{name: np.array(getattr(record, name), np.float64) for name in _NAMES})

    def columns(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _NAMES}


def record_cost(epochs: int) -> float:
    """The cost of the record of a training, in epochs of training."""
    return -(-epochs // _looks_every(epochs)) * FORWARD_COST


def _looks_every(epochs: int) -> int:
    return max(1, -(-epochs // LOOKS))
