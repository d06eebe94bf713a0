"""Sources without indices, seen as "the next batch, please".

What `fit` accepts besides arrays: a `PyDataset`, a `tf.data.Dataset`, a PyTorch `DataLoader`, a
generator, or any iterable of batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np


def is_stream(x: Any) -> bool:
    """Whether `x` gives batches rather than being arrays."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    if isinstance(x, list | tuple | dict) or hasattr(x, "__array__") or hasattr(x, "shape"):
        return False
    return isinstance(x, Iterable)


class Stream:
    """Batches of a source as NumPy structures, begun anew whenever it ends.

    Args:
        source: any of the kinds above. Its items are `(x, y)` or
            `(x, y, sample_weight)`.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._iterator: Iterator | None = None

    @property
    def length(self) -> int | None:
        """Number of batches in a pass, or `None` where it is not known."""
        if isinstance(self._source, keras.utils.PyDataset):
            return self._source.num_batches
        try:
            return len(self._source)
        except TypeError:
            return None

    def next_batch(self) -> tuple:
        """The next `(x, y)` or `(x, y, sample_weight)`.

        Raises:
            ValueError: if a source that can be read only once is at its end,
                or an item is not of that form.
        """
        if self._iterator is not None:
            try:
                return self._checked(next(self._iterator))
            except StopIteration:
                if self._iterator is self._source:
                    raise ValueError(
                        "The generator ended before training did. Each step takes two of its "
                        "batches: let it run on, or lower `epochs` or `steps_per_epoch`."
                    ) from None
        self._iterator = iter(self._passes())
        try:
            return self._checked(next(self._iterator))
        except StopIteration:
            raise ValueError("The source of batches is empty.") from None

    def _passes(self) -> Any:
        if not isinstance(self._source, keras.utils.PyDataset):
            return iter(self._source)
        return self._batches_of_dataset()

    def _batches_of_dataset(self) -> Iterator:
        dataset, index = self._source, 0
        dataset.on_epoch_begin()
        while dataset.num_batches is None or index < dataset.num_batches:
            yield dataset[index]
            index += 1
        dataset.on_epoch_end()

    def _checked(self, batch: Any) -> tuple:
        if isinstance(batch, list):
            batch = tuple(batch)
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            found = f"{len(batch)} parts" if isinstance(batch, tuple) else type(batch).__name__
            raise ValueError(
                "A batch must be `(x, y)` or `(x, y, sample_weight)`: features are read off "
                f"the targets. Received: {found}."
            )
        return keras.tree.map_structure(_as_numpy, batch)


def _as_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)
