"""The items of a `PyDataset`, read by index in its own workers.

This file decides which items are read ahead of time, and how many.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

import keras
import numpy as np

from keras_swift.src._types import IntArray
from keras_swift.src.data.permutations import Permutations


class ItemReader:
    """Reads the items of a `PyDataset` by index; ahead of time, if it has `workers`.

    Args:
        dataset: `PyDataset`.
        generator: `np.random.Generator` for the order of a finite data set; `None` for 0, 1, 2, ...

    Attributes:
        order: `Permutations` of the indices; of an endless data set, a count.
        ahead: int, how many items the workers may read ahead.

    Raises:
        ValueError: if the data set has no batches.
    """

    def __init__(
        self, dataset: keras.utils.PyDataset, generator: np.random.Generator | None
    ) -> None:
        self._dataset = dataset
        self.ahead: int = max(dataset.max_queue_size, 1)
        self._pool: concurrent.futures.Executor | None = None
        self._futures: dict[int, concurrent.futures.Future[Any]] = {}
        self.order: Any = (
            _Count()
            if dataset.num_batches is None
            else Permutations(dataset.num_batches, generator)
        )
        if dataset.num_batches == 0:
            raise ValueError("`x` must hold at least one batch. Received: a PyDataset without any.")

    @property
    def has_workers(self) -> bool:
        """Whether items are read in threads or processes, as the data set asks for."""
        dataset = self._dataset
        return bool(dataset.workers > 1 or (dataset.workers and dataset.use_multiprocessing))

    def next_item(self) -> tuple[int, Any]:
        """`(index, item)`, the next in order."""
        if not self.has_workers:
            index = int(self.order.take(1)[0])
            return index, self._dataset[index]
        if self._pool is None:
            self._pool = self._make_pool()
        # Not past the end of a pass: the next order may not be drawn yet.
        for index in self.order.upcoming(self.ahead):
            if index not in self._futures:
                self._futures[index] = self._submit(index)
        index = int(self.order.take(1)[0])
        future = self._futures.pop(index, None) or self._submit(index)
        return index, future.result()

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
