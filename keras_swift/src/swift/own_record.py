"""Draws by the record that the training itself makes: no other training comes first.

This file decides when the sampler begins to draw, and by which features it ranks the examples in
each epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray, IntArray, Logs, State
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import ArrayExamples, Examples
from keras_swift.src.records.given_targets import StoredTargets, StoredTargetsState
from keras_swift.src.records.outputs import classes_of
from keras_swift.src.records.recorder import recording
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.feature_table import (
    IN_CLASS,
    rank_in_class,
    recorded_column,
)
from keras_swift.src.swift.features import FeatureScorer, features_of, score_all
from keras_swift.src.swift.pooled import PooledDataset, RecordedStream
from keras_swift.src.swift.probabilities import Probabilities
from keras_swift.src.swift.ranks import GRADIENT_NORM

# The share of the epochs of the first `fit` that is uniform.
WARMUP = 1.0 / 3.0


@dataclasses.dataclass(frozen=True)
class OwnRecordState(SavedState):
    """The state of an `OwnRecord`.

    Attributes:
        epochs: int, how many epochs were recorded.
        warmup: int, how many epochs are uniform.
        record: the state of the record.
        stored: `StoredTargetsState` of a stream; `None` for arrays.
    """

    epochs: int
    warmup: int
    record: Any
    stored: StoredTargetsState | None


class OwnRecord:
    """A training record that drives that training's sampling; it outlives calls of `fit`.

    Args:
        model: a built, compiled `keras.Model`.
        data: `ArraySource` of the data, or `StreamReader`.
        batch_size: int.
        epochs: int, of the first `fit`.
        warmup: int, how many epochs are uniform, or `None` for a share of them.
        wanted: the names of the features; all but the gradient norm come from a record.

    Raises:
        ValueError: for features that do not suit the model.
    """

    def __init__(
        self,
        model: keras.Model,
        data: ArraySource | StreamReader,
        batch_size: int,
        epochs: int,
        warmup: int | None,
        wanted: Sequence[str],
    ) -> None:
        self._model = model
        self.stream: RecordedStream | None = None
        self.examples: Examples
        if isinstance(data, StreamReader):
            self.stream = RecordedStream(model, data)
            # A stream is represented by its first batch.
            self._source, self.examples = self.stream.first, self.stream.examples
        else:
            self._source, self.examples = data, ArrayExamples(data)
        self._batch_size = batch_size
        self._wanted = tuple(wanted)
        self.recorder = recording(
            model, self.examples, batch_size, epochs, gradient_norms=GRADIENT_NORM in wanted
        )
        self.warmup = max(1, math.ceil(WARMUP * epochs)) if warmup is None else warmup
        self._epochs = 0
        self._check_features()

    def uniform_epochs(self) -> int:
        """How many epochs of the warm-up are to come."""
        return max(0, self.warmup - self._epochs)

    def check_epochs(self, epochs: int) -> None:
        """Raises if a training of so many epochs leaves none after the warm-up."""
        if epochs <= self.uniform_epochs():
            raise ValueError(
                "`epochs` must leave some for the sampler, which draws after a warm-up. Received: "
                f"{epochs} epochs, of which the warm-up takes {self.uniform_epochs()}. Train "
                "longer, set `warmup`, or give `features` of another training, such as "
                "`find_suspects(...).record` has."
            )

    def columns(self) -> dict[str, FloatArray]:
        """The features from the record so far."""
        return {name: self._column(name) for name in self._wanted}

    def _column(self, name: str) -> FloatArray:
        if name == GRADIENT_NORM and not self.recorder.has_gradient_norms:
            # The record is made by forward passes, which do not record gradient norms.
            return self._gradient_norms()
        record, base = self.recorder.record, name.removesuffix(IN_CLASS)
        column = (
            np.array(record.score, np.float64)
            if name == GRADIENT_NORM
            else recorded_column(record, base)
        )
        if not record.seen.all():
            # Examples that were never drawn get the mean, neither avoided nor preferred.
            column[~record.seen] = column[record.seen].mean()
        return column if base == name else rank_in_class(column, self._classes())

    def _classes(self) -> IntArray:
        if self.stream is None or self.stream.stored is None:
            return cast(IntArray, classes_of(self._source.y))
        classes: IntArray = self.stream.stored.given().labels[0]
        return classes

    def _gradient_norms(self) -> FloatArray:
        named = {GRADIENT_NORM: GRADIENT_NORM}
        if self.stream is None:
            found = features_of(self._model, self._source, named, batch_size=self._batch_size)
            return found[GRADIENT_NORM]
        scorer = FeatureScorer(self._model, named, *self._source.specimen())
        norms = score_all(scorer, self.examples, self._batch_size)[GRADIENT_NORM]
        # Examples that a stream did not give again get the mean.
        return np.where(np.isnan(norms), np.nanmean(norms), norms)

    def end_epoch(self) -> None:
        """Called when an epoch has been recorded."""
        self._epochs += 1

    def state(self) -> OwnRecordState:
        """State for `restore`."""
        return OwnRecordState(
            epochs=self._epochs,
            warmup=self.warmup,
            record=self.recorder.record.state(),
            stored=None if self._stored is None else self._stored.state(),
        )

    @property
    def _stored(self) -> StoredTargets | None:
        return None if self.stream is None else self.stream.stored

    def restore(self, state: OwnRecordState) -> None:
        self._epochs, self.warmup = state.epochs, state.warmup
        self.recorder.record.restore(state.record)
        if self._stored is not None and state.stored is not None:
            self._stored.restore(state.stored)

    def _check_features(self) -> None:
        """Raises, before training, for features that would fail after the warm-up."""
        nothing = np.full(self._source.size, np.nan)
        numbers = np.zeros(self._source.size)
        labels = numbers if self.recorder.has_labels else nothing
        made_up = FinishedRecord(numbers, labels, numbers, labels, labels, labels)
        named = {n: n for n in self._wanted if n != GRADIENT_NORM}
        features_of(self._model, self._source, named, made_up, self._batch_size)


class RankAnew(keras.callbacks.Callback):
    """Makes a dataset draw by the record so far, at the beginning of each epoch after the warm-up.

    It counts the epochs that are recorded, so it is placed after the recorder.

    Args:
        dataset: `DrawnDataset` or `PooledDataset`.
        own: `OwnRecord`.
        by: `Probabilities`.
    """

    def __init__(
        self, dataset: DrawnDataset | PooledDataset, own: OwnRecord, by: Probabilities
    ) -> None:
        super().__init__()
        self._dataset = dataset
        self._own = own
        self._by = by

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self._own.uniform_epochs():
            self._dataset.draw_by(self._by.of_columns(self._own.columns()))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._own.end_epoch()


@dataclasses.dataclass(frozen=True)
class RecordedPlaceState(SavedState):
    """The states of the draws, a `DrawsState` or `PooledDrawsState`, and of the record."""

    dataset: Any
    own: OwnRecordState


@dataclasses.dataclass(frozen=True)
class RecordedPlace:
    """What a resumed run needs: the draws' seed and the record."""

    dataset: DrawnDataset | PooledDataset
    own: OwnRecord

    @property
    def journal(self) -> Journal:
        """The journal of what the steps record."""
        return self.own.recorder.journal

    def identity(self) -> State:
        """What must be the same when a run is resumed."""
        return self.dataset.identity()

    def state(self) -> RecordedPlaceState:
        return RecordedPlaceState(self.dataset.state(), self.own.state())

    def restore(self, state: RecordedPlaceState) -> None:
        self.dataset.restore(state.dataset)
        self.own.restore(state.own)
