"""The gradient of each example's loss with respect to the last layer's pre-activation.

Its norm is, up to a constant shared by all examples, an upper bound of the
norm of the example's gradient with respect to all parameters (Katharopoulos
and Fleuret 2018, section 3.2). It needs the output of one forward pass, the
targets and the name of the last activation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Literal

import keras
from keras import ops

from keras_swift.src import backends
from keras_swift.src._keras import mask_of
from keras_swift.src._keras_losses import loss_settings
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.scoring.output_loss import (
    Activation,
    ExampleLosses,
    NoExampleLoss,
    OutputLoss,
    has_own_call,
    over_axes,
    to_rank,
)
from keras_swift.src.scoring.own_call import own_losses
from keras_swift.src.validation import UnfitData


def pre_activation_gradient(
    output: OutputLoss, y_true: ArrayTree, y_pred: ArrayTree, sample_weight: Tensor | None = None
) -> ExampleLosses:
    """Per-example loss and its gradient with respect to the last pre-activation.

    The loss of an example is its share of the batch's loss, times the batch
    size: for the reduction `"sum_over_batch_size"` the mean over the entries
    of the output, for `"sum"` their sum.

    With pre-activations `z` and targets `y`, the gradient is
    `softmax(z) sum(y) - y` for cross-entropy of a softmax, and
    `(sigmoid(z) - y) / d` for binary cross-entropy of a sigmoid with `d`
    entries on the last axis. Both are taken in closed form, because Keras
    clips probabilities, and a clipped one has gradient 0. Any other loss is
    differentiated with respect to the output, and the gradient is propagated
    back through the activation.

    Args:
        output: `OutputLoss`.
        y_true: tensor of targets, first axis `B`.
        y_pred: float tensor, shape `(B, ...)`, the output of the model.
        sample_weight: float tensor, shape `(B,)`, or with the axes of the
            loss values. Defaults to `None`, no weights.

    Returns:
        `ExampleLosses`.

    Raises:
        ValueError: if the loss gives no value per example, or the weights do
            not fit its values.
    """
    output.check()
    loss = output.loss
    if has_own_call(loss):
        return _of_own_call(output, y_true, y_pred, sample_weight)
    if keras.tree.is_nested(y_pred):
        return _of_several(output, y_true, y_pred, sample_weight)
    mask = mask_of(y_pred)
    y_true = ops.convert_to_tensor(y_true, dtype=loss.dtype)
    # The gradient must stop here: TensorFlow's losses look up the logits
    # behind a softmax and would differentiate around the output.
    y_pred = ops.stop_gradient(ops.convert_to_tensor(y_pred, dtype=loss.dtype))

    def weighted_sum(y_pred: Tensor) -> tuple[Tensor, Any]:
        losses, valid, share = _weighted_losses(loss, y_true, y_pred, mask, sample_weight)
        return ops.sum(losses), (losses, valid, share)

    closed = _closed_form(output, y_true, y_pred)
    if closed is None:
        (_, (losses, valid, share)), gradient = backends.active().gradient(weighted_sum, y_pred)
        gradient = _pull_back(output.activation, y_pred, gradient)
    else:
        _, (losses, valid, share) = weighted_sum(y_pred)
        gradient = closed * ops.expand_dims(share, -1)
    masked = mask is not None
    return ExampleLosses(losses, gradient * output.weight, valid, tuple(share.shape[1:]), masked)


def _of_own_call(
    output: OutputLoss, y_true: ArrayTree, y_pred: ArrayTree, sample_weight: Tensor | None
) -> ExampleLosses:
    """`pre_activation_gradient` of a loss that computes in a `__call__` of its own."""
    found = own_losses(output, y_true, y_pred, sample_weight)
    gradient = found.gradient
    if not keras.tree.is_nested(y_pred):
        gradient = ops.reshape(gradient, ops.shape(y_pred))
        gradient = _pull_back(output.activation, ops.cast(y_pred, gradient.dtype), gradient)
    return dataclasses.replace(found, gradient=gradient * output.weight)


def _of_several(
    output: OutputLoss, y_true: ArrayTree, y_pred: ArrayTree, sample_weight: Tensor | None
) -> ExampleLosses:
    """`pre_activation_gradient` of a loss of several outputs, with respect to all of them."""
    loss = output.loss
    y_true = keras.tree.map_structure(
        lambda leaf: ops.convert_to_tensor(leaf, dtype=loss.dtype), y_true
    )
    leaves = [
        ops.stop_gradient(ops.convert_to_tensor(leaf, dtype=loss.dtype))
        for leaf in keras.tree.flatten(y_pred)
    ]
    rows = [ops.reshape(leaf, (ops.shape(leaf)[0], math.prod(leaf.shape[1:]))) for leaf in leaves]
    ends = list(itertools.accumulate(row.shape[1] for row in rows))

    def weighted_sum(joined: Tensor) -> tuple[Tensor, Any]:
        parts = ops.split(joined, ends[:-1], axis=1)
        parts = [
            ops.reshape(part, ops.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)
        ]
        outputs = keras.tree.pack_sequence_as(y_pred, parts)
        losses, valid, share = _weighted_losses(loss, y_true, outputs, None, sample_weight)
        return ops.sum(losses), (losses, valid, share)

    joined = ops.concatenate(rows, axis=1)
    (_, (losses, valid, share)), gradient = backends.active().gradient(weighted_sum, joined)
    return ExampleLosses(losses, gradient * output.weight, valid, tuple(share.shape[1:]), False)


def example_losses(output: OutputLoss, y_true: ArrayTree, y_pred: ArrayTree) -> Tensor:
    """The losses of `pre_activation_gradient` without the gradient, shape `(B,)`."""
    output.check()
    if has_own_call(output.loss):
        return own_losses(output, y_true, y_pred, None).losses
    dtype = output.loss.dtype
    y_true = keras.tree.map_structure(lambda leaf: ops.convert_to_tensor(leaf, dtype), y_true)
    mask = None if keras.tree.is_nested(y_pred) else mask_of(y_pred)
    y_pred = keras.tree.map_structure(
        lambda leaf: ops.stop_gradient(
            leaf if keras.backend.standardize_dtype(leaf.dtype) == dtype else ops.cast(leaf, dtype)
        ),
        y_pred,
    )
    return _weighted_losses(output.loss, y_true, y_pred, mask, None)[0]


def _weighted_losses(
    loss: keras.losses.Loss,
    y_true: ArrayTree,
    y_pred: ArrayTree,
    mask: Tensor | None,
    sample_weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the examples, their unmasked share of loss values, and the factor of each value."""
    values = loss.call(y_true, y_pred)
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(y_pred)]
    examples = shapes[0][0]
    if len(values.shape) == 0 or (
        None not in (examples, values.shape[0]) and values.shape[0] != examples
    ):
        cure = (
            "Compile the model with a loss that does not reduce over the batch (for Dice and "
            "Tversky: `axis=(1, 2, 3)`)."
        )
        if len(shapes[0]) == 1:
            cure = (
                "Such a loss is a mean over the last axis, here that of the examples: make the "
                "model return shape (n, 1), with `keras.layers.Reshape((1,))` or "
                "`keras.ops.expand_dims(outputs, -1)` at its end."
            )
        raise NoExampleLoss(
            "The loss must give one value (or more) for each example, because examples are "
            f"weighted one by one. Received: {loss.name}, whose values have shape "
            f"{tuple(values.shape)} for an output of shape {', '.join(map(str, shapes))}. {cure}"
        )
    joint = _joint_mask(mask, values)
    share = _share(values, loss, joint, sample_weight)
    losses = over_axes(ops.sum, values * share)
    valid = ops.ones_like(losses)
    if joint is not None:
        valid = over_axes(ops.mean, ops.cast(joint, losses.dtype))
    return losses, valid, share


