"""The examples of a record: of arrays, by index, or of a stream, which is read again.

This file decides how single examples are found after training, to be shown or to be scored once
more. No examples of a stream are held in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from keras_swift.src._types import Array, ArrayTree, IntArray
from keras_swift.src.data import arrays
from keras_swift.src.data.arrays import SPECIMEN, ArraySource, Data
from keras_swift.src.data.leaves import present_leaves, structure_key
from keras_swift.src.data.stream_reader import joined
from keras_swift.src.data.streams import Stream, is_endless
from keras_swift.src.records.given_targets import GivenTargets, StoredTargets
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known import Known
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.scoring.compiled import CompiledLosses

# `(places, x, y)`: the places among the requested indices, and `(x, y)` of `size` rows. The
# last chunk is padded, so that all have one compiled shape.
Chunk: TypeAlias = tuple[IntArray, ArrayTree, ArrayTree]


class Examples(Protocol):
    """Examples that have an index.

    Attributes:
        size: int, `n`; of a stream, how many are known so far.
        ids: array, shape `(n,)`, the ids that the user gave, or hashes of the examples; or `None`.
        has_ids: bool, whether `ids` are the user's.
        order: int array, shape `(n,)`, each example's row in a record; -1 for examples that were
            not read. `None` if rows and indices are the same.
    """

    @property
    def size(self) -> int: ...

    @property
    def ids(self) -> Array | None: ...

    @property
    def has_ids(self) -> bool: ...

    @property
    def order(self) -> IntArray | None: ...

    def specimen(self) -> tuple[ArrayTree, ArrayTree]:
        """`(x, y)` of the first few examples."""

    def given(self, outputs: Sequence[TargetOutput], losses: CompiledLosses) -> GivenTargets:
        """The targets of all examples, by index."""

    def chunks(self, size: int, indices: IntArray | None = None) -> Iterator[Chunk]:
        """The examples at these indices, or all in the order of a record, `size` at a time."""

    def data(self) -> Iterator[tuple[IntArray, Data]]:
        """All examples in parts, with their rows in a record; -1 for examples that have none."""

    def first_input(self, indices: IntArray) -> Array:
        """The first array of the inputs at these indices."""


class ArrayExamples:
    """The examples of arrays.

    Args:
        source: `ArraySource`.
    """

    has_ids = False

    def __init__(self, source: ArraySource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def ids(self) -> None:
        """`None`: an index identifies an example."""

    @property
    def order(self) -> None:
        """`None`: the numbers are the indices."""

    def specimen(self) -> tuple[ArrayTree, ArrayTree]:
        return self._source.specimen()

    def given(self, outputs: Sequence[TargetOutput], losses: CompiledLosses) -> GivenTargets:
        source = self._source
        return GivenTargets.of(outputs, losses, source.y, source.sample_weight, source.size)

    def chunks(self, size: int, indices: IntArray | None = None) -> Iterator[Chunk]:
        indices = np.arange(self.size) if indices is None else indices
        for start in range(0, len(indices), size):
            some = indices[start : start + size]
            x, y, _ = self._source.take(np.resize(some, size))
            yield np.arange(start, start + len(some)), x, y

    def data(self) -> Iterator[tuple[IntArray, Data]]:
        source = self._source
        yield np.arange(source.size), (source.x, source.y, source.sample_weight)

    def first_input(self, indices: IntArray) -> Array:
        first = present_leaves(self._source.x)[0]
        return np.asarray(arrays.select((first,), indices)[0])


class StreamExamples:
    """The examples of a stream that have been read; another pass finds them again.

    Args:
        source: the stream, as for `Stream`.
        first: `(x, y, sample_weight)`, its first batch.
        identity: `Identity` of its examples.
        class_weight: as for `Stream`. Defaults to `None`.
        stored: `StoredTargets`, filled as the stream is read in training. Defaults to `None`.
    """

    def __init__(
        self,
        source: Any,
        first: Data,
        identity: Identity,
        class_weight: dict[int, float] | None = None,
        stored: StoredTargets | None = None,
    ) -> None:
        self._source = source
        self._specimen = arrays.select(first, np.arange(len(present_leaves(first)[0]))[:SPECIMEN])
        self._identity = identity
        self._class_weight = class_weight
        self._stored = stored

    @property
    def size(self) -> int:
        return self._identity.count

    @property
    def ids(self) -> Array | None:
        return self._identity.ids

    @property
    def has_ids(self) -> bool:
        """bool, whether `ids` are the user's, rather than hashes of contents."""
        return self._identity.kind == "ids"

    @property
    def order(self) -> IntArray | None:
        return self._identity.order()

    def specimen(self) -> tuple[ArrayTree, ArrayTree]:
        return self._specimen[:2]

    def given(self, outputs: Sequence[TargetOutput], losses: CompiledLosses) -> GivenTargets:
        if self._stored is None:
            raise RuntimeError("the targets of this stream were not stored")
        return self._stored.given(self.order)

    def read_again(self) -> Generator[Known]:
        """The batches of one pass; the numbers of examples that were never read before are -1.

        Yields nothing for a source that can be read only once, or has no end.
        """
        stream = Stream(self._source, None, self._class_weight)
        if stream.is_shared or is_endless(self._source):
            return
        stream.begin_epoch()
        try:
            done = 0
            while stream.length is None or done < stream.length:
                if not stream.has_more():
                    break
                read = stream.next_read()
                done += 1
                numbers = self._identity.find(read)
                yield Known(read.data, numbers, numbers, [len(read)])
            stream.end_epoch()
        finally:
            stream.close()

    def chunks(self, size: int, indices: IntArray | None = None) -> Iterator[Chunk]:
        groups: dict[str, list[tuple[IntArray, Data]]] = {}
        for places, data in self._wanted(indices):
            group = groups.setdefault(_form(data), [])
            group.append((places, data))
            while sum(len(some) for some, _ in group) >= size:
                places, data = _together(group)
                yield _chunk(places[:size], _rows(data, slice(size)), size)
                group[:] = [(places[size:], _rows(data, slice(size, None)))]
        for group in groups.values():
            places, data = _together(group)
            if len(places):
                yield _chunk(places, data, size)

    def data(self) -> Iterator[tuple[IntArray, Data]]:
        for known in self.read_again():
            yield known.numbers, known.data

    def first_input(self, indices: IntArray) -> Array:
        found: dict[int, Array] = {}
        for places, data in self._wanted(indices):
            rows = present_leaves(data[0])[0]
            found |= {int(place): row for place, row in zip(places, rows, strict=True)}
        if len(found) < len(indices):
            raise ValueError(
                "`x` must be a stream that can be read again to show its examples. Received: "
                f"{type(self._source).__name__}, which gave {len(found)} of {len(indices)} again."
            )
        shape = np.max([row.shape for row in found.values()], axis=0)
        # Shorter sequences are padded with zeros.
        shown: Array = np.zeros((len(indices), *shape.tolist()), found[0].dtype)
        for place, row in found.items():
            shown[place][tuple(slice(length) for length in row.shape)] = row
        return shown

    def _wanted(self, indices: IntArray | None) -> Iterator[tuple[IntArray, Data]]:
        """The requested rows of a pass, each once, with their places in `indices`."""
        order = self.order
        numbers: IntArray = np.arange(self.size) if indices is None else indices
        if indices is not None and order is not None:
            numbers = order[indices]
        # The last entry is for rows without a number: their -1 indexes it.
        place_of = np.full(self.size + 1, -1)
        place_of[numbers] = np.arange(len(numbers))
        place_of[-1] = -1
        left = int((place_of >= 0).sum())
        passing = self.read_again()
        while left and (known := next(passing, None)) is not None:
            # If an example comes twice, its first row suffices.
            seen, first = np.unique(known.numbers, return_index=True)
            rows = np.sort(first[place_of[seen] >= 0])
            if len(rows):
                places = place_of[known.numbers[rows]]
                place_of[known.numbers[rows]] = -1
                left -= len(rows)
                yield places, arrays.select(known.data, rows)
        passing.close()


def _form(data: Data) -> str:
    return f"{structure_key(data)} {[leaf.shape[1:] for leaf in present_leaves(data)]}"


def _together(group: list[tuple[IntArray, Data]]) -> tuple[IntArray, Data]:
    return np.concatenate([places for places, _ in group]), joined([data for _, data in group])


def _rows(data: Data, rows: slice) -> Data:
    return arrays.select(data, np.arange(len(present_leaves(data)[0]))[rows])


def _chunk(places: IntArray, data: Data, size: int) -> Chunk:
    x, y, _ = arrays.select(data, np.resize(np.arange(len(places)), size))
    return places, x, y
