"""Where uniform batches and presamples come from: rows of arrays, or a stream's batches.

`ImportanceDataset` asks for "the next batch" and "the next presample" and never sees which of the
two it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.data.arrays import ArraySource
from keras_swift.data.leaves import there
from keras_swift.data.permutations import Permutations
from keras_swift.data.streams import Stream

# Batches that are drawn together where nothing speaks against it, and how large they may be: after
# a training step Python's code has left the processor's caches, and drawing one batch costs several
# times what it costs right after another. They should not take the caches themselves.
TOGETHER = 8
TOGETHER_BYTES = 4_000_000
# Arrays up to this size are copied for a backend that can gather from its own, as `model.fit` does
# with arrays of any size.
COPIED_BYTES = 2**30
# A generator that does not say where its epochs end is read to its end, if that comes by then.
HELD_BYTES = 2**28
# And of an accelerator's free memory, no more than this share.
FREE_SHARE = 1 / 8


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some examples of the data.

    Attributes:
        data: tuple `(x, y, sample_weight)` of NumPy structures with one first
            axis (`x` and `y` of tensors where they are kept on a device);
            `sample_weight` may be `None`, and `x` and `y` where they
            are to be found by their indices.
        indices: int64 array, which examples they are; `None` from a stream.
        batches: float, how many batches they are worth: a presample of `r` batches is worth `r`.
    """

    data: tuple
    indices: np.ndarray | None
    batches: float = 1.0

    def __len__(self) -> int:
        rows = self.data[0] if self.indices is None else self.indices
        return len(there(rows)[0])

    @property
    def mean_length(self) -> float:
        """How many examples their batches have on average."""
        return len(self) / self.batches


