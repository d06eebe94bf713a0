"""Sources without indices, read batch by batch.

What `fit` accepts besides arrays: a `PyDataset`, a `tf.data.Dataset`, a PyTorch `DataLoader`, a
grain dataset, a generator, or any iterable of batches. This file decides in which order their
batches are read, whether ahead of time, and what happens at their end.
"""

from __future__ import annotations

import collections
import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_swift.src._types import Array, ArrayTree
from keras_swift.src.data.arrays import class_weights
from keras_swift.src.data.items import ItemReader
from keras_swift.src.data.leaves import (
    check_text,
    dense,
    is_ragged,
    is_sparse,
    of_frame,
    present_leaves,
)
from keras_swift.src.data.permutations import Permutations

# `(x, y)` or `(x, y, sample_weight)`.
StreamBatch: TypeAlias = tuple[ArrayTree, ...]
# The index of a batch in a `PyDataset`, else `None`, and the batch.
_Read: TypeAlias = tuple[int | None, StreamBatch]


def is_stream(x: Any) -> bool:
    """Whether `x` yields batches rather than being arrays."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    if (
        isinstance(x, list | tuple | dict | str | bytes)
        or hasattr(x, "__array__")
        or hasattr(x, "shape")
    ):
        return False
    return isinstance(x, Iterable)


def check_stream_arguments(x: Any, y: Any, sample_weight: Any, batch_size: Any, split: Any) -> None:
    """Raises for arguments of `fit` that belong to arrays; warns of `batch_size`."""
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


class UnevenBatch(ValueError):
    """A batch whose inputs, targets and weights have different numbers of rows."""


class Stream:
    """Batches of a source as NumPy structures, restarted whenever it ends.

    A `PyDataset`'s own `workers` read its batches, ahead of time and in a
    fixed order; nothing else of this package runs in them.

    Args:
        source: any of the kinds above. Its items are `(x, y)` or
            `(x, y, sample_weight)`.
        generator: `np.random.Generator` for the order of the batches of a
            finite `PyDataset`. Defaults to `None`, their own order; other
            sources always keep theirs.
        class_weight: dict from class number to weight, multiplied into the
            loss as in `model.fit`. Defaults to `None`.
        needs_targets: bool, whether a batch has to have targets. Defaults to
            `True`. Otherwise an item may also be `(x,)` or `x` alone.
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
        # Batches of the pass that were read, and of a whole pass once one has ended.
        self._read_in_pass = 0
        self.counted: int | None = None
        # Whether each leaf of the inputs and targets came as a sparse one.
        self.sparse: list[bool] = []
        self._again: collections.deque[tuple[Any, _Read]] = collections.deque()
        self._seen: list[tuple[Any, _Read]] | None = None

    @property
    def length(self) -> int | None:
        """Number of batches in a pass; `None` if it is unknown or there is no end."""
        if isinstance(self._source, keras.utils.PyDataset):
            batches: int | None = self._source.num_batches
            return batches
        try:
            return len(self._source)
        except TypeError:
            return None

    @property
    def is_shared(self) -> bool:
        """Whether the source can be read only once, so that all consumers must share it."""
        if self._reader is not None:
            return self._source.num_batches is None
        return isinstance(self._source, Iterator)

    def next_batch(self) -> StreamBatch:
        """The next `(x, y)` or `(x, y, sample_weight)`.

        Raises:
            ValueError: if a source that can be read only once has ended, or
                an item is not of that form.
        """
        return self.next_with_index()[1]

    def next_with_index(self) -> tuple[int | None, StreamBatch]:
        """The same, and its index in a `PyDataset`, else `None`."""
        if self._again:
            state, read = self._again.popleft()
        else:
            state = None if self._reader is None else self._reader.order.state()
            index, item = self._read()
            read = index, self._checked(item)
        if self._seen is not None:
            self._seen.append((state, read))
        return read

    def has_more(self) -> bool:
        """Whether the pass goes on, for an iterable that does not tell its length: reads ahead."""
        if self._again or self._iterator is None:
            return True
        try:
            item = next(self._iterator)
        except StopIteration:
            self._end_pass()
            return False
        self._read_in_pass += 1
        self._again.append((None, (None, self._checked(item))))
        return True

    def _end_pass(self) -> None:
        self.counted, self._read_in_pass, self._iterator = self._read_in_pass, 0, None

    def restart(self) -> None:
        """Makes the next batch the first of a new pass, if there can be one."""
        if self.is_shared:
            return
        self._again.clear()
        self._iterator, self._read_in_pass = None, 0
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
        """A context that, if it fails, has read nothing: the batches are read again."""
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

        The first batch that is read shows the shape of all.
        """
        order = None if self._reader is None else self._reader.order
        if isinstance(order, Permutations) and order.size > 1:
            while order.upcoming(1)[0] == order.size - 1:
                order.restart()

    def read_ahead(self, count: int) -> None:
        """Lets the workers of a `PyDataset` read so many batches ahead, if its queue has fewer."""
        if self._reader is not None:
            self._reader.ahead = max(self._reader.ahead, count)

    def begin_epoch(self) -> None:
        """Calls a `PyDataset`'s hook, which may change its items; drops what was read ahead."""
        if self._reader is not None:
            self._reader.forget()
            self._source.on_epoch_begin()

    def end_epoch(self) -> None:
        """Calls a `PyDataset`'s hook."""
        if self._reader is not None:
            self._source.on_epoch_end()
            self._reader.forget()

    def forget(self) -> None:
        """Drops what was read ahead."""
        if self._reader is not None:
            self._reader.forget()

    def close(self) -> None:
        """Stops the workers."""
        if self._reader is not None:
            self._reader.close()

    def state(self) -> Any:
        """The position in a `PyDataset`, for `restore`; `None` for other sources."""
        if self._reader is None:
            return None
        return self._again[0][0] if self._again else self._reader.order.state()

    def restore(self, state: Any) -> None:
        if self._reader is not None and state is not None:
            self._again.clear()
            self._reader.forget()
            self._reader.order.restore(state)

    def _read(self) -> tuple[int | None, Any]:
        if self._reader is not None:
            return self._reader.next_item()
        if self._iterator is not None:
            try:
                item = next(self._iterator)
                self._read_in_pass += 1
                return None, item
            except StopIteration:
                if self._iterator is self._source:
                    raise ValueError(
                        "The generator ended before training did. A presample takes several of "
                        "its batches: make it longer, or lower `epochs` or `steps_per_epoch`."
                    ) from None
                self._end_pass()
        self._iterator = iter(self._source)
        try:
            item = next(self._iterator)
            self._read_in_pass = 1
            return None, item
        except StopIteration:
            raise ValueError("`x` must hold at least one batch. Received: none.") from None

    def _checked(self, item: Any) -> StreamBatch:
        batch: StreamBatch = tuple(item) if isinstance(item, list) else item
        if not self._needs_targets and not (isinstance(batch, tuple) and len(batch) > 1):
            batch = (batch[0] if isinstance(batch, tuple) else batch, None)
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            found = f"{len(batch)} parts" if isinstance(batch, tuple) else type(batch).__name__
            raise ValueError(
                "A batch must be `(x, y)` or `(x, y, sample_weight)`: an example's importance and "
                f"features are computed from its targets. Received: {found}."
            )
        if len(batch) == 3 and batch[2] is None:
            batch = batch[:2]
        self.sparse = [is_sparse(leaf) for leaf in present_leaves(batch[:2])]
        batch = keras.tree.map_structure(_as_numpy, batch)
        lengths = {len(leaf) for leaf in present_leaves(batch)}
        if len(lengths) != 1 or 0 in lengths:
            raise UnevenBatch(
                "All parts of a batch must have the same length, at least 1, to draw single "
                f"examples. Received: lengths {sorted(lengths)}. Let the targets have a row for "
                "each example, and the loss join what it compares."
            )
        if self._class_weight is None:
            return batch
        if len(batch) == 3:
            raise ValueError(
                "`class_weight` must not be given if the stream yields weights, as in "
                "`model.fit`. Received: both."
            )
        return (*batch, class_weights(batch[1], self._class_weight))


def _as_numpy(leaf: Any) -> Array | None:
    if leaf is None:
        return None
    if is_sparse(leaf):
        leaf = dense(leaf)
    if is_ragged(leaf):
        raise TypeError(
            "A batch must hold arrays whose rows have one length. Received: a ragged tensor. Make "
            "it dense with `.to_tensor()`; in a `tf.data.Dataset`, by `.map`."
        )
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16.
        leaf = leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf
    if type(leaf).__module__.partition(".")[0] == "pandas":
        leaf = of_frame(leaf)
        leaf = leaf[:, None] if leaf.ndim == 1 else leaf
    array = np.asarray(leaf)
    check_text("A batch", array)
    if array.ndim == 0:
        raise ValueError(
            "A batch must hold arrays with a first axis that counts the examples. Received: a "
            f"scalar, {leaf!r}. Give batches, not single examples (`tf.data`: `.batch(32)`)."
        )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array
