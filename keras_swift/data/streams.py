"""Sources without indices, read batch by batch.

What `fit` accepts besides arrays: a `PyDataset`, a `tf.data.Dataset`, a PyTorch `DataLoader`, a
grain dataset, a generator, or any iterable of batches. This file decides in which order their
batches are read, whether ahead of time, and what happens at their end.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_swift._types import Array, ArrayTree, IntArray
from keras_swift.data.arrays import class_weights
from keras_swift.data.leaves import check_text, dense, is_ragged, is_sparse, of_frame, there
from keras_swift.data.permutations import Permutations

# `(x, y)` or `(x, y, sample_weight)`.
StreamBatch: TypeAlias = tuple[ArrayTree, ...]


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
        self._reader: _ItemReader | None = None
        if isinstance(source, keras.utils.PyDataset):
            self._reader = _ItemReader(source, generator)
        # Batches of the pass that were read, and of a whole pass once one has ended.
        self._read_in_pass = 0
        self.counted: int | None = None
        # Whether each leaf of the inputs and targets came as a sparse one.
        self.sparse: list[bool] = []
        self._again: collections.deque[tuple[Any, StreamBatch]] = collections.deque()
        self._seen: list[tuple[Any, StreamBatch]] | None = None

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
        if self._again:
            state, batch = self._again.popleft()
        else:
            state = None if self._reader is None else self._reader.order.state()
            batch = self._checked(self._read())
        if self._seen is not None:
            self._seen.append((state, batch))
        return batch

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
        self._again.append((None, self._checked(item)))
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

    def _read(self) -> Any:
        if self._reader is not None:
            return self._reader.next_item()
        if self._iterator is not None:
            try:
                item = next(self._iterator)
                self._read_in_pass += 1
                return item
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
            return item
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
        self.sparse = [is_sparse(leaf) for leaf in there(batch[:2])]
        batch = keras.tree.map_structure(_as_numpy, batch)
        lengths = {len(leaf) for leaf in there(batch)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "All parts of a batch must have the same length, at least 1. Received: lengths "
                f"{sorted(lengths)}."
            )
        if self._class_weight is None:
            return batch
        if len(batch) == 3:
            raise ValueError(
                "`class_weight` must not be given if the stream yields weights, as in "
                "`model.fit`. Received: both."
            )
        return (*batch, class_weights(batch[1], self._class_weight))


class _ItemReader:
    """Reads the items of a `PyDataset` by index, ahead of time, in its own `workers`."""

    def __init__(
        self, dataset: keras.utils.PyDataset, generator: np.random.Generator | None
    ) -> None:
        self._dataset = dataset
        self._pool: concurrent.futures.Executor | None = None
        self._futures: dict[int, concurrent.futures.Future[Any]] = {}
        self.order: Any = (
            _Count()
            if dataset.num_batches is None
            else Permutations(dataset.num_batches, generator)
        )
        if dataset.num_batches == 0:
            raise ValueError("`x` must hold at least one batch. Received: a PyDataset without any.")

    def next_item(self) -> Any:
        dataset = self._dataset
        if dataset.workers <= 1 and not (dataset.workers and dataset.use_multiprocessing):
            return dataset[int(self.order.take(1)[0])]
        if self._pool is None:
            self._pool = self._make_pool()
        # Not past the end of a pass: the next order may not be drawn yet.
        for index in self.order.upcoming(max(dataset.max_queue_size, 1)):
            if index not in self._futures:
                self._futures[index] = self._submit(index)
        index = int(self.order.take(1)[0])
        future = self._futures.pop(index, None) or self._submit(index)
        return future.result()

    def _make_pool(self) -> concurrent.futures.Executor:
        workers = self._dataset.workers
        if not self._dataset.use_multiprocessing:
            return concurrent.futures.ThreadPoolExecutor(workers)
        return concurrent.futures.ProcessPoolExecutor(
            workers, initializer=_keep, initargs=(self._dataset,)
        )

    def _submit(self, index: int) -> concurrent.futures.Future[Any]:
        if self._dataset.use_multiprocessing:
            return self._pool.submit(_kept_item, index)  # type: ignore[union-attr]
        return self._pool.submit(self._dataset.__getitem__, index)  # type: ignore[union-attr]

    def restart(self) -> None:
        self.forget()
        if self._dataset.num_batches is not None:
            self.order.restart(self._dataset.num_batches)

    def forget(self) -> None:
        for future in self._futures.values():
            future.cancel()
        self._futures = {}

    def close(self) -> None:
        self.forget()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class _Count:
    """The indices 0, 1, 2, ... of an endless `PyDataset`."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> IntArray:
        self._next += count
        return np.arange(self._next - count, self._next)

    def upcoming(self, count: int) -> list[int]:
        return list(range(self._next, self._next + count))

    def state(self) -> int:
        return self._next

    def restore(self, state: int) -> None:
        self._next = state


# The dataset of a worker process, which can keep it between items only in a global.
_dataset: Any = None


def _keep(dataset: Any) -> None:
    global _dataset
    _dataset = dataset


def _kept_item(index: int) -> Any:
    return _dataset[index]


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
