"""Checks that every example fits a model, before anything is trained on it.

This file decides which labels, weights and numbers are wrong. Otherwise they would show later, as
an error of the framework that names no argument, or as a NaN loss that silently ruins the training.
"""

from __future__ import annotations

import numpy as np

from keras_swift.src._keras import own_methods
from keras_swift.src._types import ArrayTree
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.scoring.compiled import NEEDS_LOSS, CompiledLosses, build, check_weights
from keras_swift.src.scoring.finite import (
    check_weights_are_finite,
    not_finite_error,
    rows_not_finite,
)
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.scoring.output_loss import NoExampleLoss
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.validation import explained

# How many of the examples with numbers that are not finite are scored: usually all are wrong.
_TRIED = 32


def check_examples(
    model: ArrayTree, source: ArraySource, batch_size: int, needs_loss: bool = True
) -> CompiledLosses:
    """Builds a model, and raises for examples that do not fit it.

    Args:
        model: a compiled `keras.Model`.
        source: `ArraySource` of the examples.
        batch_size: int, the most examples to build the model from.
        needs_loss: bool, whether each example must have a loss that can be read. Defaults to
            `True`.

    Returns:
        `CompiledLosses` of the model.

    Raises:
        ValueError: for a model without such a loss, data that the model or the loss cannot
            process, labels outside the classes, and numbers that make a loss that is not finite.
    """
    some_x, some_y, some_weights = source.take(np.arange(min(batch_size, source.size)))
    with explained(some_x, some_y):
        losses = build(model, some_x, some_y)
    # Layers, or a method of the model's own, may give it another loss than the compiled one.
    trains = bool(losses.outputs or own_methods(model) or model.losses)
    if losses.missing and (needs_loss or not trains):
        raise ValueError(
            f"{NEEDS_LOSS} {losses.missing} Call `model.compile(optimizer=..., loss=...)`."
        )
    check_weights(some_weights, losses)
    label_check(losses.y_pred, losses.outputs, losses.matching)(source.y)
    _check_finite(model, source, losses)
    return losses


def _check_finite(model: ArrayTree, source: ArraySource, losses: CompiledLosses) -> None:
    """Raises for weights that are not finite, and for inputs and targets that make the loss so."""
    check_weights_are_finite(source.sample_weight, source.size)
    for name in ("x", "y"):
        bad = np.flatnonzero(rows_not_finite(getattr(source, name), source.size))
        if len(bad) and not _have_losses(model, source, bad, losses):
            raise not_finite_error(name, bad, source.size)


def _have_losses(
    model: ArrayTree, source: ArraySource, bad: ArrayTree, losses: CompiledLosses
) -> bool:
    """Whether examples have finite losses nevertheless: the model or the loss may mask NaN."""
    if not losses.outputs:
        # The model computes its loss by itself.
        return True
    try:
        found = Scorer(model, ("loss",))(*source.take(bad[:_TRIED])[:2])["loss"]
    except NoExampleLoss:
        return True
    return bool(np.isfinite(found).all())
