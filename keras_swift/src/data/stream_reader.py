"""The reader of a stream: uniform batches and presamples from its batches, as they come."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_swift.src.data.arrays import Data, select
from keras_swift.src.data.read import Read, StreamBatch
from keras_swift.src.data.reader import Examples, ItemForm, ReaderState
from keras_swift.src.data.streams import Stream, is_dataset, is_endless

# A generator of unknown epoch length is read to its end, up to this many bytes.
GENERATOR_BYTES = 2**28


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
        steps_per_epoch: int or `None`. Without it the stream must end, and
            one of unknown length is read once to count its batches.
        needs_targets: bool, as for `streams.Stream`. Defaults to `True`.
        warns: bool, whether to warn when a pass is read to count its batches. Defaults to `True`.

    Attributes:
        stream: the source, or a list of the batches of a generator that was read to its end.
        class_weight: as given.
        batches: `Stream` of the uniform batches.
        is_shared: bool, whether the source can be read only once.

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
        warns: bool = True,
    ) -> None:
        orders = [generator if shuffle else None for generator in generators]
        # Some data sets also have `__next__`, such as those of Keras' `ImageDataGenerator`.
        is_generator = isinstance(source, Iterator) and not is_dataset(source)
        if steps_per_epoch is None and is_generator:
            source = _held(source)
        self.batches = Stream(source, orders[0], class_weight, needs_targets)
        self.is_shared = self.batches.is_shared
        self._presample = (
            self.batches
            if self.is_shared
            else Stream(source, orders[1], class_weight, needs_targets)
        )
        self.stream, self.class_weight = source, class_weight
        self.source = None
        # A `PyDataset` may have no batches before its epoch begins, so it begins here.
        self.batches.begin_epoch()
        self._has_begun = True
        self.batches.begin_before_the_last()
        with self.batches.unchanged():
            first = self.batches.next_read()
        self._first, self.has_ids = first.data, first.ids is not None
        # Some streams state their batch size, but a batch may still be smaller.
        self.form = ItemForm(
            fixed_size=None,
            sparse=first.sparse,
            has_one_shape=False,
            element_spec=getattr(source, "element_spec", None),
        )
        self.batch_size = len(Examples(self._first, None))
        self.num_batches = steps_per_epoch or self.batches.length or self._counted(source, warns)
        # A pass may end before the steps of an epoch, and its length is not known.
        ends = self.batches.length is None and not self.is_shared and not is_endless(source)
        self.is_open_ended = steps_per_epoch is not None and ends
        # Batches are drawn one by one: a step may change the source of the next.
        self.together = 1

    @property
    def pass_length(self) -> float:
        """How many batches a pass has, infinity while that is not known."""
        if self.is_open_ended:
            return self.batches.counted or self._presample.counted or math.inf
        return self.batches.length or self.num_batches

    def goes_on(self, steps: int, are_waiting: bool) -> bool:
        """Whether a pass goes on.

        Args:
            steps: int, how many steps of it were taken.
            are_waiting: bool, whether batches for later steps have already been read.
        """
        if math.isinf(self.pass_length) and not are_waiting and not self.batches.has_more():
            return False
        return steps < self.pass_length

    def _counted(self, source: Any, warns: bool) -> int:
        if self.is_shared or is_endless(source):
            raise ValueError(
                "`steps_per_epoch` must be given for a source without an end. Received: "
                f"steps_per_epoch=None with x of type {type(source).__name__}."
            )
        if warns:
            warnings.warn(
                "`x` has no length: it is read once from end to end to count its batches. "
                "Pass `steps_per_epoch` to avoid that.",
                stacklevel=5,
            )
        return sum(1 for _ in source)

    def presample_size(self, ratio: float) -> int:
        """The presample size `B`: a whole number of batches, at least two."""
        return max(2, round(ratio)) * self.batch_size

    def first(self, count: int) -> Data:
        """The first `count` examples of the first batch, repeated if fewer; changes no state."""
        x, y, sample_weight = select(self._first, np.arange(count) % self.batch_size)
        return x, y, sample_weight

    def specimens(self, count: int) -> list[Examples]:
        """The next batches, up to `count`, fewer at the end; `uniform` returns them again."""
        found: list[Examples] = []
        with self.batches.unchanged():
            while len(found) < count:
                try:
                    found.append(self.uniform())
                except ValueError:
                    if not found:
                        raise
                    break
        return found

    def uniform(self, by_index: bool = False) -> Examples:
        """The next batch."""
        return Examples(self.batches.next_read().data, None)

    def take_back(self, count: int) -> None:
        """Does nothing: a stream never draws ahead."""

    def presample(self, size: int) -> Examples:
        """The next batches, joined.

        Raises:
            ValueError: if they differ in form, or a generator ends; the next
                call then reads the same batches.
        """
        count = size // self.batch_size
        with self._presample.all_or_none():
            batches = [self._presample.next_batch() for _ in range(count)]
            return Examples(joined(batches), None, count)

    def identity(self) -> Any:
        """Identifies the source: equal for the same one with as many batches."""
        try:
            return [weakref.ref(self.stream), self.batches.length]
        except TypeError:
            return [object()]

    @property
    def has_places(self) -> bool:
        """Whether each example is found again by its batch and row: in a finite `PyDataset`."""
        return is_dataset(self.stream) and not self.is_shared

    @property
    def whole_pass(self) -> float:
        """How many batches hold every example once; infinity if that is not known."""
        if self.is_shared or is_endless(self.stream):
            return math.inf
        counted = self.batches.length or self.batches.counted
        return counted or (math.inf if self.is_open_ended else self.num_batches)

    @property
    def has_hooks(self) -> bool:
        """Whether a `PyDataset` has hooks of its own, in which it may reorder its examples."""
        return any(
            getattr(getattr(self.stream, name), "__func__", None)
            is not getattr(keras.utils.PyDataset, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""
        if not self._has_begun:
            self.batches.begin_epoch()
        self._has_begun = False

    def end_epoch(self) -> None:
        """Called when an epoch ends."""
        self.batches.end_epoch()
        # The hook at the epoch's end may have changed the items.
        self._presample.forget()

    def restart(self) -> None:
        """Makes the next uniform batch the stream's first, if it can be read again."""
        self.batches.restart()

    def state(self) -> ReaderState:
        return ReaderState(self.batches.state(), self._presample.state())

    def restore(self, state: ReaderState) -> None:
        self.batches.restore(state.uniform)
        self._presample.restore(state.presample)

    def close(self) -> None:
        """Stops the stream's workers."""
        self.batches.close()
        self._presample.close()


def joined(batches: Sequence[StreamBatch]) -> Data:
    """The examples of several batches.

    Raises:
        ValueError: if the batches differ in form.
    """
    try:
        return Read(keras.tree.map_structure(_concatenated, *batches)).data
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


def _held(source: Iterator[Any]) -> list[Any]:
    """The batches of a generator, read to its end, which `model.fit` takes as one epoch."""
    batches, size = [], 0
    for batch in source:
        batches.append(batch)
        size += sum(getattr(leaf, "nbytes", 0) for leaf in keras.tree.flatten(batch))
        if size > GENERATOR_BYTES:
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
