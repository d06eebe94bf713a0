"""Arrays that `fit` was given, read by index.

The samplers ask a source for examples by index; they never see whether the
data is one array or a dict of them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
import scipy.sparse

from keras_swift.src._types import Array, ArrayTree, IntArray, Tensor
from keras_swift.src.data.leaves import (
    RowsOnDisk,
    check_text,
    is_mapped,
    is_ragged,
    is_sparse,
    is_text,
    map_leaves,
    of_frame,
    present_leaves,
    rows_by_rows,
    with_leaves,
)

# `(x, y, sample_weight)` of some examples.
Data: TypeAlias = tuple[ArrayTree, ArrayTree, ArrayTree]

# How many examples are used to build a model and to inspect its losses.
SPECIMEN = 8


class ArraySource:
    """Arrays in memory or memory-mapped.

    Args:
        x: array, or a list, tuple or dict of arrays, first axis `n`. NumPy
            arrays and `h5py` data sets (which stay on disk, as memory-mapped
            arrays do), tensors of any framework, pandas objects (a series is
            a column, shape `(n, 1)`, as in `model.fit`) and SciPy's sparse
            matrices or a framework's, whose rows are made dense batch by
            batch. Strings with the TensorFlow backend. `None` for an array
            stays `None`. An array in memory that is stored by columns is
            copied.
        y: the same for the targets.
        sample_weight: the same for the weights, shape `(n,)` or with the axes
            of the loss values. Defaults to `None`, no weights.
        needs_targets: bool, whether there has to be a `y`. Defaults to `True`.

    Raises:
        TypeError: if `x` is a data set object, a generator or holds anything
            that is not an array.
        ValueError: if there is no `y`, no example, or if lengths differ.
    """

    def __init__(
        self,
        x: ArrayTree,
        y: ArrayTree,
        sample_weight: ArrayTree = None,
        needs_targets: bool = True,
    ) -> None:
        self.x = keras.tree.map_structure(lambda leaf: _as_array(leaf, "x"), x)
        if y is None and needs_targets:
            raise ValueError(
                "`y` must be given: an example's importance is computed from its loss. Received: "
                "y=None. To train on the input itself (an autoencoder), pass `y=x`."
            )
        self.y = keras.tree.map_structure(lambda leaf: _as_array(leaf, "y"), y)
        self.sample_weight = None
        if sample_weight is not None:
            self.sample_weight = keras.tree.map_structure(
                lambda leaf: _as_array(leaf, "sample_weight"), sample_weight
            )
        self.size = self._common_length()
        self._in_memory: tuple[ArrayTree, ArrayTree] | None = None

    @property
    def is_in_memory(self) -> bool:
        """bool, whether all targets can be read without a disk."""
        return not any(
            isinstance(leaf, RowsOnDisk) or is_mapped(leaf)
            for leaf in keras.tree.flatten(self.y)
            if leaf is not None
        )

    def _common_length(self) -> int:
        lengths: dict[str, list[int]] = {
            # Sparse matrices have no `len`.
            name: [leaf.shape[0] for leaf in keras.tree.flatten(data) if leaf is not None]
            for name, data in (("x", self.x), ("y", self.y), ("sample_weight", self.sample_weight))
            if data is not None
        }
        for name, found in lengths.items():
            if not found:
                raise ValueError(
                    f"`{name}` must hold at least one array. Received: an empty structure."
                )
        if len({length for found in lengths.values() for length in found}) > 1:
            received = ", ".join(
                f"len({name})={found[0] if len(found) == 1 else found}"
                for name, found in lengths.items()
            )
            raise ValueError(
                f"`x`, `y` and `sample_weight` must have the same length. Received: {received}."
            )
        if lengths["x"][0] == 0:
            raise ValueError("`x` must hold at least one example. Received: an empty array.")
        return lengths["x"][0]

    def identity(self) -> list[tuple[int, tuple[int, ...]]]:
        """Identifies the arrays: equal for the same ones, different for others but by accident."""
        return [
            (leaf.ctypes.data if isinstance(leaf, np.ndarray) else id(leaf), leaf.shape)
            for leaf in present_leaves((self.x, self.y))
        ]

    def arrays(self, most_bytes: int) -> tuple[ArrayTree, ArrayTree] | None:
        """The arrays of `x` and `y`; `None` if they are not in memory or take more bytes.

        Returns:
            A tuple `(x, y)` of structures of NumPy arrays.
        """
        leaves = present_leaves((self.x, self.y))
        if any(
            not isinstance(leaf, np.ndarray) or is_mapped(leaf) or is_text(leaf) for leaf in leaves
        ):
            return None
        return (self.x, self.y) if sum(leaf.nbytes for leaf in leaves) <= most_bytes else None

    @property
    def is_on_device(self) -> bool:
        """Whether `take` returns tensors on the model's device."""
        return self._in_memory is not None

    def keep_on_device(self, most_bytes: int) -> None:
        """Copies `x` and `y` to the model's device, if they fit into `most_bytes`.

        From then on `take` gathers rows there and returns tensors. Arrays on disk and arrays that
        hold anything but numbers stay where they are.
        """
        arrays = self.arrays(most_bytes)
        numbers = all(leaf.dtype.kind in "biuf" for leaf in present_leaves(arrays or ()))
        if arrays is not None and numbers:
            self._in_memory = arrays
            self.x, self.y = with_leaves(arrays, map(_on_device, present_leaves(arrays)))

    def leave_device(self) -> None:
        """Frees the copies, if there are any."""
        if self._in_memory is not None:
            self.x, self.y = self._in_memory
            self._in_memory = None

    def specimen(self) -> tuple[ArrayTree, ArrayTree]:
        """`(x, y)` of the first few examples, to build a model and inspect its losses."""
        return self.take(np.arange(min(SPECIMEN, self.size)))[:2]

    def take(self, indices: IntArray, only_weights: bool = False) -> Data:
        """The examples at `indices`.

        Args:
            indices: int array, shape `(k,)`.
            only_weights: bool, whether to return `None` for `x` and `y`.
                Defaults to `False`.

        Returns:
            A tuple `(x, y, sample_weight)` of structures of NumPy arrays (or tensors) with first
            axis `k`; float64 is cast to `keras.config.floatx()`, as in
            `model.fit`; `sample_weight` is `None` if none was given.
        """
        x, y = (None, None) if only_weights else (self.x, self.y)
        x, y, sample_weight = select((x, y, self.sample_weight), indices)
        return x, y, sample_weight


