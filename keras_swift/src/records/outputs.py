"""Loss of each example, and probability and margin of its label, from the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree, FloatArray, IntArray, Tensor
from keras_swift.src.backends.base import Values
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.scoring.compiled import build, compiled_losses
from keras_swift.src.scoring.forward import outputs_with
from keras_swift.src.scoring.gradient_norm import (
    example_losses,
    pre_activation_gradient,
    row_norms,
)
from keras_swift.src.scoring.label_outputs import (
    CATEGORICAL,
    LabelOutput,
    label_means,
    label_values,
    labels_of,
    mean_over,
    tempered,
)
from keras_swift.src.scoring.output_loss import over_axes, to_rank
from keras_swift.src.validation import check_model


def label_outputs(model: keras.Model) -> tuple[LabelOutput, ...] | None:
    """The outputs of a built classifier; `None` if a compiled loss does not compare classes."""
    return labels_of(compiled_losses(model))


def is_one_class(model: keras.Model) -> bool:
    """Whether the model has a single output of class probabilities: softmax, or one sigmoid.

    An output with a class at each step or pixel counts too; for its targets `classes_of` is `None`.
    """
    found = label_outputs(model)
    if found is None or len(found) != 1:
        return False
    shape = getattr(model, "output_shape", None)
    entries = shape[-1] if isinstance(shape, tuple) and shape else None
    return found[0].kind == CATEGORICAL or entries == 1


def classes_of(y: ArrayTree) -> IntArray | None:
    """The class of each example, int array of shape `(n,)`; `None` unless each has just one."""
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


class LabelScorer:
    """Loss of each example of a batch, and probability and margin of its label.

    Makes one compiled forward pass in inference mode; the model is not changed.

    Args:
        model: a compiled `keras.Model`; built from `x` and `y` if it is not.
        x, y: NumPy structures, a batch of at least one example.
        gradient_norms: bool, whether the score that `of_outputs` returns is the gradient norm.
            Defaults to `False`, the loss.
        temperatures: floats above 0, at which a call returns the label's probability too. Defaults
            to none.
        targets: sequence of `TargetOutput`, whose numbers are returned too. Defaults to none.

    Attributes:
        gradient_norms, targets: as given.
        labels: tuple of `LabelOutput`, or `None` if the outputs are not class
            probabilities: then it returns only losses.
        columns: int, how many numbers `of_outputs` has for each example.
    """

    def __init__(
        self,
        model: keras.Model,
        x: ArrayTree,
        y: ArrayTree,
        gradient_norms: bool = False,
        temperatures: Sequence[float] = (),
        targets: Sequence[TargetOutput] = (),
    ) -> None:
        check_model(model)
        losses = build(model, x, y)
        self._model = model
        self._outputs, self._matching = losses.outputs, losses.matching
        for output in self._outputs:
            output.check()
        self.labels = label_outputs(model)
        self.gradient_norms = gradient_norms
        self._temperatures = np.asarray(temperatures, np.float32)
        self.targets = tuple(targets)
        self.columns = 2 if self.labels is None else 4
        self.columns += sum(output.columns for output in self.targets)
        self._compiled = backends.active().compile_scoring(self._quantities, model)

    def __call__(
        self, x: ArrayTree, y: ArrayTree, sample_weight: ArrayTree = None
    ) -> dict[str, FloatArray]:
        """Scores a batch.

        Args:
            x, y: NumPy structures, first axis `n`.
            sample_weight: array of weights, shape `(n,)` or with the axes of
                the labels, or a structure of them. Defaults to `None`.

        Returns:
            A dict of float arrays: `"loss"`, shape `(n,)`, weights included;
            for classifiers `"probability"`, `"margin"`, `"right"` (the share
            of margins above 0) and `"weight"`, shape `(n, outputs)`: weighted
            means over the labels of an example, and their mean weight. With
            `k` `temperatures`, shape `(n, outputs, k)`: `"tempered"`, the same means of the label's
            probability at each temperature, and `"confidence"`, those of the largest probability.
            With `targets`, shape `(n, columns of all targets)`: `"targets"`.
        """
        inputs = (x, y) if sample_weight is None else (x, y, sample_weight)
        # Inside `fit`, JAX does not keep the values in the model.
        return self._compiled(backends.active().capture_values(self._model), *inputs)

    def of_outputs(self, y: ArrayTree, y_pred: ArrayTree) -> Tensor:
        """The numbers of each example, from the outputs that a step has computed.

        Args:
            y, y_pred: structures of tensors, as `compute_loss` gets them.

        Returns:
            A float32 tensor, shape `(n, columns)`: the columns of `ExampleMemory`, which are the
            score, the loss without sample weights and, for classifiers, margin and probability,
            means over the outputs by loss weight; then the numbers of `targets`.
        """
        y, y_pred = self._matching.aligned(y, y_pred)
        loss = sum(
            output.weight * example_losses(output, output.of(y), output.of(y_pred))
            for output in self._outputs
        )
        numbers = [self._gradient_norm_of(y, y_pred) if self.gradient_norms else loss, loss]
        if self.labels is not None:
            numbers += label_means(self.labels, y, y_pred)
        columns = ops.stack([ops.cast(n, "float32") for n in numbers], axis=1)
        parts = [columns, *(output.numbers(y, y_pred) for output in self.targets)]
        return ops.stop_gradient(ops.concatenate(parts, axis=1) if self.targets else columns)

    def _gradient_norm_of(self, y: ArrayTree, y_pred: ArrayTree) -> Tensor:
        """The gradient norm of each example, as the feature `"gradient_norm"`."""
        found = [
            pre_activation_gradient(output, output.of(y), output.of(y_pred))
            for output in self._outputs
        ]
        norm = ops.sqrt(sum(ops.square(row_norms(losses.gradient)) for losses in found))
        if len(found) == 1:
            # The mean over an output includes masked steps, which must not count.
            valid = found[0].valid
            norm = ops.where(valid > 0, norm / ops.maximum(valid, 1e-9), ops.zeros_like(norm))
        return norm

    def fits(self, y: ArrayTree, y_pred: ArrayTree) -> bool:
        """Whether these structures are those that the compiled losses compare."""
        try:
            self._matching.aligned(y, y_pred)
        except ValueError:
            return False
        return True

    def _quantities(
        self, values: Values, x: ArrayTree, y: ArrayTree, sample_weight: ArrayTree = None
    ) -> dict[str, Tensor]:
        y_pred = outputs_with(self._model, values, x)
        paths = [output.path for output in self._outputs]
        weights = self._matching.weights(sample_weight, y_pred, paths)
        y, y_pred = self._matching.aligned(y, y_pred)
        loss = sum(
            output.weight
            * pre_activation_gradient(output, output.of(y), output.of(y_pred), weight).losses
            for output, weight in zip(self._outputs, weights, strict=True)
        )
        results = {"loss": loss}
        if self.targets:
            numbers = [output.numbers(y, y_pred) for output in self.targets]
            results["targets"] = ops.concatenate(numbers, axis=1)
        if self.labels is None:
            return results
        columns: list[tuple[Any, ...]] = []
        curves: list[Tensor] = []
        for label, weight in zip(self.labels, weights, strict=True):
            of = label.output.of
            probability, margin, counts = label_values(label, of(y), of(y_pred))
            if weight is not None:
                counts = counts * to_rank(ops.cast(weight, "float32"), len(counts.shape))
            mean = mean_over(counts)
            right = ops.cast(margin > 0, "float32")
            share = over_axes(ops.sum, counts) / math.prod(counts.shape[1:])
            columns.append((*map(mean, (probability, margin, right)), share))
            if len(self._temperatures):
                curves.append(self._curves(label, of(y), of(y_pred), mean))
        names = ("probability", "margin", "right", "weight")
        for name, parts in zip(names, zip(*columns, strict=True), strict=True):
            results[name] = ops.stack(parts, axis=1)
        for place, name in enumerate(("tempered", "confidence") if curves else ()):
            results[name] = ops.stack([ops.transpose(curve[:, place]) for curve in curves], axis=1)
        return results

    def _curves(
        self, label: LabelOutput, y: Tensor, y_pred: Tensor, mean: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Probability of the label and largest probability at each temperature, `(k, 2, n)`."""

        def at(temperature: Tensor) -> Tensor:
            probability, margin, _ = label_values(label, y, tempered(label, y_pred, temperature))
            # A negative margin is how much more probable another class is.
            largest = probability - ops.minimum(margin, 0.0)
            return ops.stack([mean(probability), mean(largest)])

        return ops.map(at, ops.convert_to_tensor(self._temperatures))


def combined(scores: dict[str, FloatArray], name: str, weights: Sequence[float]) -> FloatArray:
    """The mean of a `LabelScorer`'s quantity over the outputs, shape `(n,)`, by loss weight."""
    share = np.asarray(weights, np.float64) / np.sum(weights)
    found: FloatArray = np.asarray(scores[name], np.float64) @ share
    return found
