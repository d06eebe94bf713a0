"""Reads the batches of a stream and says which examples they hold.

This file decides how many batches make a pool, and when examples no longer count as recognised.

A pool is a quarter of an epoch: the twentieth that was just read, and what was read before it. The
draws of an example that is to be drawn eight times in an epoch are then spread over five pools, and
training waits until a twentieth of an epoch is read at most.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable

import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._types import IntArray
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.read import Read
from keras_swift.src.data.read_ahead import Pace
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known import Known, joined_by_shape

# Batches in hand and read ahead take at most this many bytes together; but a pool may always read
# as many batches as the queue of Keras' workers holds, 10.
POOL_BYTES = 2**28
LEAST_BATCHES = 10
# The shares of an epoch that a pool holds, and that are new in it. Training waits while new batches
# are read for the first pool.
POOL_SHARE, NEW_SHARE = 1 / 4, 1 / 20
# Contents identify nothing if fewer than this share of the examples come back in a second pass.
FEW = 0.1
# A record of every example needs at least this share to come back in a second pass: only half do if
# each example has two forms, such as images that are flipped at random.
MOST = 0.6
# How many new examples a source without an end may yield before recognising them is given up.
MOST_NEW = 2**24
NOT_KNOWN_AGAIN = (
    "The examples of `x` have other contents in each pass, so their scores cannot be remembered: "
    "yield `(x, y, sample_weight, ids)` with ids that stay with an example through shuffling and "
    "augmentation (`sample_weight` may be `None`), or augment in layers of the model. "
    + read_on("guides/data_sources.md#ids")
)


class NotKnownAgain(ValueError):
    """Examples of a stream are not recognised in another pass; the message has the cure."""


class NotPooled(Exception):
    """Batches that cannot be drawn from, because too few of their examples were recognised."""


class KnownReader:
    """Reads the batches of a stream and recognises their examples.

    Args:
        reader: `StreamReader`.
        identity: `Identity` of its examples.
        on_read: function that gets batches as they are handed over. Defaults to `None`.

    Attributes:
        batch_size: int, the rows of its first batch.
        num_batches: int, the steps of an epoch.
        size: int, the examples of an epoch, if all batches are as long as the first one.
        pool_steps: int, how many new batches a pool has at most.
        known_share: float, the share of the examples in recent batches that were read before;
            `None` in the first pass. `several` sets it.
    """

    def __init__(
        self,
        reader: StreamReader,
        identity: Identity,
        on_read: Callable[[Known], None] | None = None,
    ) -> None:
        self._reader = reader
        self._on_read = on_read
        self.identity = identity
        self.batch_size, self.num_batches = reader.batch_size, reader.num_batches
        self.size = self.batch_size * self.num_batches
        self._stream = reader.batches
        self.pool_steps, self._pools = self._sizes()
        # What was read last, in parts that are as long as a pool's new batches; and the part that
        # `batch` is filling.
        self._parts: list[list[Known]] = []
        self._coming: list[Known] = []
        self._steps = 0
        self._new = 0
        self.known_share: float | None = None
        # Since `known_share` was last set: examples, new examples, batches.
        self._asked = np.zeros(3, np.int64)
        self._pace = Pace()

    def _sizes(self) -> tuple[int, int]:
        """How many new batches a pool has at most, and in how many pools a batch is."""
        steps = math.ceil(self.num_batches * POOL_SHARE)
        new = max(LEAST_BATCHES, math.ceil(self.num_batches * NEW_SHARE))
        size: int = sum(leaf.nbytes for leaf in present_leaves(self._reader.first(self.batch_size)))
        fit = POOL_BYTES // max(1, size)
        # Memory for three more parts: one is copied as it is drawn, the next is read meanwhile, and
        # rare shapes are kept for longer.
        new = max(1, min(new, steps, max(LEAST_BATCHES, fit // 4)))
        return new, max(1, min(round(steps / new), fit // new - 3))

    def new_steps(self, steps_left: int) -> int:
        """How many batches are read for the next pool.

        The numbers of an epoch's pools differ by one at most: the rows of a much smaller part would
        be drawn more often than those of others.

        Args:
            steps_left: int, how many batches of the epoch are unread.
        """
        left = max(1, steps_left)
        return math.ceil(left / math.ceil(left / self.pool_steps))

    @property
    def earlier(self) -> list[Known]:
        """The batches that the last pool had besides its new ones."""
        return [batch for part in self._parts[:-1] for batch in part]

    @property
    def held(self) -> list[Known]:
        """All batches that are held, those of the last pool and those that came since."""
        return [batch for part in (*self._parts, self._coming) for batch in part]

    def _keep(self, part: list[Known]) -> None:
        """Adds a part to those that were read last, and drops what has been in enough pools.

        A batch is in as many pools that have new batches of its shape as another is, however rare
        its shape: as many rows are drawn as are new, so all rows get the same weight.
        """
        self._parts.append(joined_by_shape(part))
        seen: collections.Counter[str] = collections.Counter()
        room = max(len(part), (self._pools + 1) * self.pool_steps)
        for place in reversed(range(len(self._parts))):
            kept = []
            for known in reversed(self._parts[place]):
                seen[known.shape] += 1
                # If there are too many shapes, what was read first goes first.
                if seen[known.shape] <= self._pools and room >= len(known.sizes):
                    room -= len(known.sizes)
                    kept.append(known)
            self._parts[place] = kept[::-1]
        self._parts = [part for part in self._parts if part]

    def forget_earlier(self) -> None:
        """Frees the batches that were read: nothing is drawn from them for a while."""
        self._parts.clear()
        self._coming = []

    def state(self) -> list[list[int]] | None:
        """The items that were read last of a `PyDataset` that keeps its places, for `restore`.

        `None` for other sources.
        """
        if self.identity.kind != "places" or self._reader.has_hooks:
            return None
        parts = (*self._parts, self._coming)
        return [[item for batch in part for item in batch.items] for part in parts]

    def restore(self, state: list[list[int]] | None) -> None:
        """Reads the items that `state` returned once more."""
        self.forget_earlier()
        if state is not None:
            *parts, self._coming = [[self._again(item) for item in part] for part in state]
            self._parts.extend(map(joined_by_shape, parts))

    def _again(self, item: int) -> Known:
        read = self._stream.read_item(item)
        (known,) = self._handed_over([self._known(read, self.identity.numbers([read])[0])])
        return known

    def _known(self, read: Read, numbers: IntArray) -> Known:
        indices = self.identity.indices(read, numbers)
        items = [] if read.index is None else [read.index]
        return Known(read.data, numbers, indices, [len(read)], items)

    def _handed_over(self, batches: list[Known]) -> list[Known]:
        if self._on_read is not None:
            for known in batches:
                self._on_read(known)
        return batches

    def stop_reading_ahead(self) -> None:
        """Called at the end of an epoch, after which the source may change."""
        self._stream.read_ahead(0, in_thread=False)
        self._pace.pause()

    def _read(self, count: int, steps_left: int) -> list[Read]:
        """The next `count` batches, if the epoch has `steps_left` unread ones."""
        found = []
        new = count - self._stream.in_hand
        # What `look_ahead` has read takes no time, and no training lies between that and now.
        with self._pace.reading(new) if new > 0 else contextlib.nullcontext():
            for left in range(steps_left, steps_left - count, -1):
                # Not past the end of an epoch, after which the source may be another.
                ahead = min(left - 1, self.pool_steps)
                self._stream.read_ahead(ahead, in_thread=self._pace.is_slow)
                found.append(self._stream.next_read())
        return found

    def look_ahead(self, steps_left: int) -> None:
        """Reads what the next pool needs, so that `pool` finds it read.

        Args:
            steps_left: int, how many batches of the epoch are unread.
        """
        with self._stream.unchanged():
            self._read(self.new_steps(steps_left), steps_left)

    def batch(self, steps_left: int = 1) -> Known:
        """The next batch.

        Args:
            steps_left: int, how many batches of the epoch are unread, including this one; at
                most as many as are new in a pool are read ahead.
        """
        (read,) = self._read(1, steps_left)
        before = self.identity.count
        (numbers,) = self.identity.numbers([read])
        self._steps += 1
        self._new += self.identity.count - before
        if self.identity.kind == "content" and self._new > MOST_NEW:
            self.identity.forget(NOT_KNOWN_AGAIN)
        (known,) = self._handed_over([self._known(read, numbers)])
        self._coming.append(known)
        if len(self._coming) == self.pool_steps:
            self._keep(self._coming)
            self._coming = []
        return known

    def several(self, count: int, steps_left: int) -> list[Known]:
        """The next batches, whether or not their examples are recognised (-1 if they cannot be).

        Args:
            count: int, how many.
            steps_left: int, as for `batch`.
        """
        identity = self.identity
        with self._stream.all_or_none():
            reads = self._read(count, steps_left)
        if not identity.is_consistent:
            unknown = [np.full(len(read), -1) for read in reads]
            return self._handed_over(list(map(self._known, reads, unknown)))
        before = identity.count
        numbers = identity.numbers(reads)
        rows = sum(map(len, numbers))
        self._new = self._new + rows if identity.count - before == rows else 0
        if identity.kind == "content" and self._new > MOST_NEW:
            # A source without an end has no second pass that could show whether examples come back.
            self.known_share = 0.0
        if self._steps >= self._reader.whole_pass:
            self._asked += rows, identity.count - before, count
            if self._asked[2] >= self.pool_steps:
                self.known_share = 1.0 - float(self._asked[1]) / float(self._asked[0])
                self._asked[:] = 0
        self._steps += count
        return self._handed_over(list(map(self._known, reads, numbers)))

    def check_come_back(self) -> None:
        """Raises if a second pass through the data does not yield the examples of the first.

        Raises:
            NotKnownAgain: if fewer than 60 % of the examples were recognised, or batches have
                other sizes than in the first pass.
        """
        identity, share = self.identity, self.known_share
        if identity.is_consistent and (share is None or share >= MOST):
            return
        found = "batches of other sizes in another pass"
        if identity.is_consistent:
            by = "ids" if identity.kind == "ids" else "contents"
            found = f"a second pass, {share or 0:.0%} of whose examples were known by their {by}"
        raise NotKnownAgain(
            "The examples of `x` must be known again in each pass, because each is judged by a "
            f"whole training. Received: {found}. Yield `(x, y, sample_weight, ids)` with ids that "
            "stay with an example through shuffling and augmentation (`sample_weight` may be "
            "`None`), or augment in layers of the model."
        )

    def pool(self, count: int, steps_left: int = 0) -> list[Known]:
        """The next batches, joined where they have one shape; with `earlier` they are a pool.

        Args:
            count: int, how many.
            steps_left: int, as for `batch`.

        Raises:
            NotPooled: if most of their examples are new or examples are not recognised; the next
                call reads the same batches.
        """
        identity = self.identity
        with self._stream.all_or_none():
            reads = self._read(count, steps_left)
            before = identity.count
            numbers = identity.numbers(reads)
            self._new += identity.count - before
            if not identity.is_consistent:
                raise NotPooled
            known = float(np.mean(np.concatenate(numbers) < before))
            if known < FEW and self._steps >= self._reader.whole_pass:
                if identity.kind == "content":
                    identity.forget(NOT_KNOWN_AGAIN)
            if known < 0.5:
                raise NotPooled
        self._steps += count
        self._new = 0
        if self._coming:
            self._keep(self._coming)
            self._coming = []
        self._keep(list(map(self._known, reads, numbers)))
        return self._handed_over(self._parts[-1])
