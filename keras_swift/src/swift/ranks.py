"""Features as a sampler takes them: checked, in its order, and as ranks.

A rank is the cumulative distribution of the paper's equation 4, ties included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.stats

from keras_swift.src._types import FloatArray
from keras_swift.src.rules import in_argument, numbers

# The feature that weights the cumulative gradient function; a sampler may also use it directly.
GRADIENT_NORM: Final = "gradient_norm"
# Features by name, or as columns, shape `(n, features)`.
Columns: TypeAlias = Mapping[str, npt.ArrayLike] | npt.ArrayLike


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


def aggregate(coefficients: FloatArray, ranks: Iterable[FloatArray]) -> FloatArray:
    """The sum of the ranks of each example by all features, times their coefficients.

    Args:
        coefficients: float array, one for each feature.
        ranks: iterable of float arrays, shape `(n,)`, one for each feature.

    Returns:
        A float64 array, shape `(n,)`, in which sums that differ only by rounding are ties.
    """
    # Summed term by term: a matrix product may round equal rows differently and break ties.
    terms = [c * column for c, column in zip(coefficients, ranks, strict=True)]
    return np.round(sum(terms, start=np.zeros(len(terms[0]))), 12)


def given_features(
    names: Sequence[str], features: Columns, gradient_norm: npt.ArrayLike | None
) -> tuple[list[FloatArray], npt.ArrayLike | None]:
    """The features in the order of `names`, shape `(n,)` each, and the gradient norm, if any.

    Args:
        names: the features that the sampler was made for.
        features: as `SwiftSampler.probabilities` takes them.
        gradient_norm: likewise; an entry of `features` takes its place if it is `None`.

    Raises:
        ValueError: if a feature is missing, of another length or not finite.
    """
    if isinstance(features, Mapping):
        missing = [name for name in names if name not in features]
        if missing:
            raise ValueError(
                f"`features` must have the entries {list(names)}, which this sampler "
                f"was made for. Received: {sorted(features)}; missing: {missing}"
            )
        with in_argument("features"):
            columns = [numbers(name, features[name], (None,)) for name in names]
        if gradient_norm is None:
            gradient_norm = features.get(GRADIENT_NORM)
    else:
        columns = list(numbers("features", features, (None, len(names))).T)
    _check_features(dict(zip(names, columns, strict=True)))
    return columns, gradient_norm


def gradient_weights(gradient_norm: npt.ArrayLike | None, size: int) -> FloatArray:
    """The gradient norm of each example as the weights of the "cgf" transform, shape `(size,)`.

    Raises:
        ValueError: if it is missing, of another length, negative or not finite.
    """
    if gradient_norm is None:
        raise ValueError(
            'The "cgf" transform needs the gradient norm of each example. Received: '
            "gradient_norm=None. Pass `gradient_norm`, an entry "
            '"gradient_norm" of `features`, or use transform="cdf".'
        )
    weights = numbers(GRADIENT_NORM, gradient_norm, (size,))
    _check_features({GRADIENT_NORM: weights}, "`gradient_norm`")
    if np.any(weights < 0):
        raise ValueError(
            "`gradient_norm` must not be negative. Received: "
            f"{int(np.sum(weights < 0))} negative of {len(weights)}."
        )
    return weights


def _check_features(columns: Mapping[str, FloatArray], argument: str = "`features`") -> None:
    """Raises unless all vectors are of one length, not empty, and finite."""
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) != 1:
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
