"""Readers: uniform batches and presamples from the rows of arrays or a stream's batches.

`ArrayReader` and `StreamReader` have one interface, so the samplers and datasets that ask for
"the next batch" and "the next presample" need not know the source.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift._types import ArrayTree, IntArray, State
from keras_swift.data.arrays import ArraySource, Data
from keras_swift.data.leaves import there
from keras_swift.data.permutations import Permutations
from keras_swift.data.streams import Stream, StreamBatch

# Most batches drawn together, and their largest size in bytes: after a training step Python's code
# is no longer in the processor's caches, and drawing one batch costs several times what it costs
# right after another. The batches themselves should not fill the caches.
TOGETHER = 8
TOGETHER_BYTES = 4_000_000
# Arrays up to this size are copied for a backend that gathers rows itself, as `model.fit` does
# with arrays of any size.
COPIED_BYTES = 2**30
# A generator of unknown epoch length is read to its end, up to this many bytes.
HELD_BYTES = 2**28
# The largest share of an accelerator's free memory that copies may take.
FREE_SHARE = 1 / 8


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some examples of the data.

    Attributes:
        data: tuple `(x, y, sample_weight)` of NumPy structures with one first
            axis (tensors for `x` and `y` if they are kept on a device);
            `sample_weight` may be `None`, and so may `x` and `y` if the
            rows are gathered by index later.
        indices: int64 array, which examples they are; `None` from a stream.
        batches: float, how many batches they amount to: `r` for a presample of `r` batches.
    """

    data: Data
    indices: IntArray | None
    batches: float = 1.0

    def __len__(self) -> int:
        rows = self.data[0] if self.indices is None else self.indices
        return len(there(rows)[0])

    @property
    def mean_length(self) -> float:
        """How many examples their batches have on average."""
        return len(self) / self.batches


