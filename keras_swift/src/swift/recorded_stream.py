"""A stream whose training is recorded: which examples it has, and what their targets are."""

from __future__ import annotations

import keras

from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.examples import StreamExamples
from keras_swift.src.records.given_targets import StoredTargets
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known_reader import Known
from keras_swift.src.records.targets import target_outputs
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.suspects.of_record import check_are_numbers, has_one_label
from keras_swift.src.swift.pooled import PooledDataset


class RecordedStream:
    """What is known of the examples of a stream; it outlives a call of `fit`.

    Args:
        model: a compiled `keras.Model`; built if it is not.
        stream: `StreamReader`.
        stores_all: bool, whether targets of every kind are stored. Defaults to `False`: only
            labels, if each example has one.

    Attributes:
        losses: `CompiledLosses` of the model.
        outputs: tuple of `TargetOutput`.
        first: `ArraySource` of its first batch.
        identity: `Identity` of its examples.
        stored: `StoredTargets` of the examples that were read, or `None`.
        examples: `StreamExamples`.

    Raises:
        ValueError: for a first batch that does not fit the model.
    """

    def __init__(self, model: keras.Model, stream: StreamReader, stores_all: bool = False) -> None:
        first = stream.first(stream.batch_size)
        check_are_numbers(first[1])
        self.first = ArraySource(*first)
        self.losses = check_examples(model, self.first, stream.batch_size)
        self.outputs = target_outputs(model, self.losses)
        self.identity = Identity(stream)
        self.stored: StoredTargets | None = None
        if stores_all or has_one_label(self.outputs):
            self.stored = StoredTargets(self.outputs, self.losses)
        self.examples = StreamExamples(
            stream.stream, first, self.identity, stream.class_weight, self.stored
        )
        losses = self.losses
        self._check_labels = label_check(losses.y_pred, losses.outputs, losses.matching)

    def dataset(
        self, stream: StreamReader, seed: int, restarts: bool = True, first_epoch: int = 0
    ) -> PooledDataset:
        """A data set whose batches are checked, and whose examples must come back.

        Args:
            stream: `StreamReader` of the same source.
            seed, restarts, first_epoch: as for `PooledDataset`.
        """
        return PooledDataset(
            stream,
            self.identity,
            seed,
            on_read=self._on_read,
            must_come_back=True,
            restarts=restarts,
            first_epoch=first_epoch,
        )

    def _on_read(self, batch: Known) -> None:
        self._check_labels(batch.data[1])
        if self.stored is not None:
            self.stored.add_batch(batch)
