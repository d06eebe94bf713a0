"""The renormed entropy, a feature of the paper (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_swift.src._keras import mask_of
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.scoring.label_outputs import with_classes_last
from keras_swift.src.scoring.labels import class_axis
from keras_swift.src.scoring.output_loss import OutputLoss

# So far below any logit that its softmax is exactly 0, but finite: 0 times it is 0, not NaN.
_MASKED = -1e9


def renormed_entropy(
    model: keras.Model, outputs: Sequence[OutputLoss], y: ArrayTree
) -> Callable[[Tensor, Tensor], Tensor]:
    """A callable `(y_true, y_pred) -> (n,)` for a model's renormed entropy.

    Args:
        model: a built `keras.Model`.
        outputs: its compiled losses.
        y: NumPy structure of targets; a nested one shows that there are several outputs.

    Raises:
        ValueError: if the model is not a classifier with three classes or
            more and a single output.
    """

    def refuse(received: str) -> ValueError:
        return ValueError(
            '"renormed_entropy" must be used with a classifier with three classes or more and one '
            "output: it is the entropy over the classes other than the target. Received: "
            f'{received}. "loss", "gradient_norm", callables and arrays work here: '
            'features=("loss", "gradient_norm").'
        )

    if len(outputs) != 1 or keras.tree.is_nested(y):
        raise refuse(f"a model with {max(len(outputs), 2)} outputs")
    (output,) = outputs
    loss = output.loss
    name = type(loss).__name__
    function = getattr(getattr(loss, "fn", None), "__name__", "")
    categorical = ("Categorical" in name or "categorical" in function) and "inge" not in name
    if not categorical and output.activation != "softmax":
        raise refuse(f"a model with the loss {function or name}")
    # Otherwise the output holds probabilities, as Keras' own losses assume.
    from_logits = bool(getattr(loss, "from_logits", False))
    ignored = getattr(loss, "ignore_class", None)
    axis = class_axis(loss)
    shape = getattr(model, "output_shape", None)
    if isinstance(shape, tuple) and shape and isinstance(shape[axis], int) and shape[axis] < 3:
        raise refuse(f"a model with {shape[axis]} output units")

    def entropy(y_true: Tensor, y_pred: Tensor) -> Tensor:
        classes = y_pred.shape[axis]
        if classes < 3:
            raise refuse(f"a model with {classes} output units")
        mask = mask_of(y_pred)
        labels, y_pred, _ = with_classes_last(axis, y_true, ops.cast(y_pred, "float32"))
        labels = ops.cast(labels, "int32")
        logits = y_pred if from_logits else ops.log(ops.maximum(y_pred, 1e-30))
        target = ops.one_hot(labels, classes, dtype="float32")
        # Normalised before the target is masked: then every logit is far above `_MASKED`.
        logits = ops.log_softmax(logits, axis=-1) * (1.0 - target) + _MASKED * target
        log_q = ops.log_softmax(logits, axis=-1)
        value = -ops.sum(ops.exp(log_q) * log_q, axis=-1)
        if ignored is not None:
            kept = ops.not_equal(labels, ignored)
            mask = kept if mask is None else ops.logical_and(mask, kept)
        return _mean_over_steps(value, mask)

    return entropy


def _mean_over_steps(value: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the unmasked entries over all axes but the first; 0 if all are masked."""
    axes = tuple(range(1, len(value.shape)))
    if not axes:
        return value
    if mask is None:
        return ops.mean(value, axis=axes)
    mask = ops.cast(mask, value.dtype)
    return ops.sum(value * mask, axis=axes) / ops.maximum(ops.sum(mask, axis=axes), 1.0)