class ArraySupply:
    """Batches and presamples out of permutations of arrays.

    Two streams of permutations: a uniform epoch is one whole permutation, as
    in `model.fit`, and the presamples go through theirs across epochs.

    Args:
        source: `ArraySource`.
        batch_size: int, `b`.
        generators: two `np.random.Generator`.
        shuffle: bool, whether the data are permuted.
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
        self.num_batches = math.ceil(source.size / self.batch_size)
        size = sum(leaf.nbytes for leaf in there(self.first(self.batch_size)))
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
        """How many examples every batch has; `None` where the last of an epoch is smaller."""
        return None if self.source.size % self.batch_size else self.batch_size

    @property
    def largest_ratio(self) -> float:
        """The largest presample ratio that the data have examples for."""
        return self.source.size / self.batch_size

    def first(self, count: int) -> tuple:
        """The first examples, over and over where there are fewer; changes nothing."""
        return self.source.take(np.arange(count) % self.source.size)

    def targets(self) -> Any:
        """All targets, or `None` where they would have to be read from a disk."""
        return self.source.y if self.source.is_in_memory else None

    def arrays(self) -> tuple[Any, Any] | None:
        """`(x, y)` where they may be copied, else `None`."""
        return self.source.arrays(COPIED_BYTES)

    def keep_on_device(self, free: int) -> None:
        """Copies the arrays to where the model computes, if they fit.

        Args:
            free: int, bytes of memory that are free there.
        """
        self.source.keep_on_device(min(COPIED_BYTES, int(FREE_SHARE * free)))

    def uniform(self, by_index: bool = False) -> Examples:
        """The next uniform batch, smaller at the end of an epoch; its weights alone `by_index`."""
        return self._take(self._uniform.take(self.batch_size, across=False), by_index)

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.source.size

    def identity(self) -> Any:
        """What is equal if and, but for chance, only if the arrays are the same ones."""
        return self.source.identity()

    @property
    def has_weights(self) -> bool:
        """Whether the user weights the examples."""
        return self.source.sample_weight is not None

    @property
    def is_within_pass(self) -> bool:
        """Whether a permutation of uniform batches has begun and not ended."""
        return self._uniform.left < self.size

    @property
    def most_together(self) -> int:
        """How many batches may be drawn before they are needed, for the memory they take."""
        return self._together

    def examples(self, indices: np.ndarray, by_index: bool = False) -> Examples:
        """The examples at these indices; their weights alone `by_index`."""
        return self._take(indices, by_index)

    def uniform_indices(self, count: int) -> np.ndarray:
        """The next `count` indices of the permutation, fewer at its end."""
        return self._uniform.take(count, across=False)

    def presample(self, size: int) -> Examples:
        """The next presample."""
        presample = self._take(self._presample.take(size))
        return dataclasses.replace(presample, batches=size / self.batch_size)

    @property
    def together(self) -> int:
        """How many uniform batches may be drawn before they are needed."""
        return min(self._together, math.ceil(self._uniform.left / self.batch_size))

    def take_back(self, count: int) -> None:
        """Lets the last `count` uniform examples come again; no more than were drawn together."""
        self._uniform.step_back(count)

    def _take(self, indices: np.ndarray, by_index: bool = False) -> Examples:
        return Examples(self.source.take(indices, only_weights=by_index), indices)

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def restart(self) -> None:
        """Lets the next uniform batch begin a new permutation."""
        self._uniform.restart()

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context after which the same examples come again."""
        state = self.state()
        try:
            yield
        finally:
            self.restore(state)

    def state(self) -> dict[str, Any]:
        return {"uniform": self._uniform.state(), "presample": self._presample.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._uniform.restore(state["uniform"])
        if self.fixed_size is not None and self._uniform.left % self.fixed_size:
            # The place was that of batches of another size.
            self._uniform.restart()
        self._presample.restore(state["presample"])

    def load(self, count: int) -> None:
        """Loads as many examples from all over the data, for whoever wants to know its cost."""
        self.source.take(np.linspace(0, self.source.size - 1, count, dtype=np.int64))

    def close(self) -> None:
        """Lets go of copies of the arrays."""
        self.source.leave_device()


class StreamSupply:
    """Batches and presamples out of a stream: a presample is its next `r` batches.

    A source that can be read again is read by two readers, one for uniform
    batches, begun anew with each epoch, and one for presamples that goes on
    across epochs, so that every batch is presampled before any is a second
    time. A source that cannot is shared by both.

    Args:
        source: what `streams.Stream` takes.
        class_weight: dict or `None`, as there.
        generators: two `np.random.Generator`, for the order of the batches of
            a finite `PyDataset`.
        shuffle: bool, whether that order is random.
        steps_per_epoch: int or `None`. Without it the stream has to have an
            end: one of unknown length is read once to count its batches.
        needs_targets: bool, as there.

    Raises:
        ValueError: if the number of steps cannot be known.
    """

    def __init__(
        self,
        source: Any,
        class_weight: Any,
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
        # A `PyDataset` may not have any batches before its epoch begins. It begins here.
        self._uniform.begin_epoch()
        self._has_begun = True
        with self._uniform.unchanged():
            self._first = _padded(self._uniform.next_batch())
        self.batch_size = len(Examples(self._first, None))
        self.num_batches = steps_per_epoch or self._uniform.length or self._counted(source)
        # What is read from a stream, others may miss.
        self.together = 1
        # Known of some streams, but a batch may come smaller all the same.
        self.fixed_size = None

    def _counted(self, source: Any) -> int:
        cardinality = getattr(source, "cardinality", None)
        if callable(cardinality):
            # Of distributed data sets it is a number.
            cardinality = cardinality()
        # TensorFlow's number for "no end", -1; -2 stands for "unknown".
        endless = self._shared or (cardinality is not None and int(cardinality) == -1)
        if endless:
            raise ValueError(
                "`steps_per_epoch` must be given for a source without an end. Received: "
                f"steps_per_epoch=None with x of type {type(source).__name__}."
            )
        warnings.warn(
            "`x` does not tell its length: it is read once from end to end to count its batches. "
            "Pass `steps_per_epoch` to save that.",
            stacklevel=5,
        )
        return sum(1 for _ in source)

    def presample_size(self, ratio: float) -> int:
        """The presample size `B`: a whole number of batches, at least two."""
        return max(2, round(ratio)) * self.batch_size

    @property
    def largest_ratio(self) -> float:
        """No limit: a stream is read on."""
        return math.inf

    def first(self, count: int) -> tuple:
        """Examples of the first batch, over and over where there are fewer; changes nothing."""
        indices = np.arange(count) % self.batch_size
        return tuple(
            None
            if part is None
            else keras.tree.map_structure(
                lambda leaf: None if leaf is None else leaf[indices], part
            )
            for part in self._first
        )

    def targets(self) -> None:
        """`None`: they come with the batches."""

    def arrays(self) -> None:
        """`None`: there are batches only."""

    def keep_on_device(self, free: int) -> None:
        """Nothing: batches come from the stream."""

    def load(self, count: int) -> None:
        """Nothing: batches are loaded as they come."""

    def uniform(self, by_index: bool = False) -> Examples:
        """The next batch."""
        return Examples(_padded(self._uniform.next_batch()), None)

    def take_back(self, count: int) -> None:
        """Nothing is drawn before it is needed."""

    def presample(self, size: int) -> Examples:
        """The next batches, joined.

        Raises:
            ValueError: if they differ in form, or a generator ends; they come
                again then.
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
                "The batches of a stream must be of one form, but for their number of examples, to "
                f"be presampled together. Received: shapes {shapes}. Pad them to one length, or "
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
        # It may have changed its items.
        self._presample.forget()

    def restart(self) -> None:
        """Lets the next uniform batch be the stream's first, where it can be read again."""
        self._uniform.restart()

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context after which the same batches come again."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._uniform.unchanged())
            if not self._shared:
                stack.enter_context(self._presample.unchanged())
            yield

    def state(self) -> dict[str, Any]:
        return {"uniform": self._uniform.state(), "presample": self._presample.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._uniform.restore(state["uniform"])
        self._presample.restore(state["presample"])

    def close(self) -> None:
        """Ends the stream's workers."""
        self._uniform.close()
        self._presample.close()


def _held(source: Iterator) -> list:
    """The batches of a generator up to its end, which `fit` would read in its one epoch."""
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


def _padded(batch: tuple) -> tuple:
    """`(x, y, sample_weight)`, with `None` for weights that are not there."""
    return (*batch, None)[:3]
