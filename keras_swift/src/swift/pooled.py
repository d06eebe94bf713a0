"""Batches of a stream: as they come, or drawn by given chances from pools of the next batches.

As many rows are drawn as are read, and each batch of the stream is read once an epoch. This file
also decides what is known of the examples of a stream whose training is recorded.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray, IntArray, State
from keras_swift.src.data.arrays import ArraySource, select
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.fitting.journal import Journal
from keras_swift.src.records.examples import StreamExamples
from keras_swift.src.records.given_targets import StoredTargets
from keras_swift.src.records.identity import Identity, IdentityState
from keras_swift.src.records.known import Known, joined_by_shape
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.pooled import Group, drawn_batches
from keras_swift.src.records.targets import target_outputs
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.suspects.of_record import check_are_numbers, has_one_label
from keras_swift.src.swift.chances import ChancesState, StreamChances, chances_of
from keras_swift.src.swift.datasets import Item, item_of

# A function of the batches of a pool and their `KnownReader` that returns the chances of the rows
# of each batch, 1 on average over the data: float64 arrays of shape `(b,)`.
Chances: TypeAlias = Callable[[Sequence[Known], KnownReader], list[FloatArray]]
# If the stream is not shuffled, a pool may have few rows that are drawn often. These are drawn at
# most this many times as often as they should be, and the missing draws are spread over all rows.
MOST_OFTEN = 2.0
# How many examples the steps may record before that is read; a tap holds four times as many.
UNREAD = 2**14


@dataclasses.dataclass(frozen=True)
class PooledDrawsState(SavedState):
    """The state of a `PooledDataset`.

    Attributes:
        seed: int, which with the epoch determines the draws.
        identity: `IdentityState`.
        reader: `ReaderState`, the position in the stream if it is known.
    """

    seed: int
    identity: IdentityState
    reader: Any


class PooledDataset(keras.utils.PyDataset):
    """Batches of a stream, in the order in which they are read.

    From the `m` rows of one shape in a pool `m` are drawn, row `i` on average
    `m c_i / sum(c)` times, rounded up or down at random, in random order; but
    at most `2 c_i` times, and what is missing is spread over all rows.

    Args:
        stream: `StreamReader`.
        identity: `Identity` of its examples.
        seed: int. The draws of an epoch are a function of the seed, the epoch and the chances.
        on_read: function called with each batch that was read; it may raise. With one, examples
            that do not come back in a second pass are an error. Defaults to `None`.
        restarts: bool, whether each epoch is a pass of its own; else an epoch continues where the
            last one ended.
        first_epoch: int, the epoch to start with.

    Attributes:
        chances: `Chances`, or `None` for batches as they come.
        known: `KnownReader` of the stream.
        error: the last exception, or `None`.
    """

    def __init__(
        self,
        stream: StreamReader,
        identity: Identity,
        seed: int,
        *,
        on_read: Callable[[Known], None] | None = None,
        restarts: bool = True,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.journal = Journal()
        self.chances: Chances | None = None
        self.known = KnownReader(stream, identity, on_read)
        self._stream = stream
        self._identity = identity
        self._seed = seed
        self._must_come_back = on_read is not None
        self._restarts = restarts
        self._epoch = first_epoch
        self._generator = np.random.default_rng([seed, first_epoch])
        # Batches that were drawn and are not handed out yet.
        self._plan: collections.deque[tuple[Group, slice]] = collections.deque()
        # How many batches of the epoch were read, and the examples of those handed out.
        self._read = 0
        self._drawn: list[IntArray] = []
        # Items that Keras inspects before training, which are trained on first.
        self._peeked: dict[int, tuple[Item, IntArray]] = {}
        self._is_training = self._is_within_epoch = self._has_ended = False

    @property
    def num_batches(self) -> int:
        return self._stream.num_batches

    @property
    def num_examples(self) -> int:
        """int, how many are drawn in an epoch of whole batches."""
        return self.known.size

    @property
    def most_unread(self) -> int:
        """int, the most examples that steps may have recorded unread."""
        return 4 * UNREAD + 16 * self._stream.batch_size

    @property
    def reads_after(self) -> int:
        """int, after how many examples what the steps recorded is read."""
        return UNREAD

    def drawn(self, epoch: int) -> list[IntArray]:
        """The numbers of the examples in each batch of this epoch, as far as handed out."""
        return self._drawn

    def start_epoch(self, epoch: int) -> None:
        """Called once or more before the items of an epoch; before it Keras only inspects items."""
        if self._is_training and epoch == self._epoch:
            return
        if epoch != self._epoch:
            self._generator = np.random.default_rng([self._seed, epoch])
        self._is_training, self._epoch, self._drawn = True, epoch, []

    def draw_by(self, probability: FloatArray) -> None:
        """Draws later pools by `probability`, shape `(n,)`, indexed by the examples' numbers."""
        chance = len(probability) * probability
        self.chances = lambda batches, known: [chances_of(b.numbers, chance) for b in batches]

    def on_epoch_begin(self) -> None:
        if self._is_training and not self._is_within_epoch:
            self._is_within_epoch = True
            self._stream.begin_epoch()
            if self._restarts and self._has_ended:
                self._stream.restart()

    def on_epoch_end(self) -> None:
        if self._is_within_epoch:
            self._is_within_epoch, self._has_ended = False, True
            self._read = 0
            self._plan.clear()
            self.known.stop_reading_ahead()
            self._stream.end_epoch()

    def __getitem__(self, index: int) -> Item:
        try:
            if not self._is_training:
                if index not in self._peeked:
                    self._peeked[index] = self._next()
                return self._peeked[index][0]
            item, numbers = self._peeked.pop(min(self._peeked)) if self._peeked else self._next()
            self._drawn.append(numbers)
            return item
        except Exception as error:
            self.error = error
            raise

    def _next(self) -> tuple[Item, IntArray]:
        if self._plan:
            group, rows = self._plan.popleft()
            return item_of(select(group.data, rows)), group.pool[group.positions[rows]]
        left = max(1, self.num_batches - self._read)
        if self.chances is None:
            (batch,) = self._several(1, left)
            return item_of(batch.data), batch.numbers
        batches = self._several(min(self.known.pool_steps, left), left)
        self._plan.extend(self._pool(batches, self.chances(batches, self.known)))
        return self._next()

    def _several(self, count: int, left: int) -> list[Known]:
        batches = self.known.several(count, left)
        self._read += count
        if self._must_come_back:
            self.known.check_come_back()
        return batches

    def _pool(self, batches: list[Known], chances: list[FloatArray]) -> list[tuple[Group, slice]]:
        by_shape = joined_by_shape(batches)

        def draw(places: list[int], count: int) -> tuple[IntArray, FloatArray]:
            (known,) = (by_shape[place] for place in places)
            chance = np.concatenate([chances[place] for place in known.places])
            total = float(chance.sum())
            expected = chance * min(count / total, MOST_OFTEN) if total else chance
            expected = expected + max(0.0, count - float(expected.sum())) / len(chance)
            positions = systematic_draw(expected, self._generator)
            return positions, np.ones(len(positions))

        return drawn_batches(by_shape, draw)

    def state(self) -> PooledDrawsState:
        """State for `restore`; with the position in the stream only if it is known."""
        return PooledDrawsState(self._seed, self._identity.state(), self._stream.state())

    def restore(self, state: PooledDrawsState) -> None:
        self._seed = state.seed
        self._identity.restore(state.identity)
        self._generator = np.random.default_rng([self._seed, self._epoch])
        if not self._stream.is_shared:
            # The items that Keras has inspected were drawn before the state was restored.
            self._peeked.clear()
            self._plan.clear()
            self._read = 0
            self._stream.restart()
        self._stream.restore(state.reader)

    def identity(self) -> State:
        """What must be the same when a run is resumed."""
        return {"batch_size": self._stream.batch_size, "steps": self.num_batches}

    def close(self) -> None:
        """Ends an epoch that an error interrupted, and stops reading."""
        try:
            self.on_epoch_end()
        finally:
            self._stream.close()


