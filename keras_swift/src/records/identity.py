"""Examples of a `PyDataset`, recognised by the batch and the row in which they come.

This file decides what is the same example in another epoch, and in which order examples are
numbered. How many rows a batch has is known once it has been read.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from keras_swift.src._types import Array, IntArray, State
from keras_swift.src.data.arrays import Data
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.stream_reader import StreamReader, joined

# A pool takes at most this many bytes, but may have as many batches as a queue of Keras' workers.
POOL_BYTES = 2**28
LEAST_BATCHES = 10


class Places:
    """Numbers the examples of a `PyDataset` in the order in which they are first read.

    Args:
        batches: int, how many batches the source has.
        usual: int, how many rows a batch is assumed to have until it is read.
        compares: bool, whether other targets at a place mean other examples: in a source that may
            reorder them, not in one that may augment them.

    Attributes:
        count: int, how many examples have a number.
        hold: bool, whether every position still holds the same example.

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
        # Of each batch: its rows (-1: not read), the number of the first one, and a sum of the
        # targets.
        self._sizes = np.full(batches, -1)
        self._firsts = np.full(batches, -1)
        self._targets = np.zeros(batches, np.int64)
        self.count = 0
        self.is_consistent = True

    @property
    def size(self) -> int:
        """int, how many examples the source has, as far as is known."""
        return int(self._assumed_sizes.sum())

    @property
    def are_complete(self) -> bool:
        """bool, whether every batch has been read."""
        return bool((self._sizes >= 0).all())

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

    def indices(self, batch: int, rows: int) -> IntArray:
        """The places of a batch's examples in the order of batches and rows, shape `(rows,)`."""
        return np.arange(rows) + int(self._assumed_sizes[:batch].sum())

    def order(self) -> IntArray:
        """The numbers in the order of batches and rows, shape `(n,)`; -1 for rows not read."""
        sizes = self._assumed_sizes
        firsts, begins = (np.repeat(part, sizes) for part in (self._firsts, _begins(sizes)))
        return np.where(firsts < 0, -1, firsts + np.arange(len(firsts)) - begins)

    def state(self) -> State:
        """State for `restore`."""
        return {
            "sizes": self._sizes.copy(),
            "firsts": self._firsts.copy(),
            "targets": self._targets.copy(),
            "usual": self._usual,
            "count": self.count,
            "is_consistent": self.is_consistent,
        }

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""
        self._sizes, self._firsts = state["sizes"].copy(), state["firsts"].copy()
        self._targets = state["targets"].copy()
        self._usual, self.count, self.is_consistent = (
            state["usual"],
            state["count"],
            state["is_consistent"],
        )

    @property
    def _assumed_sizes(self) -> IntArray:
        return np.where(self._sizes < 0, self._usual, self._sizes)

    def _new(self, rows: int) -> IntArray:
        self.count += rows
        return np.arange(self.count - rows, self.count)


@dataclasses.dataclass(frozen=True)
class Placed:
    """Examples of some batches, and which they are.

    Attributes:
        data: `(x, y, sample_weight)`, structures with first axis `m`.
        numbers: int array, shape `(m,)`, by `Places.numbers`.
        indices: int array, shape `(m,)`, in the order of batches and rows.
        lengths: list of int, how many of them each batch has.
    """

    data: Data
    numbers: IntArray
    indices: IntArray
    lengths: list[int]


class NotPooled(Exception):
    """Batches that cannot be drawn from together; they are read again."""


class PlacedReader:
    """Reads the batches of a `PyDataset`, and which examples they have.

    Args:
        reader: `StreamReader` of a finite `PyDataset`.
        places: `Places` of its examples.

    Attributes:
        batch_size: int, the rows of its first batch.
        num_batches: int, the steps of an epoch.
        most_together: int, how many batches may be drawn ahead.
    """

    most_together = 1

    def __init__(self, reader: StreamReader, places: Places) -> None:
        self._reader = reader
        self.places = places
        self.batch_size, self.num_batches = reader.batch_size, reader.num_batches

    @property
    def size(self) -> int:
        """int, the number of examples, as far as is known."""
        return self.places.size

    @property
    def is_within_pass(self) -> bool:
        """Whether the first pass has not ended: some batches have never been read."""
        return not self.places.are_complete

    def most_pooled(self, wanted: int) -> int:
        """How many batches a pool may have, up to `wanted`, given the memory they take.

        While batches are drawn from it, workers read as many for the next one.
        """
        size: int = sum(leaf.nbytes for leaf in present_leaves(self._reader.first(self.batch_size)))
        count = min(wanted, max(LEAST_BATCHES, POOL_BYTES // max(1, size)))
        self._reader.read_ahead(count)
        return count

    def batch(self) -> Placed:
        """The next batch."""
        return self._placed(*self._reader.with_index())

    def pool(self, count: int) -> Placed:
        """The next batches, joined.

        Raises:
            NotPooled: if they differ in form, or hold other examples than before.
        """
        with self._reader.all_or_none():
            found = [self.batch() for _ in range(count)]
            if not self.places.is_consistent:
                raise NotPooled
            try:
                data = joined([placed.data for placed in found])
            except ValueError as error:
                self.places.is_consistent = False
                raise NotPooled from error
        return Placed(
            data,
            np.concatenate([placed.numbers for placed in found]),
            np.concatenate([placed.indices for placed in found]),
            [len(placed.numbers) for placed in found],
        )

    def _placed(self, index: int, data: Data) -> Placed:
        numbers = self.places.numbers(index, data)
        indices = self.places.indices(index, len(numbers))
        return Placed(data, numbers, indices, [len(numbers)])


def places_of(reader: StreamReader) -> Places:
    """The places of a finite `PyDataset`'s examples, none of them read yet."""
    return Places(int(reader.pass_length), reader.batch_size, compares=reader.has_hooks)


def _begins(sizes: IntArray) -> IntArray:
    return np.cumsum(sizes) - sizes


def _sum_of(targets: Any) -> int:
    """A number that other targets, or the same in another order, change."""
    found = 0
    for leaf in present_leaves(targets):
        array: Array = leaf.astype(str) if leaf.dtype == object else leaf
        found = zlib.crc32(array.tobytes(), found)
    return found
