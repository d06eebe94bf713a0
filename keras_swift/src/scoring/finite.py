"""Finds numbers that are not finite, in data and in scores, and describes them in errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
from keras import ops

from keras_swift.src._types import ArrayTree, BoolArray, FloatArray, IntArray
from keras_swift.src.data.leaves import present_leaves

# Bytes that are read and checked at a time, because the rows may be on disk.
_PART = 2**24


def rows_not_finite(structure: ArrayTree, size: int) -> BoolArray:
    """Which examples have NaN or infinity in one of their numbers.

    Args:
        structure: structure of arrays, first axis `n`; also SciPy's sparse ones and those on disk.
        size: int, `n`.

    Returns:
        A bool array, shape `(n,)`.
    """
    found = np.zeros(size, bool)
    for leaf in present_leaves(structure):
        if np.issubdtype(leaf.dtype, np.floating):
            row = int(np.prod(leaf.shape[1:])) * leaf.dtype.itemsize
            rows = max(1, _PART // max(1, row))
            for start in range(0, size, rows):
                found[start : start + rows] |= _not_finite(leaf[start : start + rows])
    return found


def not_finite_error(name: str, bad: IntArray, size: int) -> ValueError:
    """The error for an argument with numbers that are not finite.

    Args:
        name: str, the argument.
        bad: int array, the indices of the examples.
        size: int, how many examples there are.
    """
    return ValueError(
        f"`{name}` must be finite. Received: NaN or infinity in {len(bad)} of {size} examples, the "
        f"first at index {bad[0]}. Find them with `np.isnan` or `np.isinf`, and drop or fix them."
    )


def check_weights_are_finite(sample_weight: ArrayTree, size: int) -> None:
    """Raises for sample weights that are not finite: one is enough to make the loss so."""
    bad = np.flatnonzero(rows_not_finite(sample_weight, size))
    if len(bad):
        raise not_finite_error("sample_weight", bad, size)


def _not_finite(rows: Any) -> BoolArray:
    if scipy.sparse.issparse(rows):
        entries = rows.tocoo()
        found = np.zeros(rows.shape[0], bool)
        found[entries.row[~np.isfinite(entries.data)]] = True
        return found
    numbers = np.asarray(rows)
    bad: BoolArray = ~np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    return bad


def not_finite(
    scores: FloatArray, x: ArrayTree, y: ArrayTree, sample_weight: ArrayTree, step: int
) -> str | None:
    """Describes which scores are not finite, and why.

    Args:
        scores: float array, shape `(n,)`.
        x, y, sample_weight: the structures of arrays they were computed from.
        step: int, the training step, from 0.

    Returns:
        A str, or `None` if all are finite.
    """
    wrong = ~np.isfinite(scores)
    if not wrong.any():
        return None
    count = f"{wrong.sum()} of {len(scores)} scores are not finite at step {step}"
    for name, data in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        bad = rows_not_finite(
            [ops.convert_to_numpy(leaf) for leaf in present_leaves(data)], len(scores)
        )
        if bad.any():
            return (
                f"`{name}` must be finite. Received: NaN or infinity in {bad.sum()} of the "
                f"{len(bad)} examples presampled, so {count}, the first at position "
                f"{int(np.argmax(bad))}. Find them with `np.isnan` and drop or fix them."
            )
    return (
        f"Scores must be finite. Received: {count}, the first at position "
        f"{int(np.argmax(wrong))}, from finite data. The model's weights have probably "
        "diverged: lower the learning rate or clip the gradient "
        "(`clipnorm=1.0` in the optimizer)."
    )


def warn_not_finite(reason: str) -> None:
    """Warns that a batch is uniform because scores are not finite.

    Args:
        reason: str, the result of `not_finite`.
    """
    warnings.warn(
        f"{reason} Such a batch is drawn uniformly, as `model.fit` would; "
        "`keras.callbacks.TerminateOnNaN` ends a run that has diverged.",
        stacklevel=2,
    )
