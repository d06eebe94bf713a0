"""Probability and margin of the labels in an output, and which labels count.

This file decides which outputs are class probabilities or logits: by the loss and the last
activation, never by the type of the targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from keras import ops

from keras_swift.src._keras import mask_of
from keras_swift.src._keras_losses import loss_settings
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.scoring.output_loss import OutputLoss, has_own_call, over_axes, to_rank

# A floor for probabilities in logarithms and divisors: negligible, and not yet 0 in float32.
_SMALLEST = 1e-30
CATEGORICAL: Final = "categorical"
BINARY: Final = "binary"


@dataclasses.dataclass(frozen=True)
class LabelOutput:
    """An output that holds class probabilities or logits.

    Attributes:
        output: its `OutputLoss`.
        kind: `"categorical"`, one class out of several along `axis`, or
            `"binary"`, each entry a label of its own, yes or no.
        from_logits: bool.
        axis: int, the axis of the classes; -1 for `"binary"`.
        ignored: int, the class whose entries do not count, or `None`.
    """

    output: OutputLoss
    kind: Literal["categorical", "binary"]
    from_logits: bool
    axis: int
    ignored: int | None


def label_output(output: OutputLoss) -> LabelOutput | None:
    """The `LabelOutput` of an output, by its loss and activation; `None` for other outputs."""
    loss = output.loss
    if has_own_call(loss):
        # Its `__call__` may prepare the targets, so only the loss knows which labels they mean.
        return None
    function = getattr(loss, "fn", None)
    name = f"{type(loss).__name__} {getattr(function, '__name__', loss.name)}".lower()
    settings = loss_settings(loss) if function is not None else {}

    def setting(key: str, default: Any) -> Any:
        found = settings.get(key, getattr(loss, key, default))
        return default if found is None else found

    kind: Literal["categorical", "binary"] | None = None
    if "hinge" not in name:
        if "categorical" in name or output.activation == "softmax":
            kind = CATEGORICAL
        elif "binary" in name:
            kind = BINARY
    if kind is None:
        return None
    axis = setting("axis", -1) if kind == CATEGORICAL and "categorical" in name else -1
    return LabelOutput(
        output=output,
        kind=kind,
        from_logits=bool(setting("from_logits", False)),
        axis=axis if isinstance(axis, int) else -1,
        ignored=setting("ignore_class", None),
    )


def label_values(
    label: LabelOutput, y_true: Tensor, y_pred: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability and margin of every label, and which of them count.

    Args:
        label: `LabelOutput`.
        y_true: tensor of class numbers, one-hot rows or zeros and ones.
        y_pred: float tensor, the output.

    Returns:
        Three tensors of one shape `(n, ...)`, without the axis of the classes:
        the probability of the label (or the mean over a row of targets that
        is not one-hot); that minus the largest probability of any other class,
        from -1 to 1; and 1 for labels that count, 0 for masked or ignored ones.
    """
    mask = mask_of(y_pred)
    y_pred = ops.cast(y_pred, "float32")
    y_true = ops.convert_to_tensor(y_true)
    labels = None
    if label.kind == BINARY:
        p = ops.sigmoid(y_pred) if label.from_logits else y_pred
        target = to_rank(ops.cast(y_true, "float32"), len(p.shape))
        probability = target * p + (1.0 - target) * (1.0 - p)
        margin = 2.0 * probability - 1.0
    else:
        labels, y_pred, target = with_classes_last(label.axis, y_true, y_pred)
        if label.from_logits:
            p = ops.softmax(y_pred, axis=-1)
        else:
            p = y_pred / ops.maximum(ops.sum(y_pred, axis=-1, keepdims=True), _SMALLEST)
        probability = ops.sum(target * p, axis=-1)
        other = p - 2.0 * ops.one_hot(labels, y_pred.shape[-1], dtype="float32")
        margin = probability - ops.max(other, axis=-1)
    counts = ops.ones_like(probability)
    if mask is not None:
        counts = counts * to_rank(ops.cast(mask, "float32"), len(counts.shape))
    if labels is not None and label.ignored is not None:
        counts = counts * ops.cast(ops.not_equal(labels, label.ignored), "float32")
    return probability, margin, counts


