"""Sources without indices, read batch by batch.

What `fit` accepts besides arrays: a `PyDataset`, a `tf.data.Dataset`, a PyTorch `DataLoader`, a
grain dataset, a generator, or any iterable of batches. This file decides in which order their
batches are read, whether ahead of time, and what happens at their end.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src.data.items import ItemReader
from keras_swift.src.data.permutations import Permutations
from keras_swift.src.data.read import Read, StreamBatch, checked_item
from keras_swift.src.data.read_ahead import ReadAhead

# The end of a pass.
_END = object()


def is_dataset(x: Any) -> bool:
    """Whether `x` is a `PyDataset`, whose batches can be read by index."""
    return isinstance(x, keras.utils.PyDataset)


def is_stream(x: Any) -> bool:
    """Whether `x` yields batches rather than being arrays."""
    if is_dataset(x):
        return True
    if (
        isinstance(x, list | tuple | dict | str | bytes)
        or hasattr(x, "__array__")
        or hasattr(x, "shape")
    ):
        return False
    return isinstance(x, Iterable)


def is_endless(source: Any) -> bool:
    """Whether a source says that it has no end."""
    cardinality = getattr(source, "cardinality", None)
    if callable(cardinality):
        # A distributed data set has a number there, not a method.
        cardinality = cardinality()
    # TensorFlow's -1 means "no end"; -2 means "unknown".
    return cardinality is not None and int(cardinality) == -1


def check_stream_arguments(x: Any, y: Any, sample_weight: Any, batch_size: Any, split: Any) -> None:
    """Raises for arguments of `fit` that need arrays; warns that `batch_size` has no effect."""
    kind = f"x of type {type(x).__name__}"
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"`{name}` must not be given with a stream, which yields its own batches of "
                f"inputs, targets and weights. Received: {kind}."
            )
    if split:
        raise ValueError(
            f"`validation_split` must be 0 with a stream. Received: validation_split={split} "
            f"with {kind}. Pass `validation_data`."
        )
    if batch_size is not None:
        warnings.warn(
            f"`batch_size={batch_size}` has no effect, as in `model.fit`: {kind} has its own "
            "batches.",
            stacklevel=4,
        )


class Stream:
    """The batches of a source as NumPy structures; read again whenever it ends.

    A `PyDataset`'s own `workers` read its batches, ahead of time and in a
    fixed order; nothing else of this package runs in them.

    Args:
        source: any of the kinds above. Its items are `(x, y)`, `(x, y, sample_weight)` or
            `(x, y, sample_weight, ids)`.
        generator: `np.random.Generator` for the order of the batches of a
            finite `PyDataset`. Defaults to `None`, their own order; other
            sources always keep theirs.
        class_weight: dict from class number to weight, which become the
            batch's weights, as in `model.fit`. Defaults to `None`.
        needs_targets: bool, whether a batch must have targets. Defaults to
            `True`. If `False`, an item may also be `(x,)` or `x` alone.

    Attributes:
        counted: int, the batches of a whole pass; `None` until one has ended.
    """

    def __init__(
        self,
        source: Any,
        generator: np.random.Generator | None = None,
        class_weight: dict[int, float] | None = None,
        needs_targets: bool = True,
    ) -> None:
        self._source = source
        self._needs_targets = needs_targets
        self._class_weight = class_weight
        self._iterator: Iterator[Any] | None = None
        self._reader: ItemReader | None = None
        if isinstance(source, keras.utils.PyDataset):
            self._reader = ItemReader(source, generator)
        # The source's length in this pass, once it was asked for.
        self._length: int | None = None
        self._is_asked = False
        # How many batches of this pass were read, and of a whole pass once one has ended.
        self._read_in_pass = 0
        self.counted: int | None = None
        self._ahead: ReadAhead[Read] = ReadAhead(self._read)
        self._again: collections.deque[Read] = collections.deque()
        self._seen: list[Read] | None = None

    @property
    def length(self) -> int | None:
        """Number of batches in a pass; `None` if it is unknown or there is no end."""
        if isinstance(self._source, keras.utils.PyDataset):
            batches: int | None = self._source.num_batches
            return batches
        if not self._is_asked:
            # Once in a pass: for a `tf.data.Dataset` it is an operation of TensorFlow's, which
            # takes as long as a twentieth of a small step.
            self._is_asked = True
            try:
                self._length = len(self._source)
            except TypeError:
                self._length = None
        return self._length

    @property
    def is_shared(self) -> bool:
        """Whether the source can be read only once, so that all consumers must share it."""
        if self._reader is not None:
            return self._source.num_batches is None
        return isinstance(self._source, Iterator)

    def next_batch(self) -> StreamBatch:
        """The next `(x, y)` or `(x, y, sample_weight)`; raises as `next_read`."""
        return self.next_read().batch

    def next_read(self) -> Read:
        """The next batch and what is known of it.

        Raises:
            ValueError: if a source that can be read only once has ended, or
                an item is not of that form.
        """
        read = self._again.popleft() if self._again else self._next()
        if self._seen is not None:
            self._seen.append(read)
        return read

    def has_more(self) -> bool:
        """Whether the pass goes on; to find out, reads the next batch of an iterable.

        For iterables of unknown length.
        """
        if self._again or self._iterator is None:
            return True
        read = self._ahead.next()
        if read is None:
            self._end_pass()
            return False
        self._read_in_pass += 1
        self._again.append(read)
        return True

    @property
    def in_hand(self) -> int:
        """int, how many of the next batches have already been read."""
        return len(self._again)

    def read_ahead(self, count: int, in_thread: bool) -> None:
        """Lets `count` batches be read ahead: by a `PyDataset`'s workers, else perhaps in a thread.

        Args:
            count: int, how many besides the next one.
            in_thread: bool, whether a source without workers is read in a thread.
        """
        # The next batch, and others that were put back, are in hand already.
        count = max(0, count - max(0, len(self._again) - 1))
        if self._reader is not None and self._reader.has_workers:
            self._reader.ahead = max(self._reader.ahead, count)
        else:
            self._ahead.allow(count if in_thread else 0)

    def _next(self) -> Read:
        """The next batch of this pass, or the first of the next one."""
        read = self._ahead.next()
        if read is None:
            if self._iterator is self._source:
                raise ValueError(
                    "The generator ended before training did: make it longer, or lower `epochs` "
                    "or `steps_per_epoch`. A presample takes several of its batches."
                )
            self._end_pass()
            read = self._ahead.next()
        if read is None:
            raise ValueError("`x` must hold at least one batch. Received: none.")
        self._read_in_pass += 1
        return read

    def _read(self) -> Read | None:
        """Reads a batch, perhaps in a thread; `None` at the end of a pass."""
        index, position, item = None, None, _END
        if self._reader is not None:
            position = self._reader.order.state()
            index, item = self._reader.next_item()
        else:
            if self._iterator is None:
                self._iterator = iter(self._source)
            item = next(self._iterator, _END)
            if item is _END:
                return None
        return self._checked(item, index, position)

    def read_item(self, index: int) -> Read:
        """A batch of a `PyDataset` by its index; the stream keeps its position."""
        return self._checked(self._source[index], index)

    def _checked(self, item: Any, index: int | None, position: Any = None) -> Read:
        read = checked_item(item, self._needs_targets, self._class_weight)
        return read if index is None else dataclasses.replace(read, index=index, position=position)

    def _end_pass(self) -> None:
        self.counted, self._read_in_pass, self._iterator = self._read_in_pass, 0, None
        self._is_asked = False

    def _stop_reading_ahead(self) -> None:
        """Drops what was read ahead; a `PyDataset`'s batches are read again."""
        waiting = self._ahead.take()
        if self._reader is not None and waiting:
            self._reader.order.restore(waiting[0].position)

    def restart(self) -> None:
        """Makes the next batch the first of a new pass, if the source can be read again."""
        if self.is_shared:
            return
        self._stop_reading_ahead()
        self._again.clear()
        self._iterator, self._read_in_pass, self._is_asked = None, 0, False
        if self._reader is not None:
            self._reader.restart()

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context after which the batches that it read are read again."""
        if self._seen is not None:
            raise RuntimeError("`unchanged` does not nest.")
        self._seen = []
        try:
            yield
        finally:
            self._again.extendleft(reversed(self._seen))
            self._seen = None

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A context that moves nothing if it fails: its batches are then read again."""
        if self._seen is not None:
            # `unchanged` puts them back anyway.
            yield
            return
        seen = self._seen = []
        try:
            yield
        except Exception:
            self._again.extendleft(reversed(seen))
            raise
        finally:
            self._seen = None

    def begin_before_the_last(self) -> None:
        """Reshuffles until the last, perhaps smaller, batch is not first.

        The first batch determines the batch size.
        """
        order = None if self._reader is None else self._reader.order
        if isinstance(order, Permutations) and order.size > 1:
            while order.upcoming(1)[0] == order.size - 1:
                order.restart()

    def begin_epoch(self) -> None:
        """Calls a `PyDataset`'s hook, which may change its items; drops what was read ahead."""
        if self._reader is not None:
            self._stop_reading_ahead()
            self._reader.forget()
            self._source.on_epoch_begin()

    def end_epoch(self) -> None:
        """Calls a `PyDataset`'s hook."""
        if self._reader is not None:
            self._stop_reading_ahead()
            self._source.on_epoch_end()
            self._reader.forget()

    def forget(self) -> None:
        """Drops what was read ahead of a `PyDataset`."""
        if self._reader is not None:
            self._stop_reading_ahead()
            self._reader.forget()

    def close(self) -> None:
        """Stops the reading thread and the workers, and closes an iterator that we opened."""
        self._ahead.close()
        if self._reader is not None:
            self._reader.close()
        elif self._iterator is not self._source:
            close = getattr(self._iterator, "close", None)
            self._iterator = None
            if callable(close):
                close()

    def state(self) -> Any:
        """The position in a `PyDataset`, for `restore`; `None` for other sources."""
        if self._reader is None:
            return None
        if self._again:
            return self._again[0].position
        self._stop_reading_ahead()
        return self._reader.order.state()

    def restore(self, state: Any) -> None:
        if self._reader is not None and state is not None:
            self._stop_reading_ahead()
            self._again.clear()
            self._reader.forget()
            self._reader.order.restore(state)
