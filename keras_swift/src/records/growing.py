"""An array that grows row by row at little cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_swift.src._types import Array

# The factor by which a full array grows.
GROWTH = 1.25


def as_items(rows: Array) -> Array:
    """A view of rows as single items, shape `(n,)`, which NumPy gathers in a tenth of the time.

    Args:
        rows: contiguous array, shape `(n, k)`.
    """
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]


class GrowingRows:
    """Rows of numbers with room for more.

    Args:
        size: int, `n`, the number of rows.
        shape: tuple of int, the shape of a row.
        fill: the value of rows that are new.
        dtype: NumPy type.

    Example:
        >>> rows = GrowingRows(1, (), -1, np.int32)
        >>> rows.values[0] = 5
        >>> rows.resize(3)
        >>> rows.values.tolist()
        [5, -1, -1]
    """

    def __init__(self, size: int, shape: tuple[int, ...], fill: Any, dtype: Any) -> None:
        self._fill = fill
        self._rows = np.full((size, *shape), fill, dtype)
        self._size = size

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> Array:
        """Array, shape `(n, ...)`; a view, until the next `resize`."""
        return self._rows[: self._size]

    def resize(self, size: int) -> None:
        """Changes the number of rows to `size`; rows that remain keep their values."""
        if size == self._size:
            return
        if size > len(self._rows):
            rows = np.full(
                (max(size, int(GROWTH * len(self._rows))), *self._rows.shape[1:]),
                self._fill,
                self._rows.dtype,
            )
            rows[: self._size] = self.values
            self._rows = rows
        # Rows that were not in use yet hold the filling already.
        self._rows[size : self._size] = self._fill
        self._size = size
