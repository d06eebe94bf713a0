"""What a trainer remembers of its examples from one `fit` to the next, and of which source."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src.data.reader import Reader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.memory import ExampleMemory


def are_known_again(reader: Reader) -> bool:
    """Whether examples can be known again: those of arrays, and in one process those of streams."""
    return reader.source is not None or backends.active().process()[1] == 1


class Recollection:
    """The memory of the examples of one source.

    Attributes:
        kept: `ExampleMemory` in the order in which scores are kept, or `None`.
        identity: `Identity` of the examples of a stream, which `kept` has in the order in which
            they were first read; `None` for arrays.
    """

    def __init__(self) -> None:
        self.kept: ExampleMemory | None = None
        self.identity: Identity | None = None
        self._source: Any = None

    @property
    def memory(self) -> ExampleMemory | None:
        """The memory in the order of the data, or `None`."""
        if self.kept is None or self.identity is None:
            return self.kept
        if not self.identity.is_consistent:
            return None
        order = self.identity.order()
        return self.kept if order is None else self.kept.arranged(order)

    def forget(self) -> None:
        """Drops the memory."""
        self.kept = None

    def of(self, reader: Reader, model: keras.Model) -> ExampleMemory | None:
        """The memory to go on with, empty for another source than the last one.

        Args:
            reader: `Reader`.
            model: `keras.Model` whose steps are to be recorded.

        Returns:
            `ExampleMemory`, or `None` if scores cannot be remembered: the examples of this source
            are not known again, or the model's steps cannot be recorded, with a warning.
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
            # Scores of other data would be wrong, which costs variance but no bias.
            if isinstance(reader, StreamReader):
                self.kept, self.identity = ExampleMemory(0), Identity(reader)
            elif reader.source is not None:
                self.kept, self.identity = ExampleMemory(reader.source.size, averages=True), None
        return self.kept if self.identity is None or self.identity.is_consistent else None
