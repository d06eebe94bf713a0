"""Recognises the examples of a stream when they come again in another epoch.

By the ids that the user gives; else, in a `PyDataset` that keeps every example in its place, by
batch and row; else by their contents. This file decides which of these applies. It numbers examples
in the order in which they are first read.
"""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from keras_swift.src._pages import read_on
from keras_swift.src._state import SavedState
from keras_swift.src._types import Array, IntArray
from keras_swift.src.data.arrays import Data
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.read import Read
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.keys import KeyTable, content_keys, id_keys


@dataclasses.dataclass(frozen=True)
class PlacesState(SavedState):
    """The state of `Places`: its arrays have an entry for each batch of the source."""

    sizes: IntArray
    firsts: IntArray
    targets: npt.NDArray[np.int64]
    usual: int
    count: int
    is_consistent: bool


@dataclasses.dataclass(frozen=True)
class IdentityState(SavedState):
    """The state of an `Identity`.

    Attributes:
        kind, is_consistent: as for `Identity`.
        places: `PlacesState`, or `None`.
        keys: uint64 array, shape `(n,)`, or `None`.
        ids: array, shape `(n,)`, the user's, or `None`.
    """

    kind: Literal["ids", "places", "content"]
    is_consistent: bool
    places: PlacesState | None
    keys: Array | None
    ids: Array | None


class Places:
    """Numbers the examples of a `PyDataset` in the order in which they are first read.

    Args:
        batches: int, how many batches the source has.
        usual: int, how many rows a batch is assumed to have until it is read.
        compares: bool, whether a batch whose targets have changed holds other examples: true for a
            source that may reorder its examples, not for one that may only augment them.

    Attributes:
        count: int, how many examples have a number.
        is_consistent: bool, whether every position still holds the same example.

    Example:
        >>> places = Places(2, usual=3, compares=False)
        >>> places.numbers(1, (np.zeros(2), None, None)).tolist()
        [0, 1]
        >>> places.numbers(0, (np.zeros(3), None, None)).tolist()
        [2, 3, 4]
        >>> places.order().tolist()
        [2, 3, 4, 0, 1]
    """

    def __init__(self, batches: int, usual: int, compares: bool) -> None:
        self._usual = usual
        self._compares = compares
        # For each batch: how many rows it has (-1: not read), the number of its first example, and
        # a checksum of its targets.
        self._sizes = np.full(batches, -1)
        self._firsts = np.full(batches, -1)
        self._targets = np.zeros(batches, np.int64)
        self.count = 0
        self.is_consistent = True

    @property
    def size(self) -> int:
        """int, how many examples the source has; unread batches count with their usual size."""
        return int(self._assumed_sizes.sum())

    def numbers(self, batch: int, data: Data) -> IntArray:
        """The numbers of a batch's examples, shape `(b,)`.

        Args:
            batch: int, its index in the source.
            data: `(x, y, sample_weight)`, what was read.
        """
        rows = len(present_leaves(data)[0])
        if batch >= len(self._sizes):
            self.is_consistent = False
            return self._new(rows)
        targets = _sum_of(data[1]) if self._compares else 0
        if self._sizes[batch] != rows:
            self.is_consistent = self.is_consistent and self._sizes[batch] < 0
            self._sizes[batch], self._firsts[batch] = rows, self.count
            self._new(rows)
        elif targets != self._targets[batch]:
            self.is_consistent = False
        self._targets[batch] = targets
        return np.arange(rows) + int(self._firsts[batch])

    def find(self, batch: int, rows: int) -> IntArray:
        """The numbers of a batch's examples, shape `(rows,)`; -1 if it has not been read."""
        if batch >= len(self._sizes) or self._sizes[batch] != rows:
            return np.full(rows, -1)
        return np.arange(rows) + int(self._firsts[batch])

    def indices(self, batch: int, rows: int) -> IntArray:
        """The places of a batch's examples in the order of batches and rows, shape `(rows,)`."""
        return np.arange(rows) + int(self._assumed_sizes[:batch].sum())

    def order(self) -> IntArray:
        """The numbers in the order of batches and rows, shape `(n,)`; -1 for rows not read."""
        sizes = self._assumed_sizes
        firsts, begins = (np.repeat(part, sizes) for part in (self._firsts, _begins(sizes)))
        return np.where(firsts < 0, -1, firsts + np.arange(len(firsts)) - begins)

    def state(self) -> PlacesState:
        """State for `restore`."""
        return PlacesState(
            sizes=self._sizes.copy(),
            firsts=self._firsts.copy(),
            targets=self._targets.copy(),
            usual=self._usual,
            count=self.count,
            is_consistent=self.is_consistent,
        )

    def restore(self, state: PlacesState) -> None:
        """Restores what `state` returned."""
        self._sizes, self._firsts = state.sizes.copy(), state.firsts.copy()
        self._targets = state.targets.copy()
        self._usual, self.count = state.usual, state.count
        self.is_consistent = state.is_consistent

    @property
    def _assumed_sizes(self) -> IntArray:
        return np.where(self._sizes < 0, self._usual, self._sizes)

    def _new(self, rows: int) -> IntArray:
        self.count += rows
        return np.arange(self.count - rows, self.count)


