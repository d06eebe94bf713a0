"""What a model's outputs say of each example's label: its probability, its margin, right or wrong.

This file decides which outputs are class probabilities or logits (the loss says, never the type of
the targets), and how masks and weights enter a mean over the steps of an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swift import backends
from keras_swift._keras import loss_settings, mask_of
from keras_swift.scoring.compiled import accepts_training, build, compiled_losses
from keras_swift.scoring.gradient_norm import OutputLoss, pre_activation_gradient
from keras_swift.validation import check_model

# Below any probability that float32 can hold apart from 0.
_SMALLEST = 1e-30
CATEGORICAL, BINARY = "categorical", "binary"


@dataclasses.dataclass(frozen=True)
class LabelOutput:
    """An output that holds class probabilities or logits.

    Attributes:
        output: its `OutputLoss`.
        kind: `"categorical"`, one class out of several along `axis`, or
            `"binary"`, each entry on its own (one, or several labels).
        from_logits: bool.
        axis: int, where the classes lie; -1 for `"binary"`.
        ignored: int, the class whose entries do not count, or `None`.
    """

    output: OutputLoss
    kind: str
    from_logits: bool
    axis: int
    ignored: int | None


def label_output(output: OutputLoss) -> LabelOutput | None:
    """What an output says of labels, read off its loss; `None` for any other output."""
    loss = output.loss
    function = getattr(loss, "fn", None)
    name = f"{type(loss).__name__} {getattr(function, '__name__', loss.name)}".lower()
    settings = loss_settings(loss) if function is not None else {}

    def setting(key: str, default: Any) -> Any:
        found = settings.get(key, getattr(loss, key, default))
        return default if found is None else found

    kind = None
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


def label_outputs(model: keras.Model) -> tuple[LabelOutput, ...] | None:
    """The outputs of a built classifier; `None` where any compiled loss is of another kind."""
    found = [label_output(output) for output in compiled_losses(model)]
    return None if None in found else tuple(o for o in found if o is not None)


def is_one_class(model: keras.Model) -> bool:
    """Whether each example has one label: a single output that is class probabilities."""
    found = label_outputs(model)
    if found is None or len(found) != 1:
        return False
    shape = getattr(model, "output_shape", None)
    entries = shape[-1] if isinstance(shape, tuple) and shape else None
    return found[0].kind == CATEGORICAL or entries == 1


def classes_of(y: Any) -> np.ndarray | None:
    """The class of each example, an int array; `None` where targets are not one class each."""
    if keras.tree.is_nested(y):
        return None
    labels = np.asarray(y[:])
    if labels.ndim == 2 and labels.shape[1] > 1:
        one_hot = np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1)
        return labels.argmax(axis=1) if one_hot else None
    if labels.ndim > 2 or labels.ndim == 2 and labels.shape[1] != 1:
        return None
    labels = labels.reshape(-1)
    whole = np.round(labels)
    return whole.astype(np.int64) if np.array_equal(whole, labels) else None


def label_values(label: LabelOutput, y_true: Any, y_pred: Any) -> tuple[Any, Any, Any]:
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
    if label.kind == BINARY:
        p = ops.sigmoid(y_pred) if label.from_logits else y_pred
        target = _like(ops.cast(y_true, "float32"), p)
        probability = target * p + (1.0 - target) * (1.0 - p)
        counts = ops.ones_like(probability)
        if mask is not None:
            counts = counts * _broadcast(ops.cast(mask, "float32"), counts)
        return probability, 2.0 * probability - 1.0, counts
    rank, axis = len(y_pred.shape), label.axis % len(y_pred.shape)
    if axis != rank - 1:
        y_pred = ops.moveaxis(y_pred, axis, -1)
        if len(y_true.shape) == rank and y_true.shape[axis] == y_pred.shape[-1]:
            y_true = ops.moveaxis(y_true, axis, -1)
    classes = y_pred.shape[-1]
    if label.from_logits:
        p = ops.softmax(y_pred, axis=-1)
    else:
        p = y_pred / ops.maximum(ops.sum(y_pred, axis=-1, keepdims=True), _SMALLEST)
    if len(y_true.shape) == rank and y_true.shape[-1] == classes:
        target = ops.cast(y_true, "float32")
        labels = ops.argmax(target, axis=-1)
    else:
        labels = ops.squeeze(y_true, axis=-1) if len(y_true.shape) == rank else y_true
        labels = ops.cast(labels, "int32")
        target = ops.one_hot(labels, classes, dtype="float32")
    probability = ops.sum(target * p, axis=-1)
    other = p - 2.0 * ops.one_hot(labels, classes, dtype="float32")
    margin = probability - ops.max(other, axis=-1)
    counts = ops.ones_like(probability)
    if mask is not None:
        counts = counts * _broadcast(ops.cast(mask, "float32"), counts)
    if label.ignored is not None:
        counts = counts * ops.cast(ops.not_equal(labels, label.ignored), "float32")
    return probability, margin, counts


class LabelScorer:
    """Loss, and probability and margin of the label, of each example of a batch.

    One compiled forward pass in inference mode; the model is not changed.

    Args:
        model: a compiled `keras.Model`; built from `x` and `y` if it is not.
        x, y: NumPy structures, a batch of at least one example.

    Attributes:
        labels: tuple of `LabelOutput`, or `None` where the outputs are no
            class probabilities: then there are losses alone.
    """

    def __init__(self, model: keras.Model, x: Any, y: Any) -> None:
        check_model(model)
        losses = build(model, x, y)
        self._model = model
        self._outputs, self._matching = losses.outputs, losses.matching
        self.labels = label_outputs(model)
        self._training_argument = accepts_training(model)
        self._compiled = backends.active().compile_scoring(self._quantities, model)

    def __call__(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, np.ndarray]:
        """Scores a batch.

        Args:
            x, y: NumPy structures, first axis `n`.
            sample_weight: array of weights, shape `(n,)` or with the axes of
                the labels, or a structure of them. Defaults to `None`.

        Returns:
            A dict of float arrays: `"loss"`, shape `(n,)`, weights included;
            for classifiers `"probability"`, `"margin"`, `"right"` (the share
            of margins above 0) and `"weight"`, shape `(n, outputs)`: weighted
            means over the labels of an example, and their mean weight.
        """
        inputs = (x, y) if sample_weight is None else (x, y, sample_weight)
        # Inside `fit`, JAX keeps the values elsewhere than in the model.
        return self._compiled(backends.active().capture_values(self._model), *inputs)

    def _quantities(self, values: Any, x: Any, y: Any, sample_weight: Any = None) -> dict[str, Any]:
        arguments = {"training": False} if self._training_argument else {}
        y_pred, _ = self._model.stateless_call(*values, x, **arguments)
        paths = [output.path for output in self._outputs]
        weights = self._matching.weights(sample_weight, y_pred, paths)
        y, y_pred = self._matching.aligned(y, y_pred)
        loss = sum(
            output.weight
            * pre_activation_gradient(output, output.of(y), output.of(y_pred), weight).losses
            for output, weight in zip(self._outputs, weights, strict=True)
        )
        results = {"loss": loss}
        if self.labels is None:
            return results
        columns: list[tuple[Any, ...]] = []
        for label, weight in zip(self.labels, weights, strict=True):
            of = label.output.of
            probability, margin, counts = label_values(label, of(y), of(y_pred))
            if weight is not None:
                counts = counts * _broadcast(ops.cast(weight, "float32"), counts)
            total = _sum(counts)
            safe = ops.where(total == 0, ops.ones_like(total), total)
            entries = 1
            for length in counts.shape[1:]:
                entries *= length
            right = ops.cast(margin > 0, "float32")
            means = [_sum(part * counts) / safe for part in (probability, margin, right)]
            columns.append((*means, total / entries))
        names = ("probability", "margin", "right", "weight")
        for name, parts in zip(names, zip(*columns, strict=True), strict=True):
            results[name] = ops.stack(parts, axis=1)
        return results


def combined(scores: dict[str, np.ndarray], name: str, weights: Sequence[float]) -> np.ndarray:
    """A quantity of `LabelScorer`, as the mean over the outputs, weighted by their losses."""
    share = np.asarray(weights, np.float64) / np.sum(weights)
    return np.asarray(scores[name], np.float64) @ share


def _sum(tensor: Any) -> Any:
    axes = tuple(range(1, len(tensor.shape)))
    return ops.sum(tensor, axis=axes) if axes else tensor


def _like(target: Any, p: Any) -> Any:
    """Targets with as many axes as predictions, of which the last may be missing or 1."""
    while len(target.shape) < len(p.shape):
        target = ops.expand_dims(target, axis=-1)
    while len(target.shape) > len(p.shape) and target.shape[-1] == 1:
        target = ops.squeeze(target, axis=-1)
    return target


def _broadcast(weight: Any, like: Any) -> Any:
    """Weights or masks with the axes of the labels."""
    while len(weight.shape) > len(like.shape) and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, axis=-1)
    while len(weight.shape) < len(like.shape):
        weight = ops.expand_dims(weight, axis=-1)
    return weight