def _joint_mask(mask: Tensor | None, values: Tensor) -> Tensor | None:
    other = mask_of(values)
    if mask is None or other is None:
        return other if mask is None else mask
    return ops.logical_and(mask, other)


def _share(
    values: Tensor, loss: keras.losses.Loss, mask: Tensor | None, sample_weight: Tensor | None
) -> Tensor:
    """The factor of each loss value in the example's loss."""
    rank = len(values.shape)
    share = ops.ones_like(values)
    if mask is not None:
        share = share * to_rank(ops.cast(mask, values.dtype), rank)
    if sample_weight is not None:
        weights = to_rank(ops.cast(sample_weight, values.dtype), rank)
        fits = all(
            w == v or w == 1 or None in (w, v)
            for w, v in zip(weights.shape[1:], values.shape[1:], strict=False)
        )
        if len(weights.shape) > rank or not fits:
            raise UnfitData(
                "`sample_weight` must have one weight for each example, shape (n,), or the axes "
                f"of the loss's values, (n, {', '.join(map(str, values.shape[1:]))}). Received: "
                f"shape (n, {', '.join(map(str, sample_weight.shape[1:]))})."
            )
        share = share * weights
    if loss.reduction in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        sizes = values.shape[1:]
        # In a traced step an axis may have any length.
        known = None not in sizes
        share = share / (
            math.prod(sizes) if known else ops.cast(ops.size(values[:1]), values.dtype)
        )
    return share


