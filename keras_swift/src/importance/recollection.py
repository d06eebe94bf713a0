"""What a trainer remembers of its examples from one `fit` to the next, and of which source."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src.data.arrays import SPECIMEN
from keras_swift.src.data.reader import Reader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.importance.gates import RealisedGain
from keras_swift.src.records.examples import ArrayExamples, Examples, StreamExamples
from keras_swift.src.records.given_targets import StoredTargets
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.targets import target_outputs
from keras_swift.src.scoring.compiled import build
from keras_swift.src.suspects.of_record import has_one_label


def are_known_again(reader: Reader) -> bool:
    """Whether examples can be recognised: those of arrays and, in one process, of streams."""
    return reader.source is not None or backends.active().process()[1] == 1


class Recollection:
    """The memory of the examples of one source.

    Attributes:
        kept: `ExampleMemory`, of arrays by index, of a stream in the order in which examples were
            first read; `None` if nothing is remembered.
        identity: `Identity` of the examples of a stream; `None` for arrays.
        stored: `StoredTargets` of a stream whose examples have one label each, else `None`.
        gain: `RealisedGain` of the trainings on them.
    """

    def __init__(self) -> None:
        self.kept: ExampleMemory | None = None
        self.identity: Identity | None = None
        self.stored: StoredTargets | None = None
        self.gain = RealisedGain()
        self._source: Any = None
        self._examples: Examples | None = None

    @property
    def memory(self) -> ExampleMemory | None:
        """The memory that users see, in the order of the data where it has one; or `None`."""
        if self.kept is None or self.identity is None:
            return self.kept
        if not self.identity.is_consistent:
            return None
        order = self.identity.order()
        return self.kept if order is None else self.kept.arranged(order)

    @property
    def examples(self) -> Examples | None:
        """The examples whose numbers `kept` has; `None` if nothing is remembered of them."""
        return None if self.memory is None else self._examples

    def forget(self) -> None:
        """Drops the memory."""
        self.kept = self._examples = None

    def of(self, reader: Reader, model: keras.Model) -> ExampleMemory | None:
        """The memory to continue with; an empty one unless the source is the last one.

        Args:
            reader: `Reader`.
            model: `keras.Model` whose steps are to be recorded.

        Returns:
            `ExampleMemory`; or `None` if scores cannot be remembered, because the examples of this
            source cannot be recognised or, with a warning, the model's steps cannot be recorded.
        """
        obstacle = backends.active().tap_obstacle(model)
        known_again = are_known_again(reader)
        if obstacle and known_again:
            warnings.warn(
                f"{obstacle} Until then examples are drawn by fresh scores of a presample, "
                "while those pay.",
                stacklevel=5,
            )
        if obstacle is not None or not known_again:
            self.forget()
            return None
        before, self._source = self._source, reader.identity()
        if self.kept is None or before != self._source:
            # Begins anew: scores of other data would add variance, though no bias.
            self.gain = RealisedGain()
            if isinstance(reader, StreamReader):
                self.kept, self.identity = ExampleMemory(0), Identity(reader)
                self.stored = _stored_targets(reader, model)
            elif reader.source is not None:
                self.kept, self.identity = ExampleMemory(reader.source.size, averages=True), None
                self.stored = None
        self._examples = self._examples_of(reader)
        return self.kept if self.identity is None or self.identity.is_consistent else None

    def _examples_of(self, reader: Reader) -> Examples | None:
        if reader.source is not None:
            return ArrayExamples(reader.source)
        if not isinstance(reader, StreamReader) or self.identity is None:
            return None
        first = reader.first(SPECIMEN)
        return StreamExamples(reader.stream, first, self.identity, reader.class_weight, self.stored)


def _stored_targets(reader: StreamReader, model: keras.Model) -> StoredTargets | None:
    """Where the labels of a stream go, if each example has one."""
    losses = build(model, *reader.first(SPECIMEN)[:2])
    outputs = target_outputs(model, losses)
    return StoredTargets(outputs, losses) if has_one_label(outputs) else None
