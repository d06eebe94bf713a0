"""What a trainer remembers of its examples from one `fit` to the next, and of which source."""

from __future__ import annotations

from typing import Any

from keras_swift.src import backends
from keras_swift.src.data.reader import ArrayReader
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Places, places_of
from keras_swift.src.records.memory import ExampleMemory


def are_known_again(reader: ArrayReader | StreamReader) -> bool:
    """Whether examples are known again: by index, or in one process by batch and row."""
    if isinstance(reader, ArrayReader):
        return True
    return reader.has_places and backends.active().process()[1] == 1


class Recollection:
    """The memory of the examples of one source.

    Attributes:
        kept: `ExampleMemory` in the order in which scores are kept, or `None`.
        places: `Places` of the examples of a `PyDataset`, which `kept` has in the order in which
            they were first read; `None` for arrays.
    """

    def __init__(self) -> None:
        self.kept: ExampleMemory | None = None
        self.places: Places | None = None
        self._source: Any = None

    @property
    def memory(self) -> ExampleMemory | None:
        """The memory in the order of the data, or `None`."""
        if self.kept is None or self.places is None:
            return self.kept
        return self.kept.arranged(self.places.order()) if self.places.is_consistent else None

    def forget(self) -> None:
        """Drops the memory."""
        self.kept = None

    def of(self, reader: ArrayReader | StreamReader) -> ExampleMemory | None:
        """The memory to go on with, empty for another source than the last one.

        Args:
            reader: `ArrayReader`, or `StreamReader` of a source that `has_places`.

        Returns:
            `ExampleMemory`, or `None` if the places of this source turned out not to hold.
        """
        before, self._source = self._source, reader.identity()
        if self.kept is None or before != self._source:
            # Scores of other data would be wrong, which costs variance but no bias.
            if isinstance(reader, ArrayReader):
                self.kept, self.places = ExampleMemory(reader.size, averages=True), None
            else:
                self.kept, self.places = ExampleMemory(0), places_of(reader)
        return self.kept if self.places is None or self.places.is_consistent else None
