"""Features as ranks, the cumulative distribution of the paper's equation 4, ties included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.stats

from keras_swift.src._types import FloatArray


def cumulative_rank(values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Share of the total weight at or below each value.

    Computes `sum(weights[values <= v]) / sum(weights)` for each `v`. Equal
    values get equal ranks, whatever their order.

    Args:
        values: float array, shape `(n,)`, finite.
        weights: float array, shape `(n,)`, non-negative. `None` or all-zero
            weights count each value once.

    Returns:
        A float64 array, shape `(n,)`, in `[0, 1]`. The largest value gets 1.

    Example:
        >>> cumulative_rank(np.array([3.0, 1.0, 3.0, 2.0])).tolist()
        [1.0, 0.25, 1.0, 0.5]
    """
    if weights is None or not np.any(weights > 0):
        return np.asarray(scipy.stats.rankdata(values, method="max") / len(values))
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(np.asarray(weights, np.float64)[order])
    # All members of a tie get the sum at the tie's end.
    last = np.searchsorted(values[order], values, side="right") - 1
    return np.asarray(cumulative[last] / cumulative[-1])


def check_features(columns: Mapping[str, FloatArray], argument: str = "`features`") -> None:
    """Raises unless all are one-dimensional, of one length, not empty, and finite."""
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"{argument} must all have the same shape (n,). Received: {shapes}")
    for name, column in columns.items():
        if not len(column):
            raise ValueError(f"{argument} must have at least one example. Received: {shapes}")
        bad = ~np.isfinite(column)
        if bad.any():
            raise ValueError(
                f"{argument} must be finite. Received: {int(bad.sum())} of {len(column)} numbers "
                f"of {name!r} that are not, the first at index {int(bad.argmax())}."
            )
