"""Checks that an output has a place for every class number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_swift.src._keras_losses import loss_settings
from keras_swift.src._types import Array, ArrayTree
from keras_swift.src.scoring.output_loss import OutputLoss, has_own_call
from keras_swift.src.scoring.structures import Matching
from keras_swift.src.validation import UnfitData

_SPARSE = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


def class_axis(loss: keras.losses.Loss) -> int:
    """The axis of the output that a loss takes as the classes; -1, the last, by default."""
    axis = loss_settings(loss).get("axis", -1)
    return axis if isinstance(axis, int) else -1


def _unwrapped(function: Any) -> Any:
    """The function inside `functools.partial`s and decorators."""
    while hasattr(function, "func") or hasattr(function, "__wrapped__"):
        function = getattr(function, "func", None) or function.__wrapped__
    return function


def label_check(
    y_pred: ArrayTree, losses: list[OutputLoss], matching: Matching
) -> Callable[[ArrayTree], None]:
    """A function that raises for class numbers the output has no place for.

    Frameworks would read a neighbour's probability, or return NaN.

    Args:
        y_pred: structure of the model's outputs.
        losses: list of `OutputLoss`.
        matching: `Matching` of the model.

    Returns:
        A function of targets, a NumPy structure, that raises a `ValueError`
        for labels below 0 or past the last class.
    """
    sparse = [
        output
        for output in losses
        # A `__call__` of its own may prepare the labels.
        if not has_own_call(output.loss)
        and (
            isinstance(output.loss, _SPARSE[0])
            or _unwrapped(getattr(output.loss, "fn", None)) is _SPARSE[1]
        )
    ]

    def check(y: ArrayTree) -> None:
        if not sparse:
            return
        targets, outputs = matching.aligned(y, y_pred)
        for output in sparse:
            # Rows on disk are read here.
            labels = np.asarray(output.of(targets)[:])
            if labels.dtype.kind not in "biuf":
                raise UnfitData(
                    f"`y` must hold class numbers, because the loss is {output.loss.name!r}. "
                    f"Received: an array of dtype {labels.dtype}. Turn names into numbers first, "
                    "for example with `np.unique(y, return_inverse=True)`."
                )
            classes = output.of(outputs).shape[class_axis(output.loss)]
            if classes is not None:
                _check_output(output.loss, labels, classes)

    return check


def _check_output(loss: keras.losses.Loss, labels: Array, classes: int) -> None:
    # Written so that NaN is wrong too.
    wrong = ~((labels >= 0) & (labels < classes))
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise UnfitData(
            f"`y` must hold class numbers from 0 to {classes - 1}, because the model has "
            f"{classes} classes. Received: {wrong.sum()} labels outside, the first at index "
            f"{int(first[0])} ({labels[tuple(first)]}). Renumber the classes, or widen the last "
            "layer."
        )
