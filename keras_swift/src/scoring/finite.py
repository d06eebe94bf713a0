"""Scores that are not finite: what to say of them."""

from __future__ import annotations

import warnings

import numpy as np
from keras import ops

from keras_swift.src._types import ArrayTree, FloatArray
from keras_swift.src.data.leaves import there


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
        for leaf in there(data):
            leaf = ops.convert_to_numpy(leaf)
            if not np.issubdtype(leaf.dtype, np.floating):
                continue
            bad = ~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            if bad.any():
                return (
                    f"`{name}` must be finite. Received: NaN or infinity in {bad.sum()} of the "
                    f"{len(leaf)} examples presampled, so {count}, the first at position "
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
