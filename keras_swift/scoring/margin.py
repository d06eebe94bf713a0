"""What a classifier's output says of the label it was given: its probability and its margin.

Both are read off the compiled loss, which knows whether an output holds logits or probabilities and
how its targets are written.
"""

from keras import ops

from keras_swift._keras import loss_settings, mask_of

# The losses that say of an output that it is a distribution over classes, and how targets come.
_KINDS = {
    "sparse_categorical_crossentropy": "sparse",
    "categorical_crossentropy": "categorical",
    "categorical_focal_crossentropy": "categorical",
    "categorical_generalized_cross_entropy": "sparse",
    "binary_crossentropy": "binary",
    "binary_focal_crossentropy": "binary",
}
# Keras clips probabilities here too.
_TINY = 1e-7


def label_kind(loss):
    """How a loss takes its labels.

    Args:
        loss: `keras.losses.Loss`.

    Returns:
        `"sparse"` (class numbers), `"categorical"` (rows over classes) or `"binary"` (each entry on
        its own); `None` for a loss that is not one of a classifier.
    """
    return _KINDS.get(getattr(getattr(loss, "fn", None), "__name__", None))


def label_margin(output, y_true, y_pred):
    """Probability and margin of the labels of a batch.

    The margin is `log p_y - max_{j != y} log p_j`, the difference of two logits: above 0 where the
    label is what the model predicts. For a binary output it is the logit, signed by the label.
    Means over the unmasked entries of outputs with more axes.

    Args:
        output: `OutputLoss`.
        y_true: tensor of targets, first axis `B`.
        y_pred: float tensor, the output.

    Returns:
        A pair of float32 tensors of shape `(B,)`; `None` if the loss is not a classifier's.
    """
    kind = label_kind(output.loss)
    if kind is None:
        return None
    settings = {"axis": -1, "from_logits": False, "ignore_class": None}
    settings |= loss_settings(output.loss)
    mask = mask_of(y_pred)
    y_true = ops.convert_to_tensor(y_true)
    y_pred = ops.stop_gradient(ops.cast(y_pred, "float32"))
    if kind == "binary":
        probability, margin = _binary(y_true, y_pred, settings["from_logits"])
    else:
        axis = settings["axis"]
        if axis not in (-1, len(y_pred.shape) - 1):
            y_pred = ops.moveaxis(y_pred, axis, -1)
            if kind == "categorical":
                y_true = ops.moveaxis(y_true, axis, -1)
        probability, margin, labels = _categorical(kind, y_true, y_pred, settings["from_logits"])
        if settings["ignore_class"] is not None:
            kept = ops.not_equal(labels, settings["ignore_class"])
            mask = kept if mask is None else ops.logical_and(mask, kept)
    return mean_over_entries(probability, mask), mean_over_entries(margin, mask)


def mean_over_entries(values, mask=None):
    """The mean over all axes but the first, of unmasked entries; 0 where none is unmasked.

    Args:
        values: float tensor, shape `(B, ...)`.
        mask: bool tensor, shape `(B, ...)` with as many axes or fewer. Defaults to `None`.

    Returns:
        A float tensor, shape `(B,)`.
    """
    axes = tuple(range(1, len(values.shape)))
    if mask is not None:
        mask = ops.cast(mask, values.dtype)
        while len(mask.shape) < len(values.shape):
            mask = ops.expand_dims(mask, -1)
        mask = mask * ops.ones_like(values)
    if not axes:
        return values if mask is None else values * mask
    if mask is None:
        return ops.mean(values, axis=axes)
    return ops.sum(values * mask, axis=axes) / ops.maximum(ops.sum(mask, axis=axes), 1.0)


def _binary(y_true, y_pred, from_logits):
    while len(y_true.shape) < len(y_pred.shape):
        y_true = ops.expand_dims(y_true, -1)
    sign = 2.0 * ops.cast(ops.greater(ops.cast(y_true, "float32"), 0.5), "float32") - 1.0
    if from_logits:
        logits = y_pred
    else:
        y_pred = ops.clip(y_pred, _TINY, 1.0 - _TINY)
        logits = ops.log(y_pred) - ops.log(1.0 - y_pred)
    margin = sign * logits
    return ops.sigmoid(margin), margin


def _categorical(kind, y_true, y_pred, from_logits):
    classes = y_pred.shape[-1]
    if kind == "categorical":
        labels = ops.argmax(y_true, axis=-1)
    elif len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == 1:
        labels = ops.squeeze(y_true, axis=-1)
    else:
        labels = y_true
    labels = ops.cast(labels, "int32")
    logits = ops.log_softmax(y_pred, axis=-1) if from_logits else ops.log(y_pred + _TINY)
    target = ops.one_hot(labels, classes, dtype="float32")
    of_label = ops.sum(logits * target, axis=-1)
    of_others = ops.max(logits - 1e9 * target, axis=-1)
    return ops.minimum(ops.exp(of_label), 1.0), of_label - of_others, labels