class RecordedStream:
    """What is known of the examples of a stream; it outlives a call of `fit`.

    Args:
        model: a compiled `keras.Model`; built if it is not.
        stream: `StreamReader`.
        stores_all: bool, whether targets of every kind are stored. Defaults to `False`: only
            labels, if each example has one.

    Attributes:
        losses: `CompiledLosses` of the model.
        first: `ArraySource` of its first batch.
        stored: `StoredTargets` of the examples that were read, or `None`.
        examples: `StreamExamples`.

    Raises:
        ValueError: for a first batch that does not fit the model.
    """

    def __init__(self, model: keras.Model, stream: StreamReader, stores_all: bool = False) -> None:
        first = stream.first(stream.batch_size)
        check_are_numbers(first[1])
        self.first = ArraySource(*first)
        losses = self.losses = check_examples(model, self.first, stream.batch_size)
        outputs = target_outputs(model, losses)
        self._identity = Identity(stream)
        self.stored: StoredTargets | None = None
        if stores_all or has_one_label(outputs):
            self.stored = StoredTargets(outputs, losses)
        self.examples = StreamExamples(
            stream.stream, first, self._identity, stream.class_weight, self.stored
        )
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
            self._identity,
            seed,
            on_read=self._on_read,
            restarts=restarts,
            first_epoch=first_epoch,
        )

    def _on_read(self, batch: Known) -> None:
        self._check_labels(batch.data[1])
        if self.stored is not None:
            self.stored.add_batch(batch)


@dataclasses.dataclass(frozen=True)
class StreamPlaceState(SavedState):
    """The states of the draws and of the features."""

    dataset: PooledDrawsState
    chances: ChancesState


@dataclasses.dataclass(frozen=True)
class StreamPlace:
    """What a resumed run on a stream needs: which examples are known, and their features."""

    dataset: PooledDataset
    chances: StreamChances

    @property
    def journal(self) -> Journal:
        """An empty journal: features do not depend on the model in training."""
        return self.dataset.journal

    def identity(self) -> State:
        """What must be the same when a run is resumed."""
        return self.dataset.identity()

    def state(self) -> StreamPlaceState:
        return StreamPlaceState(self.dataset.state(), self.chances.state())

    def restore(self, state: StreamPlaceState) -> None:
        self.dataset.restore(state.dataset)
        self.chances.restore(state.chances)
