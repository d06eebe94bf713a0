"""The features that a sampler is given: by name or as columns, checked and in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_swift.src._types import FloatArray
from keras_swift.src.rules import in_argument, numbers
from keras_swift.src.swift.ranks import check_features

# The feature that weights the cumulative gradient function; a sampler may also use it directly.
GRADIENT_NORM: Final = "gradient_norm"
# Features by name, or as columns, shape `(n, features)`.
Columns: TypeAlias = Mapping[str, npt.ArrayLike] | npt.ArrayLike


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
    check_features(dict(zip(names, columns, strict=True)))
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
    check_features({GRADIENT_NORM: weights}, "`gradient_norm`")
    if np.any(weights < 0):
        raise ValueError(
            "`gradient_norm` must not be negative. Received: "
            f"{int(np.sum(weights < 0))} negative of {len(weights)}."
        )
    return weights
