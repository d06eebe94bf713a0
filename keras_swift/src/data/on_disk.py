"""Arrays on a disk, which are read row by row and never whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_swift.src._types import Array, IntArray


def is_mapped(array: Any) -> bool:
    """Whether an array is memory-mapped, or a view of one that is."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


class RowsOnDisk:
    """Rows of an `h5py` data set, read on demand.

    Args:
        data: `h5py.Dataset`.
        start, stop: ints, the range of rows. Default to all.
    """

    def __init__(self, data: Any, start: int = 0, stop: int | None = None) -> None:
        self._data = data
        self._start = start
        self.shape: tuple[int, ...] = (
            (data.shape[0] if stop is None else stop) - start,
            *data.shape[1:],
        )
        self.dtype = data.dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | IntArray) -> Array:
        read: Array
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            read = self._data[self._start + start : self._start + stop : step]
            return read
        # HDF5 reads rows in file order, each once.
        found, inverse = np.unique(np.asarray(rows), return_inverse=True)
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, -1)
        if last - first + 1 == len(found):
            # One slice is much faster than as many single rows.
            read = self._data[self._start + first : self._start + last + 1]
        else:
            read = self._data[self._start + found]
        return read[inverse]

    def part(self, rows: slice) -> RowsOnDisk:
        """The rows of a slice, still on disk."""
        start, stop, _ = rows.indices(len(self))
        return RowsOnDisk(self._data, self._start + start, self._start + stop)