class Identity:
    """Numbers the examples of a stream, so that each has one number however often it comes.

    Args:
        reader: `StreamReader`.

    Attributes:
        kind: `"ids"`, `"places"` or `"content"`, what an example is recognised by.
        is_consistent: bool, whether examples have been recognised so far when they came again.
    """

    def __init__(self, reader: StreamReader) -> None:
        self.kind: Literal["ids", "places", "content"] = "content"
        self._places: Places | None = None
        self._table: KeyTable | None = None
        # The ids in the order of the numbers, in several arrays that are joined when they are read.
        self._ids: list[Array] = []
        self.is_consistent = True
        if reader.has_ids:
            self.kind = "ids"
        elif reader.has_places:
            self.kind = "places"
            self._places = places_of(reader)
        if not reader.has_places or reader.has_hooks or reader.has_ids:
            # A hook may reorder the examples: then they are recognised by their contents.
            self._table = KeyTable()

    @property
    def count(self) -> int:
        """int, how many examples have a number."""
        if self.kind == "places" and self._places is not None:
            return self._places.count
        return 0 if self._table is None else len(self._table)

    @property
    def ids(self) -> Array | None:
        """The ids of the examples, or hashes of their contents, shape `(n,)`; `None` for places."""
        if self.kind == "content" and self._table is not None:
            return self._table.keys
        if not self._ids:
            return None
        if len(self._ids) > 1:
            self._ids = [np.concatenate(self._ids)]
        return self._ids[0]

    def order(self) -> IntArray | None:
        """The numbers in the order of batches and rows of a `PyDataset`; `None` for others."""
        return self._places.order() if self.kind == "places" and self._places else None

    def numbers(self, reads: list[Read]) -> list[IntArray]:
        """The numbers of the examples of these batches, one array of shape `(b,)` for each.

        Raises:
            ValueError: if a batch has ids and others have not, or the other way round.
        """
        self._check_ids(reads)
        if self.kind == "places" and self._places is not None:
            found = self._by_place(reads, self._places)
            if self._places.is_consistent:
                return found
            self.is_consistent = self._table is not None
            if not self.is_consistent:
                return found
            self.kind = "content"
        if self._table is None:
            raise RuntimeError("there is no table of keys")
        before = len(self._table)
        numbers = self._table.numbers(self._keys(reads))
        if self.kind == "ids" and len(self._table) > before:
            self._add_ids(reads, numbers, before)
        return np.split(numbers, np.cumsum([len(read) for read in reads])[:-1])

    def find(self, read: Read) -> IntArray:
        """The numbers of a batch's examples, shape `(b,)`; -1 for those that have none.

        Raises:
            ValueError: as `numbers`.
        """
        self._check_ids([read])
        if self.kind == "places" and self._places is not None:
            return self._places.find(int(read.index or 0), len(read))
        if self._table is None:
            return np.full(len(read), -1)
        return self._table.find(self._keys([read]))

    def _check_ids(self, reads: list[Read]) -> None:
        for read in reads:
            if (read.ids is not None) != (self.kind == "ids"):
                raise ValueError(
                    "All batches must have ids, their fourth part, or none. Received: a batch "
                    f"{'without' if read.ids is None else 'with'} ids after others "
                    f"{'with' if read.ids is None else 'without'}. Yield "
                    "`(x, y, sample_weight, ids)` always; `sample_weight` may be `None`. "
                    + read_on("guides/data_sources.md#ids")
                )

    def _keys(self, reads: list[Read]) -> Array:
        """The keys of the examples of these batches, one batch after another."""
        if self.kind == "ids":
            return np.concatenate([id_keys(read.ids) for read in reads if read.ids is not None])
        return content_keys([read.batch for read in reads])

    def forget(self, why: str) -> None:
        """Stops recognising examples, and warns with the reason `why`."""
        self.is_consistent = False
        warnings.warn(why, stacklevel=2)

    def release(self) -> None:
        """Frees the keys, once examples need not be recognised any longer."""
        self._table, self._ids = None, []

    def state(self) -> IdentityState:
        """State for `restore`."""
        return IdentityState(
            kind=self.kind,
            is_consistent=self.is_consistent,
            places=None if self._places is None else self._places.state(),
            keys=None if self._table is None else self._table.keys.copy(),
            ids=self.ids if self.kind == "ids" else None,
        )

    def restore(self, state: IdentityState) -> None:
        """Restores what `state` returned."""
        self.kind, self.is_consistent = state.kind, state.is_consistent
        if self._places is not None and state.places is not None:
            self._places.restore(state.places)
        if state.keys is None:
            self._table = None
        elif self._table is not None:
            self._table.restore(state.keys)
        self._ids = [] if state.ids is None else [state.ids.copy()]

    def indices(self, read: Read, numbers: IntArray) -> IntArray:
        """The indices of a batch's examples in the memory that users see, shape `(b,)`."""
        if self.kind == "places" and self._places is not None and read.index is not None:
            return self._places.indices(read.index, len(numbers))
        return numbers

    def _by_place(self, reads: list[Read], places: Places) -> list[IntArray]:
        found = []
        for read in reads:
            before = places.count
            found.append(places.numbers(int(read.index or 0), read.data))
            if self._table is not None and places.is_consistent and places.count > before:
                self._table.place(self._keys([read]), found[-1], places.count)
        return found

    def _add_ids(self, reads: list[Read], numbers: IntArray, before: int) -> None:
        ids = np.concatenate([read.ids for read in reads if read.ids is not None])
        added, first = np.unique(numbers, return_index=True)
        self._ids.append(ids[first[added >= before]])
        if len(self._ids) > 1024:
            self._ids = [np.concatenate(self._ids)]


def places_of(reader: StreamReader) -> Places:
    """The places of a finite `PyDataset`'s examples, none of them read yet."""
    return Places(int(reader.pass_length), reader.batch_size, compares=reader.has_hooks)


def _begins(sizes: IntArray) -> IntArray:
    return np.cumsum(sizes) - sizes


def _sum_of(targets: Any) -> int:
    """A checksum of the targets and their order."""
    found = 0
    for leaf in present_leaves(targets):
        array: Array = leaf.astype(str) if leaf.dtype == object else leaf
        found = zlib.crc32(array.tobytes(), found)
    return found
