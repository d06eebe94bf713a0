"""The leaves of what `fit` was given: arrays of any library, in memory or on a disk, or `None`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import scipy.sparse

from keras_swift.src._types import Array, ArrayTree, IntArray

STRINGS = (str, bytes, np.str_, np.bytes_)


def is_text(array: Any) -> bool:
    """Whether an array holds strings, of one width or as Python objects."""
    return array.dtype.kind in "US" or array.dtype == object


def check_text(name: str, array: Array) -> None:
    """Raises for Python objects that are not strings, and for strings without TensorFlow."""
    if array.dtype == object and not all(isinstance(item, STRINGS) for item in array.flat):
        raise TypeError(
            f"{name} must hold numbers or strings. Received: an array of Python objects. Rows of "
            "different lengths have to be padded to one length first."
        )
    if is_text(array) and keras.backend.backend() != "tensorflow":
        raise TypeError(
            f"{name} must hold numbers: only the TensorFlow backend has tensors of strings. "
            f"Received: strings with the {keras.backend.backend()} backend. Turn them into "
            "numbers first, for example `x = keras.layers.TextVectorization(...)(x)` before `fit`, "
            "or set KERAS_BACKEND=tensorflow."
        )


def is_sparse(leaf: Any) -> bool:
    """Whether a leaf is a sparse TensorFlow or JAX tensor, or a SciPy matrix."""
    if type(leaf) is np.ndarray:
        # The usual case; the rest takes as long as the other checks of a small batch together.
        return False
    return (
        scipy.sparse.issparse(leaf)
        or type(leaf).__module__.startswith("jax.experimental.sparse")
        or (type(leaf).__name__ == "SparseTensor" and "tensorflow" in type(leaf).__module__)
    )


def is_ragged(leaf: Any) -> bool:
    """Whether a leaf is a ragged TensorFlow tensor."""
    return type(leaf).__name__ == "RaggedTensor" and "tensorflow" in type(leaf).__module__


def dense(leaf: Any) -> Array:
    """The array of a sparse leaf."""
    if scipy.sparse.issparse(leaf):
        array: Array = leaf.toarray()
        return array
    if hasattr(leaf, "todense"):
        return np.asarray(leaf.todense())
    values = np.asarray(leaf.values)
    array = np.zeros(tuple(leaf.dense_shape.numpy()), values.dtype)
    array[tuple(np.asarray(leaf.indices).T)] = values
    return array


def rows_by_rows(leaf: Any) -> Any:
    """A sparse leaf as an object that supports indexing rows.

    A SciPy matrix; a dense array unless it has two axes.

    Args:
        leaf: a leaf for which `is_sparse` is true.
    """
    if scipy.sparse.issparse(leaf):
        return leaf.tocsr()
    shape = tuple(int(size) for size in getattr(leaf, "dense_shape", leaf.shape))
    if len(shape) != 2 or not hasattr(leaf, "indices"):
        return dense(leaf)
    values = np.asarray(getattr(leaf, "values", getattr(leaf, "data", None)))
    return scipy.sparse.csr_matrix((values, tuple(np.asarray(leaf.indices).T)), shape)


def of_frame(frame: Any) -> Array:
    """The numbers of a pandas object, as `model.fit` casts them."""
    array: Array = frame.to_numpy()
    # Columns of mixed types, such as the bool ones of `get_dummies` beside floats.
    if array.dtype == object and not any(
        isinstance(item, STRINGS) for item in array.reshape(len(array), -1)[:1].flat
    ):
        try:
            array = frame.astype(keras.config.floatx()).to_numpy()
        except (TypeError, ValueError):
            pass
    return array


def as_fed(structure: ArrayTree) -> ArrayTree:
    """The structure as Keras accepts it: arrays of strings as tensors, all else unchanged."""
    return keras.tree.map_structure(
        lambda leaf: keras.ops.convert_to_tensor(leaf) if _is_text_array(leaf) else leaf, structure
    )


def _is_text_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and is_text(leaf)


def structure_key(structure: ArrayTree) -> str:
    """A string that is equal for structures of equal containers, with `None`s in equal places."""
    return repr(map_leaves(lambda leaf: None if leaf is None else 0, structure))


def map_leaves(function: Callable[[Any], Any], structure: ArrayTree) -> ArrayTree:
    """`keras.tree.map_structure`, in a tenth of its time for arrays and tuples of arrays."""
    if structure is None or hasattr(structure, "shape"):
        return function(structure)
    if type(structure) is tuple:
        return tuple(map_leaves(function, part) for part in structure)
    return keras.tree.map_structure(function, structure)


def all_leaves(structure: ArrayTree) -> list[Any]:
    """`keras.tree.flatten`, faster for arrays and tuples of arrays; `None`s are leaves."""
    if structure is None or hasattr(structure, "shape"):
        return [structure]
    if type(structure) is tuple:
        return [leaf for part in structure for leaf in all_leaves(part)]
    leaves: list[Any] = keras.tree.flatten(structure)
    return leaves


def present_leaves(structure: ArrayTree) -> list[Any]:
    """The leaves of a structure that are not `None`."""
    return [leaf for leaf in all_leaves(structure) if leaf is not None]


def with_leaves(structure: ArrayTree, leaves: Iterable[Any]) -> ArrayTree:
    """The structure with other leaves in place of those that are not `None`."""
    others = iter(leaves)
    every = [None if leaf is None else next(others) for leaf in all_leaves(structure)]
    return packed(structure, iter(every))


def packed(structure: ArrayTree, leaves: Iterator[Any]) -> ArrayTree:
    """`keras.tree.pack_sequence_as`, faster for arrays and tuples of arrays.

    Mapping each leaf to the next of `leaves` would not do: on PyTorch, Keras flattens a dict in the
    order of its sorted keys, but maps it in the dict's own order.
    """
    if structure is None or hasattr(structure, "shape"):
        return next(leaves)
    if type(structure) is tuple:
        return tuple(packed(part, leaves) for part in structure)
    count = len(keras.tree.flatten(structure))
    return keras.tree.pack_sequence_as(structure, [next(leaves) for _ in range(count)])


def pieces(structure: ArrayTree, rows: list[slice]) -> list[ArrayTree]:
    """The rows of every leaf in each slice, one structure a slice; `None` stays `None`.

    A single slice must cover all rows.
    """
    if len(rows) == 1:
        # All rows, so nothing is sliced.
        return [structure]
    return [
        map_leaves(lambda leaf, own=own: None if leaf is None else leaf[own], structure)  # type: ignore[misc]
        for own in rows
    ]


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
