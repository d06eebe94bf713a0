"""One batch of a stream, checked and as NumPy arrays.

This file decides which items a stream may yield, and what may be an id.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np

from keras_swift.src._types import Array, ArrayTree
from keras_swift.src.data.arrays import Data, class_weights, standard
from keras_swift.src.data.leaves import (
    check_text,
    dense,
    is_ragged,
    is_sparse,
    map_leaves,
    of_frame,
    present_leaves,
)

# `(x, y)` or `(x, y, sample_weight)`.
StreamBatch: TypeAlias = tuple[ArrayTree, ...]


class UnevenBatch(ValueError):
    """A batch whose inputs, targets and weights have different numbers of rows."""


@dataclasses.dataclass(frozen=True)
class Read:
    """A batch that was read.

    Attributes:
        batch: `(x, y)` or `(x, y, sample_weight)` of NumPy structures.
        ids: array, shape `(b,)`, the ids that the user gave the examples; `None` if none.
        sparse: list of bool, whether each leaf of the inputs and targets came as a sparse array.
        index: int, the batch's index in a `PyDataset`; `None` for other sources.
        position: the state of the order of a `PyDataset` before this batch, for `restore`.
    """

    batch: StreamBatch
    ids: Array | None = None
    sparse: list[bool] = dataclasses.field(default_factory=list)
    index: int | None = None
    position: Any = None

    def __len__(self) -> int:
        return len(present_leaves(self.batch)[0])

    @property
    def data(self) -> Data:
        """`(x, y, sample_weight)`, with `None` for missing weights."""
        x, y, sample_weight = (*self.batch, None)[:3]
        return x, y, sample_weight


def checked_item(item: Any, needs_targets: bool, class_weight: dict[int, float] | None) -> Read:
    """A stream's item as a batch.

    Args:
        item: `(x, y)`, `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`.
        needs_targets: bool, whether there must be a `y`; otherwise the item may also be `(x,)` or
            `x` alone.
        class_weight: dict from class number to weight, or `None`.

    Raises:
        TypeError: for parts that are not arrays, and ids that are neither integers nor strings.
        UnevenBatch: for parts of different lengths.
        ValueError: for an item of another form, or weights beside `class_weight`.
    """
    batch: StreamBatch = tuple(item) if isinstance(item, list) else item
    if not needs_targets and not (isinstance(batch, tuple) and len(batch) > 1):
        batch = (batch[0] if isinstance(batch, tuple) else batch, None)
    if not isinstance(batch, tuple) or len(batch) not in (2, 3, 4):
        found = f"{len(batch)} parts" if isinstance(batch, tuple) else type(batch).__name__
        raise ValueError(
            "A batch must be `(x, y)`, `(x, y, sample_weight)` or `(x, y, sample_weight, ids)`: an "
            f"example's importance and features are computed from its targets. Received: {found}."
        )
    ids = batch[3] if len(batch) == 4 else None
    batch = batch[:2] if len(batch) > 2 and batch[2] is None else batch[:3]
    sparse = [is_sparse(leaf) for leaf in present_leaves(batch[:2])]
    batch = map_leaves(_of_floatx, batch)
    lengths = {len(leaf) for leaf in present_leaves(batch)}
    if len(lengths) != 1 or 0 in lengths:
        raise UnevenBatch(
            "All parts of a batch must have the same length, at least 1, to draw single "
            f"examples. Received: lengths {sorted(lengths)}. Let the targets have a row for "
            "each example, and the loss join what it compares."
        )
    if ids is not None:
        ids = _checked_ids(ids, lengths.pop())
    if class_weight is None:
        return Read(batch, ids, sparse)
    if len(batch) == 3:
        raise ValueError(
            "`class_weight` must not be given if the stream yields weights, as in "
            "`model.fit`. Received: both."
        )
    return Read((*batch, class_weights(batch[1], class_weight)), ids, sparse)


def _checked_ids(ids: Any, count: int) -> Array:
    """The ids of a batch as an array of integers or strings, shape `(count,)`."""
    array = np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)
    if array.dtype == object and all(isinstance(name, str | bytes) for name in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind not in "iuSU":
        nans = array.dtype.kind == "f" and bool(np.isnan(array).any())
        raise TypeError(
            "The ids of a batch, its fourth part, must be integers or strings that stay with an "
            f"example from epoch to epoch. Received: {array.dtype}{' with NaN' if nans else ''}. "
            "Number the examples before they are shuffled: `dataset.enumerate()` of `tf.data`, or "
            "the index that a PyTorch `Dataset` is asked for."
        )
    if array.shape != (count,):
        raise ValueError(
            "The ids of a batch, its fourth part, must have shape `(b,)`, one for each example. "
            f"Received: shape {array.shape} for {count} examples."
        )
    return array


def _of_floatx(leaf: Any) -> Array | None:
    array = as_numpy(leaf)
    return None if array is None else standard(array)


def as_numpy(leaf: Any) -> Array | None:
    """A leaf of a batch as a NumPy array of numbers or text, dense, with an axis of examples."""
    if leaf is None or (type(leaf) is np.ndarray and leaf.ndim and leaf.dtype.kind in "biuf"):
        return leaf
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
        leaf = (leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf).numpy()
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
    return array