def _closed_form(output: OutputLoss, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
    """The gradient of each loss value with respect to the pre-activation; `None` if unknown."""
    loss = output.loss
    settings = _cross_entropy_settings(loss)
    if settings is None:
        return None
    kind, from_logits, smoothing = settings
    squash = "sigmoid" if kind == "binary" else "softmax"
    if from_logits:
        if output.activation not in (None, "linear"):
            return None
        probability = getattr(ops, squash)(y_pred)
    elif output.activation in (None, squash):
        probability = y_pred
    else:
        return None
    if kind == "sparse":
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == 1:
            y_true = ops.squeeze(y_true, axis=-1)
        y_true = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return probability - y_true
    while len(y_true.shape) < len(y_pred.shape):
        y_true = ops.expand_dims(y_true, axis=-1)
    if kind == "binary":
        target = y_true * (1.0 - smoothing) + 0.5 * smoothing
        return (probability - target) / y_pred.shape[-1]
    target = y_true * (1.0 - smoothing) + smoothing / y_pred.shape[-1]
    return probability * ops.sum(target, axis=-1, keepdims=True) - target


def _cross_entropy_settings(
    loss: keras.losses.Loss,
) -> tuple[Literal["binary", "categorical", "sparse"], bool, float] | None:
    """`(kind, from_logits, label_smoothing)` of a plain cross-entropy, or `None`."""
    # A subclass may override `call` and compute anything.
    if type(loss).call is not keras.losses.MeanSquaredError.call:
        return None
    settings = {"axis": -1, "ignore_class": None, **loss_settings(loss)}
    if loss.fn not in _CROSS_ENTROPIES or settings["axis"] != -1:
        return None
    if settings["ignore_class"] is not None:
        return None
    return (
        _CROSS_ENTROPIES[loss.fn],
        settings.get("from_logits", False),
        settings.get("label_smoothing", 0.0),
    )


_CROSS_ENTROPIES: dict[Any, Literal["binary", "categorical", "sparse"]] = {
    keras.losses.binary_crossentropy: "binary",
    keras.losses.categorical_crossentropy: "categorical",
    keras.losses.sparse_categorical_crossentropy: "sparse",
}


def _pull_back(activation: Activation | None, y_pred: Tensor, gradient: Tensor) -> Tensor:
    """The chain rule through an activation, written in terms of its output."""
    if activation == "softmax":
        return y_pred * (gradient - ops.sum(gradient * y_pred, axis=-1, keepdims=True))
    if activation == "sigmoid":
        return gradient * y_pred * (1.0 - y_pred)
    if activation == "tanh":
        return gradient * (1.0 - ops.square(y_pred))
    if activation == "relu":
        return gradient * ops.cast(y_pred > 0, y_pred.dtype)
    return gradient


def row_norms(tensor: Tensor) -> Tensor:
    """The Euclidean norm of each row over all its other axes, shape `(B,)`."""
    return ops.sqrt(over_axes(ops.sum, ops.square(tensor)))