def select(data: tuple[ArrayTree, ...], indices: IntArray | slice) -> tuple[ArrayTree, ...]:
    """Rows of every array in a structure; `None` stays `None`."""

    def rows(array: Any) -> Any:
        if array is None:
            return None
        if keras.ops.is_tensor(array):
            # On the model's device: rows are gathered there.
            return keras.ops.take(array, indices, axis=0)
        chosen = array[indices]
        chosen = chosen.toarray() if scipy.sparse.issparse(chosen) else np.asarray(chosen)
        return standard(chosen)

    return tuple(map_leaves(rows, part) for part in data)


def _on_device(array: Array) -> Tensor:
    return keras.ops.convert_to_tensor(standard(array))


def standard(array: Array) -> Array:
    """The array, cast to `keras.config.floatx()` if it is float64, as in `model.fit`."""
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _as_array(leaf: Any, argument: str) -> Any:
    if leaf is None:
        return None
    package = type(leaf).__module__.partition(".")[0]
    if isinstance(leaf, np.ndarray | RowsOnDisk):
        array = leaf
    elif package == "h5py" and hasattr(leaf, "shape"):
        array = RowsOnDisk(leaf)
    elif is_sparse(leaf):
        array = rows_by_rows(leaf)
    elif is_ragged(leaf):
        raise TypeError(
            f"`{argument}` must have rows of one length. Received: a ragged tensor. Make it dense "
            "with `.to_tensor()`."
        )
    elif package == "pandas" and hasattr(leaf, "to_numpy"):
        array = of_frame(leaf)
        if array.ndim == 1 and argument != "sample_weight":
            array = array[:, None]
    elif hasattr(leaf, "__array__") and hasattr(leaf, "shape"):
        # A PyTorch tensor may require gradients or be on a device.
        array = np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)
    else:
        raise TypeError(
            f"`{argument}` must be an array, a tensor, a data frame, or a list, tuple or dict of "
            f"them; or only `x`, a source of batches. Received: {type(leaf).__module__}."
            f"{type(leaf).__qualname__}. Give arrays, or a `PyDataset`, `tf.data.Dataset`, "
            "`DataLoader` or generator of batches."
        )
    if array.ndim == 0:
        raise ValueError(
            f"`{argument}` must have a first axis that counts the examples. Received: a scalar."
        )
    if isinstance(array, np.ndarray):
        check_text(f"`{argument}`", array)
        if argument == "sample_weight" and is_text(array):
            raise TypeError("`sample_weight` must hold numbers. Received: strings.")
    return _by_rows(array)