def tempered(label: LabelOutput, y_pred: Tensor, temperature: Tensor) -> Tensor:
    """The output after its logits were divided by a temperature.

    Args:
        label: `LabelOutput`.
        y_pred: float tensor, the output.
        temperature: scalar tensor above 0; more than 1 brings probabilities closer together.

    Returns:
        A float32 tensor of the same shape and kind: logits, or probabilities (of classes up to a
        factor, which `label_values` removes).
    """
    y_pred = ops.cast(y_pred, "float32")
    if label.from_logits:
        return y_pred / temperature
    if label.kind == BINARY:
        p = ops.clip(y_pred, _SMALLEST, 1.0 - 2.0**-24)
        return ops.sigmoid((ops.log(p) - ops.log1p(-p)) / temperature)
    logits = ops.log(ops.maximum(y_pred, _SMALLEST)) / temperature
    return ops.exp(logits - ops.max(logits, axis=label.axis, keepdims=True))


def labels_of(outputs: Sequence[OutputLoss]) -> tuple[LabelOutput, ...] | None:
    """The `LabelOutput` of each output; `None` if one of them has no labels, or there is none.

    All or none: a mean over only the classifying outputs would mean little.
    """
    found = [label_output(output) for output in outputs]
    return None if None in found or not found else tuple(o for o in found if o is not None)


def label_means(
    labels: Sequence[LabelOutput], y_true: ArrayTree, y_pred: ArrayTree
) -> list[Tensor]:
    """Margin and probability of each example's labels, means over those that count.

    Args:
        labels: sequence of `LabelOutput`; several are averaged by their loss weights.
        y_true, y_pred: structures of tensors, aligned with the losses.

    Returns:
        A list of two float tensors of shape `(n,)`, margin and probability, 0 for an example
        without labels that count.
    """
    # Labels of an output with weight 0 are not trained on.
    total = sum(label.output.weight for label in labels) or 1.0
    means: list[list[Tensor]] = [[], []]
    for label in labels:
        probability, margin, counts = label_values(
            label, label.output.of(y_true), label.output.of(y_pred)
        )
        mean = mean_over(counts)
        for found, values in zip(means, (margin, probability), strict=True):
            found.append(label.output.weight / total * mean(values))
    return [sum(found) for found in means]


def mean_over(counts: Tensor) -> Callable[[Tensor], Tensor]:
    """A function for the mean of each example's values by these weights; 0 where these are 0."""
    total = over_axes(ops.sum, counts)
    safe = ops.where(total == 0, ops.ones_like(total), total)
    return lambda values: over_axes(ops.sum, values * counts) / safe


def other_class(label: LabelOutput, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """The most probable class other than the label.

    Args:
        label: `LabelOutput` of classes.
        y_true: tensor of class numbers or one-hot rows.
        y_pred: float tensor, the output: probabilities or logits.

    Returns:
        A float32 tensor, shape `(n, ...)`, without the axis of the classes.
    """
    labels, y_pred, _ = with_classes_last(label.axis, y_true, ops.cast(y_pred, "float32"))
    # Below every entry, because logits may be negative.
    lowest = ops.min(y_pred, axis=-1, keepdims=True) - 1.0
    given = ops.one_hot(labels, y_pred.shape[-1], dtype="float32")
    return ops.cast(ops.argmax(ops.where(given > 0, lowest, y_pred), axis=-1), "float32")


def with_classes_last(axis: int, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class numbers, the output, and one row of targets for each label; classes on the last axis.

    Args:
        axis: int, the axis of the classes in the output.
        y_true: tensor of class numbers or one-hot rows.
        y_pred: tensor, the output.

    Returns:
        Three tensors: class numbers, shape `(n, ...)`; the output and float32 targets, shape
        `(n, ..., classes)`.
    """
    rank = len(y_pred.shape)
    axis %= rank
    y_true = ops.convert_to_tensor(y_true)
    if axis != rank - 1:
        y_pred = ops.moveaxis(y_pred, axis, -1)
        if len(y_true.shape) == rank and y_true.shape[axis] == y_pred.shape[-1]:
            y_true = ops.moveaxis(y_true, axis, -1)
    classes = y_pred.shape[-1]
    if len(y_true.shape) == rank and y_true.shape[-1] == classes:
        target = ops.cast(y_true, "float32")
        return ops.argmax(target, axis=-1), y_pred, target
    labels = y_true
    if len(y_true.shape) == rank:
        labels = ops.squeeze(y_true, axis=-1 if y_true.shape[-1] == 1 else axis)
    labels = ops.cast(labels, "int32")
    return labels, y_pred, ops.one_hot(labels, classes, dtype="float32")