class ArrayReader:
    """Reads batches and presamples from permutations of arrays.

    It keeps two permutations: a uniform epoch is one whole permutation, as
    in `model.fit`; presamples go through the other one across epochs.

    Args:
        source: `ArraySource`.
        batch_size: int, `b`.
        generators: two `np.random.Generator`.
        shuffle: bool, whether the data is permuted.
    """

    def __init__(
        self,
        source: ArraySource,
        batch_size: int,
        generators: list[np.random.Generator],
        shuffle: bool,
    ) -> None:
        self.source = source
        self.batch_size = min(batch_size, source.size)
        self.num_batches = self.pass_length = math.ceil(source.size / self.batch_size)
        size: int = sum(leaf.nbytes for leaf in there(self.first(self.batch_size)))
        self._together = max(1, min(TOGETHER, TOGETHER_BYTES // max(1, size)))
        orders = [generator if shuffle else None for generator in generators]
        self._uniform = Permutations(source.size, orders[0])
        self._presample = Permutations(source.size, orders[1])

    def presample_size(self, ratio: float) -> int:
        """The presample size `B` for a presample ratio."""
        # Rounded first, so that 1.1 * 10 makes 11 and not 12.
        wanted = math.ceil(round(ratio * self.batch_size, 6))
        if wanted > self.source.size:
            warnings.warn(
                f"`presample` asks for {wanted} examples a step, the data have "
                f"{self.source.size}: every step scores all of them.",
                stacklevel=5,
            )
        return min(wanted, self.source.size)

    @property
    def fixed_size(self) -> int | None:
        """How many examples every batch has; `None` if the last of an epoch is smaller."""
        return None if self.source.size % self.batch_size else self.batch_size

    @property
    def largest_ratio(self) -> float:
        """The largest presample ratio that the data has examples for."""
        return self.source.size / self.batch_size

    def first(self, count: int) -> Data:
        """The first `count` examples, repeated if there are fewer; changes no state."""
        return self.source.take(np.arange(count) % self.source.size)

    def specimens(self, count: int) -> list[Examples]:
        """A batch of the first examples; one will do, as all have one form. Changes no state."""
        return [self.examples(np.arange(self.batch_size))]

    def targets(self) -> ArrayTree | None:
        """All targets; `None` if they would have to be read from a disk."""
        return self.source.y if self.source.is_in_memory else None

    def arrays(self) -> tuple[ArrayTree, ArrayTree] | None:
        """`(x, y)` if they may be copied, else `None`."""
        return self.source.arrays(COPIED_BYTES)

    def keep_on_device(self, free: int) -> None:
        """Copies the arrays to the model's device, if they fit.

        Args:
            free: int, free bytes of memory there.
        """
        self.source.keep_on_device(min(COPIED_BYTES, int(FREE_SHARE * free)))

    def uniform(self, by_index: bool = False) -> Examples:
        """The next uniform batch, smaller at the end of an epoch; `by_index`, only its weights."""
        return self._take(self._uniform.take(self.batch_size, across=False), by_index)

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.source.size

    def identity(self) -> list[tuple[int, tuple[int, ...]]]:
        """Identifies the arrays: equal for the same ones; for others, only by chance."""
        return self.source.identity()

    @property
    def has_weights(self) -> bool:
        """Whether the user weights the examples."""
        return self.source.sample_weight is not None

    @property
    def is_within_pass(self) -> bool:
        """Whether the current permutation of uniform batches is partly read."""
        return self._uniform.left < self.size

    @property
    def most_together(self) -> int:
        """How many batches may be drawn ahead, given the memory they take."""
        return self._together

    def examples(self, indices: IntArray, by_index: bool = False) -> Examples:
        """The examples at these indices; `by_index`, only their weights."""
        return self._take(indices, by_index)

    def uniform_indices(self, count: int) -> IntArray:
        """The next `count` indices of the permutation; fewer at its end."""
        return self._uniform.take(count, across=False)

    def presample(self, size: int) -> Examples:
        """The next presample."""
        presample = self._take(self._presample.take(size))
        return dataclasses.replace(presample, batches=size / self.batch_size)

    @property
    def together(self) -> int:
        """How many uniform batches may be drawn ahead."""
        return min(self._together, math.ceil(self._uniform.left / self.batch_size))

    def take_back(self, count: int) -> None:
        """Makes `uniform` return the last `count` examples again; at most those drawn together."""
        self._uniform.step_back(count)

    def _take(self, indices: IntArray, by_index: bool = False) -> Examples:
        return Examples(self.source.take(indices, only_weights=by_index), indices)

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def restart(self) -> None:
        """Makes the next uniform batch begin a new permutation."""
        self._uniform.restart()

    def state(self) -> State:
        return {"uniform": self._uniform.state(), "presample": self._presample.state()}

    def restore(self, state: State) -> None:
        self._uniform.restore(state["uniform"])
        if self.fixed_size is not None and self._uniform.left % self.fixed_size:
            # The saved position belongs to another batch size.
            self._uniform.restart()
        self._presample.restore(state["presample"])

    def load(self, count: int) -> None:
        """Loads `count` examples from all over the data, to measure what loading costs."""
        self.source.take(np.linspace(0, self.source.size - 1, count, dtype=np.int64))

    def close(self) -> None:
        """Frees copies of the arrays."""
        self.source.leave_device()


class StreamReader:
    """Reads batches and presamples from a stream: a presample is its next `r` batches.

    A source that can be read again is read twice: once for uniform batches,
    restarted with each epoch, and once for presamples, continued across
    epochs, so that every batch is presampled before any is presampled
    again. A source that can be read only once serves both.

    Args:
        source: as for `streams.Stream`.
        class_weight: dict or `None`, as for `streams.Stream`.
        generators: two `np.random.Generator`, for the order of the batches of
            a finite `PyDataset`.
        shuffle: bool, whether that order is random.
        steps_per_epoch: int or `None`. Without it the stream must end;
            one of unknown length is read once to count its batches.
        needs_targets: bool, as there.

    Raises:
        ValueError: if the number of steps cannot be known.
    """

    def __init__(
        self,
        source: Any,
        class_weight: dict[int, float] | None,
        generators: list[np.random.Generator],
        shuffle: bool,
        steps_per_epoch: int | None,
        needs_targets: bool = True,
    ) -> None:
        orders = [generator if shuffle else None for generator in generators]
        if steps_per_epoch is None and isinstance(source, Iterator):
            source = _held(source)
        self._uniform = Stream(source, orders[0], class_weight, needs_targets)
        self._shared = self._uniform.is_shared
        self._presample = (
            self._uniform
            if self._shared
            else Stream(source, orders[1], class_weight, needs_targets)
        )
        # A `PyDataset` may have no batches before its epoch begins, so it begins here.
        self._uniform.begin_epoch()
        self._has_begun = True
        with self._uniform.unchanged():
            self._first = _padded(self._uniform.next_batch())
        self.batch_size = len(Examples(self._first, None))
        self.num_batches = steps_per_epoch or self._uniform.length or self._counted(source)
        # How many batches a pass has, if that is known.
        self.pass_length = self._uniform.length or self.num_batches
        # No reading ahead: other consumers of the source would miss those batches.
        self.together = 1
        # Some streams state their batch size, but a batch may still be smaller.
        self.fixed_size = None

    def _counted(self, source: Any) -> int:
        cardinality = getattr(source, "cardinality", None)
        if callable(cardinality):
            # Of distributed data sets it is a number.
            cardinality = cardinality()
        # TensorFlow's -1 means "no end"; -2 means "unknown".
        endless = self._shared or (cardinality is not None and int(cardinality) == -1)
        if endless:
            raise ValueError(
                "`steps_per_epoch` must be given for a source without an end. Received: "
                f"steps_per_epoch=None with x of type {type(source).__name__}."
            )
        warnings.warn(
            "`x` has no length: it is read once from end to end to count its batches. "
            "Pass `steps_per_epoch` to avoid that.",
            stacklevel=5,
        )
        return sum(1 for _ in source)

    def presample_size(self, ratio: float) -> int:
        """The presample size `B`: a whole number of batches, at least two."""
        return max(2, round(ratio)) * self.batch_size

    @property
    def largest_ratio(self) -> float:
        """No limit: a presample reads on in the stream."""
        return math.inf

    def first(self, count: int) -> Data:
        """The first `count` examples of the first batch, repeated if fewer; changes no state."""
        indices = np.arange(count) % self.batch_size
        x, y, sample_weight = (
            None
            if part is None
            else keras.tree.map_structure(
                lambda leaf: None if leaf is None else leaf[indices], part
            )
            for part in self._first
        )
        return x, y, sample_weight

    def specimens(self, count: int) -> list[Examples]:
        """The next batches, up to `count`, fewer at the end; they are read again later."""
        found: list[Examples] = []
        with self._uniform.unchanged():
            while len(found) < count:
                try:
                    found.append(self.uniform())
                except ValueError:
                    if not found:
                        raise
                    break
        return found

    def targets(self) -> None:
        """`None`: targets arrive with the batches."""

    def arrays(self) -> None:
        """`None`: a stream has only batches."""

    def keep_on_device(self, free: int) -> None:
        """Does nothing: a stream has no arrays to copy."""

    def load(self, count: int) -> None:
        """Does nothing: a stream loads its own batches."""

    def uniform(self, by_index: bool = False) -> Examples:
        """The next batch."""
        return Examples(_padded(self._uniform.next_batch()), None)

    def take_back(self, count: int) -> None:
        """Does nothing: a stream never draws ahead."""

    def presample(self, size: int) -> Examples:
        """The next batches, joined.

        Raises:
            ValueError: if they differ in form, or a generator ends; they are
                read again then.
        """
        with self._presample.all_or_none():
            return self._joined(size // self.batch_size)

    def _joined(self, count: int) -> Examples:
        batches = [self._presample.next_batch() for _ in range(count)]
        try:
            joined = keras.tree.map_structure(_concatenated, *batches)
        except (ValueError, TypeError) as error:
            shapes = [
                keras.tree.map_structure(
                    lambda leaf: None if leaf is None else tuple(leaf.shape), batch
                )
                for batch in batches
            ]
            raise ValueError(
                "The batches of a stream must be of one form, except for their number of examples, "
                f"to be presampled together. Received: shapes {shapes}. Pad them to one length, or "
                "give all of them weights."
            ) from error
        return Examples(_padded(joined), None, count)

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""
        if not self._has_begun:
            self._uniform.begin_epoch()
        self._has_begun = False

    def end_epoch(self) -> None:
        """Called when an epoch ends."""
        self._uniform.end_epoch()
        # The epoch's end may have changed its items.
        self._presample.forget()

    def restart(self) -> None:
        """Makes the next uniform batch the stream's first, if it can be read again."""
        self._uniform.restart()

    def state(self) -> State:
        return {"uniform": self._uniform.state(), "presample": self._presample.state()}

    def restore(self, state: State) -> None:
        self._uniform.restore(state["uniform"])
        self._presample.restore(state["presample"])

    def close(self) -> None:
        """Stops the stream's workers."""
        self._uniform.close()
        self._presample.close()


def _held(source: Iterator[Any]) -> list[Any]:
    """The batches of a generator to its end: `fit` would read them in one epoch."""
    batches, size = [], 0
    for batch in source:
        batches.append(batch)
        size += sum(getattr(leaf, "nbytes", 0) for leaf in keras.tree.flatten(batch))
        if size > HELD_BYTES:
            raise ValueError(
                "`steps_per_epoch` must be given for a generator without an end in sight. "
                f"Received: steps_per_epoch=None with x of type {type(source).__name__}, of which "
                f"{len(batches)} batches ({size} bytes) were read."
            )
    return batches


def _concatenated(*rows: Any) -> Any:
    if all(part is None for part in rows):
        return None
    if any(part is None for part in rows):
        raise ValueError("an array in one batch and `None` in another")
    return np.concatenate(rows)


def _padded(batch: StreamBatch) -> Data:
    """`(x, y, sample_weight)`, with `None` for missing weights."""
    x, y, sample_weight = (*batch, None)[:3]
    return x, y, sample_weight