def _by_rows(array: Any) -> Any:
    """The array with contiguous rows; a copy if they are not contiguous.

    A data frame stores columns contiguously, and so does NumPy's
    `pixels[:, order]`. Gathering a batch from those misses the cache at
    every number, at every step.
    """
    if not isinstance(array, np.ndarray) or is_mapped(array):
        return array
    rows, *others = map(abs, array.strides)
    return np.ascontiguousarray(array) if max(others, default=0) > rows > 0 else array


def split(
    x: ArrayTree, y: ArrayTree, sample_weight: ArrayTree, validation_split: float
) -> tuple[Data, Data]:
    """Holds out the last share of the data, as `model.fit` does.

    Args:
        x, y, sample_weight: as for `ArraySource`.
        validation_split: float in [0, 1), the share held out.

    Returns:
        Two tuples `(x, y, sample_weight)`: for training and for validation.

    Raises:
        ValueError: if the share leaves either side empty, or is outside
            [0, 1).
    """
    if not 0 <= validation_split < 1:
        raise ValueError(
            f"`validation_split` must be in [0, 1). Received: validation_split={validation_split}."
        )
    # The caller decides whether targets are required.
    source = ArraySource(x, y, sample_weight, needs_targets=False)
    kept = math.floor(source.size * (1.0 - validation_split))
    if kept in (0, source.size):
        raise ValueError(
            "`validation_split` must leave examples on both sides. Received: "
            f"validation_split={validation_split} with {source.size} examples."
        )
    data = (source.x, source.y, source.sample_weight)

    def cut(rows: slice, take: Callable[[Any, slice], Any]) -> Data:
        x, y, sample_weight = (
            None
            if part is None
            else keras.tree.map_structure(
                lambda leaf: None if leaf is None else take(leaf, rows), part
            )
            for part in data
        )
        return x, y, sample_weight

    def lazily(leaf: Any, rows: slice) -> Any:
        return leaf.part(rows) if isinstance(leaf, RowsOnDisk) else leaf[rows]

    # What is held out is passed to Keras, which does not take `RowsOnDisk`.
    return cut(slice(None, kept), lazily), cut(slice(kept, None), operator.getitem)


def class_weights(
    y: ArrayTree, class_weight: dict[int, float] | None, sample_weight: ArrayTree = None
) -> ArrayTree:
    """The weight of each example's class, shape `(n,)`, float32.

    Args:
        y: array of class numbers, shape `(n,)` or `(n, 1)`, or of one-hot rows,
            shape `(n, classes)`.
        class_weight: dict from class number to weight; other classes
            have weight 1. `None` returns `sample_weight`.
        sample_weight: the user's weights. Defaults to `None`.

    Raises:
        ValueError: if both are given, or if `y` is a structure of several
            outputs or has more than one label for an example.
    """
    if class_weight is None:
        return sample_weight
    if sample_weight is not None:
        raise ValueError(
            "`class_weight` and `sample_weight` cannot be given together, as in "
            "`model.fit`. Received: both. Multiply the class weights into "
            "`sample_weight`."
        )
    if keras.tree.is_nested(y):
        raise ValueError(
            "`class_weight` is for models with a single output. Received: a structure of "
            "targets. Give `sample_weight`, one array for each output."
        )
    labels = _as_array(y, "y")[:]
    if labels.ndim > 1:
        labels = np.argmax(labels, axis=-1) if labels.shape[-1] != 1 else labels[..., 0]
    if labels.ndim > 1:
        raise ValueError(
            "`class_weight` is for one label for each example, as in `model.fit`. Received: "
            f"targets of shape (n, {', '.join(map(str, np.shape(y)[1:]))}). Give a weight for each "
            "label as `sample_weight`, of that shape without an axis of classes."
        )
    found, inverse = np.unique(np.round(labels).astype(np.int64), return_inverse=True)
    weights = np.array([class_weight.get(int(label), 1.0) for label in found], np.float32)
    return weights[inverse.reshape(-1)]
