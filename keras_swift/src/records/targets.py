"""The kinds of targets: one class, several labels, a class at each step, values.

This file decides which targets can be wrong on their own, and which numbers a step yields for each.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_swift.src._keras import mask_of
from keras_swift.src._types import Array, ArrayTree, IntArray, Tensor
from keras_swift.src.scoring.compiled import CompiledLosses
from keras_swift.src.scoring.gradient_norm import example_losses
from keras_swift.src.scoring.label_outputs import (
    BINARY,
    LabelOutput,
    label_output,
    label_values,
)
from keras_swift.src.scoring.output_loss import OutputLoss, to_rank

# Parts of the names of losses that compare a predicted number with the target.
_OF_VALUES = (
    "meansquared",
    "meanabsolute",
    "huber",
    "logcosh",
    "poisson",
)


@dataclasses.dataclass(frozen=True)
class TargetOutput:
    """The targets of one output.

    Attributes:
        name: str, the output's name; `""` if it is the only one.
        kind: `"categorical"`, one class out of several; `"binary"`, yes or no; `"values"`, numbers
            to predict; `"losses"`, anything else, known only by its loss.
        output: its `OutputLoss`.
        label: its `LabelOutput`, for the first two kinds.
        entries: tuple of ints, the shape of an example's targets: `()` for one, `(T,)` for one at
            each of `T` steps or for `T` labels, `(h, w)` for pixels.
        classes: int, the number of classes; 0 for values and other losses.
    """

    name: str
    kind: Literal["categorical", "binary", "values", "losses"]
    output: OutputLoss
    label: LabelOutput | None
    entries: tuple[int, ...]
    classes: int

    @property
    def size(self) -> int:
        """int, how many targets an example has."""
        return math.prod(self.entries)

    @property
    def columns(self) -> int:
        """int, how many numbers a step yields for an example."""
        return 1 if self.kind == "losses" else self.size * (1 if self.label is None else 2)

    @property
    def is_multi_label(self) -> bool:
        """bool, whether entries are taken for labels: yes or no, along one axis."""
        return self.kind == BINARY and len(self.entries) == 1

    def numbers(self, y: ArrayTree, y_pred: ArrayTree) -> Tensor:
        """What a step yields for its examples.

        Args:
            y, y_pred: structures of tensors, aligned with the losses.

        Returns:
            A float32 tensor, shape `(n, columns)`: for classes the probabilities, then the margins;
            for values target minus prediction; else the loss. NaN for masked or ignored targets.
        """
        y, y_pred = self.output.of(y), self.output.of(y_pred)
        if self.kind == "losses":
            return ops.expand_dims(
                ops.cast(example_losses(self.output, y, y_pred), "float32"), axis=1
            )
        if self.label is not None:
            probability, margin, counts = label_values(self.label, y, y_pred)
            parts = [probability, margin]
        else:
            mask = mask_of(y_pred)
            y_pred = ops.cast(y_pred, "float32")
            y = ops.reshape(ops.cast(ops.convert_to_tensor(y), "float32"), ops.shape(y_pred))
            parts, counts = [y - y_pred], ops.ones_like(y_pred)
            if mask is not None:
                counts = counts * to_rank(ops.cast(mask, "float32"), len(counts.shape))
        nothing = ops.full_like(counts, float("nan"))
        found = [
            ops.reshape(ops.where(counts > 0, part, nothing), (-1, self.size)) for part in parts
        ]
        return ops.stop_gradient(ops.concatenate(found, axis=1))

    def labels(self, y: ArrayTree) -> Array:
        """The given targets: int classes or float values, shape `(n, *entries)`.

        Args:
            y: structure of NumPy arrays, aligned with the losses.
        """
        array = np.asarray(self.output.of(y)[:])
        if self.kind == "losses":
            return array
        if self.label is not None and self.kind != BINARY:
            axis = self.label.axis
            rank = len(self.entries) + 2
            # One-hot rows have the axis of the classes.
            if array.ndim == rank and array.shape[axis] > 1:
                array = array.argmax(axis=axis)
        array = array.reshape(len(array), *self.entries)
        if self.kind == "values":
            return array.astype(np.float64)
        whole: IntArray = np.round(array).astype(np.int64)
        return whole


def target_outputs(model: keras.Model, losses: CompiledLosses) -> tuple[TargetOutput, ...]:
    """The targets of each output that has a loss.

    Args:
        model: a built, compiled `keras.Model`.
        losses: `CompiledLosses` of the model.
    """
    _, outputs = losses.matching.aligned(losses.y_pred, losses.y_pred)
    found = []
    for output in losses.outputs:
        y_pred = output.of(outputs)
        label = label_output(output)
        name = "/".join(map(str, _named(model, output.path)))
        if keras.tree.is_nested(y_pred):
            found.append(TargetOutput(name, "losses", output, None, (), 0))
            continue
        axes = tuple(y_pred.shape[1:])
        classes = 0 if label is None else 2
        if label is not None and label.kind != BINARY:
            axis = label.axis % len(y_pred.shape)
            classes = y_pred.shape[axis]
            axes = tuple(size for place, size in enumerate(axes, 1) if place != axis)
        if axes[-1:] == (1,) or math.prod(axes) == 1:
            axes = axes[:-1] if math.prod(axes) > 1 else ()
        kind: Literal["categorical", "binary", "values", "losses"]
        kind = "losses" if label is None else label.kind
        if label is None and _is_of_values(output):
            kind = "values"
        axes = axes if kind != "losses" else ()
        found.append(TargetOutput(name, kind, output, label, axes, classes))
    return tuple(found)


def _is_of_values(output: OutputLoss) -> bool:
    function = getattr(output.loss, "fn", None)
    name = f"{type(output.loss).__name__} {getattr(function, '__name__', '')}"
    return any(part in name.lower().replace("_", "") for part in _OF_VALUES)


def _named(model: keras.Model, path: tuple[object, ...]) -> tuple[object, ...]:
    """A path with the name of the output in place of its number, where it has one."""
    names = getattr(model, "output_names", None)
    if len(path) == 1 and isinstance(path[0], int) and names and path[0] < len(names):
        return (names[path[0]],)
    return path
