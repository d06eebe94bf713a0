"""Updates the compiled metrics in a step whose batch may have been drawn by importance.

Keras gives `weighted_metrics` the weights of the loss, and plain `metrics` none. In a drawn batch
plain metrics need the importance weights: without them they describe the harder examples that
were drawn. In a uniform batch all metrics get what `fit` gives them, because some metrics return
another value for weights of 1 than for none.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._keras import mask_of
from keras_swift.src._keras_losses import (
    compile_metrics,
    flatten_targets,
    plain_metrics,
    without_plain_metrics,
)
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.data.leaves import present_leaves, structure_key, with_leaves

# A function of importance weights, shape `(b,)`, and an output: the weights in the shape that a
# metric takes.
Shape = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class StepWeights:
    """The weights of a step's batch.

    Attributes:
        importance: float tensor, shape `(b,)`, all ones in a uniform batch.
        of_loss: structure of tensors, which the step passes on to the loss.
        sample_weight: structure of tensors, the user's own; `None` if there are none.
        unchanged: a copy of `of_loss`, made before the loss gets it.
        rate_scale: float tensor, shape `(b,)`, the factor of the learning rate, equal for all;
            `None` if it is not scaled.
    """

    importance: Tensor
    of_loss: ArrayTree
    sample_weight: ArrayTree
    unchanged: ArrayTree
    rate_scale: Tensor

    @classmethod
    def of(cls, weights: dict[str, ArrayTree]) -> StepWeights:
        """The weights in the third part of a batch for `WeightedStep`."""
        importance, rate_scale = weights.get("importance"), None
        if importance is None:
            both: Any = weights["importance_and_rate"]
            importance, rate_scale = both[:, 0], both[:, 1]
        if "weights" not in weights:
            # No loss is masked.
            return cls(importance, importance, None, importance, rate_scale)
        given = weights["weights"]
        # PyTorch's masked losses multiply their weights by the mask in place.
        unchanged = with_leaves(given, map(keras.ops.copy, present_leaves(given)))
        return cls(importance, given, weights.get("sample_weight"), unchanged, rate_scale)

    def of_fit(self) -> ArrayTree:
        """What the metrics of a uniform batch get in `fit`: the user's weights.

        A masked loss may change its weights in place (PyTorch), and in `fit` the metrics then get
        the changed ones. These are in `of_loss`.
        """
        own = self.sample_weight
        if own is None or structure_key(own) != structure_key(self.of_loss):
            return own

        def as_left(leaf: Tensor, of_loss: Tensor) -> Tensor:
            axes, changed = tuple(leaf.shape[1:]), tuple(of_loss.shape[1:])
            if axes == changed:
                return of_loss
            # With fewer axes than the loss values it is broadcast, so no loss changes it in place.
            if None in (*axes, *changed) or math.prod(axes) != math.prod(changed):
                return leaf
            return keras.ops.reshape(of_loss, keras.ops.shape(leaf))

        return with_leaves(own, map(as_left, present_leaves(own), present_leaves(self.of_loss)))


class MetricUpdates:
    """Updates a model's compiled metrics, weighted where a batch was drawn by importance.

    Args:
        model: a compiled `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        # The shape of the weights for each metric that takes any.
        self._shapes: dict[int, Shape] = {}

    def inspect(self, y: ArrayTree, y_pred: ArrayTree) -> None:
        """Finds out which plain metrics take weights, and warns of those that do not.

        Args:
            y, y_pred: structures of tensors, targets and outputs of some examples.
        """
        metrics = compile_metrics(self._model)
        if metrics is None:
            return
        if not metrics.built:
            metrics.build(y, y_pred)
        self._shapes = {}
        for metric, target, output in _each_plain(metrics, y, y_pred):
            shape = _weights_shape(metric, target, output)
            if shape is not None:
                self._shapes[id(metric)] = shape

    def update(
        self,
        weights: StepWeights | None,
        y_true: ArrayTree,
        y_pred: ArrayTree,
        sample_weight: ArrayTree = None,
    ) -> None:
        """Updates the metrics.

        Args:
            weights: `StepWeights` of the training step; `None` in validation.
            y_true, y_pred: structures of targets and outputs.
            sample_weight: what the step gives the metrics.
        """
        metrics = compile_metrics(self._model)
        if not metrics.built:
            metrics.build(y_true, y_pred)

        def as_fit(given: ArrayTree) -> None:
            type(metrics).update_state(metrics, y_true, y_pred, given)

        def as_drawn(given: ArrayTree) -> None:
            with without_plain_metrics(metrics):
                as_fit(given)
            for metric, target, output in _each_plain(metrics, y_true, y_pred):
                shape, shaped = self._shapes.get(id(metric)), None
                if weights is not None and shape is not None:
                    shaped = shape(weights.importance, output)
                metric.update_state(target, output, sample_weight=shaped)

        if weights is None:
            as_fit(sample_weight)
        elif sample_weight is not weights.of_loss:
            # The user's own `train_step` passes other weights, on purpose.
            as_drawn(sample_weight)
        else:
            _either(
                keras.ops.all(keras.ops.equal(weights.importance, 1.0)),
                lambda: as_fit(weights.of_fit()),
                lambda: as_drawn(weights.unchanged),
                metrics.variables,
            )


def _each_plain(
    metrics: Any, y: ArrayTree, y_pred: ArrayTree
) -> Iterator[tuple[keras.metrics.Metric, Tensor, Tensor]]:
    """Each plain metric of a container, with its targets and its output."""
    targets, outputs = flatten_targets(metrics, y), flatten_targets(metrics, y_pred)
    for group, target, output in zip(plain_metrics(metrics), targets, outputs, strict=False):
        for metric in group.metrics if group else ():
            yield metric, target, output


def _either(
    condition: Tensor,
    first: Callable[[], None],
    second: Callable[[], None],
    variables: list[keras.Variable],
) -> None:
    """Runs `first` if the condition holds, else `second`, also in a compiled step.

    Args:
        condition: bool scalar tensor.
        first, second: functions that assign to some of `variables`.
        variables: list of `keras.Variable`.
    """
    known = backends.active().known_value(condition)
    if known is not None:
        # Not compiled: metrics may have side effects, so only the branch that holds may run.
        (first if known else second)()
        return
    before = [(variable, variable.value) for variable in variables]

    def values_after(update: Callable[[], None]) -> list[Tensor]:
        with keras.StatelessScope(before) as scope:
            update()
        return [scope.get_current_value(variable) for variable in variables]

    def values_after_second() -> list[Tensor]:
        try:
            return values_after(second)
        # Each framework raises its own error for shapes that do not fit.
        except Exception as error:
            warnings.warn(
                "A compiled weighted metric takes no weights for single examples: while batches "
                "are drawn by importance, the metrics describe the harder examples that were "
                f"drawn. It gave {type(error).__name__}: {str(error).strip()[:200]}",
                stacklevel=2,
            )
            return values_after(first)

    # A compiled step traces both, although a uniform batch needs only the first.
    found = keras.ops.cond(condition, lambda: values_after(first), values_after_second)
    for variable, value in zip(variables, found, strict=True):
        variable.assign(value)


# These metrics truncate their weights to whole numbers.
_COUNTING = (keras.metrics.IoU, keras.metrics.MeanIoU)


def _weights_shape(metric: keras.metrics.Metric, target: Tensor, output: Tensor) -> Shape | None:
    """The function that shapes weights for a metric: `_for_rows` or `_for_entries`.

    `None`, with a warning, for a metric that takes no weights.
    """
    ones = keras.ops.ones((output.shape[0],))
    for shape in () if isinstance(metric, _COUNTING) else (_for_rows, _for_entries):
        try:
            metric.update_state(target, output, sample_weight=shape(ones, output))
            return shape
        except Exception:  # Each framework raises its own error for shapes that do not fit.
            continue
        finally:
            metric.reset_state()
    warnings.warn(
        f"The metric {metric.name!r} takes no weights for single examples. While batches are "
        "drawn by importance it describes the harder examples that were drawn.",
        stacklevel=5,
    )
    return None


def _for_entries(importance: Tensor, output: Tensor) -> Tensor:
    """The importance weights with the axes of the output, as AUC wants them for images."""
    return keras.ops.reshape(importance, (-1,) + (1,) * (len(output.shape) - 1))


def _for_rows(importance: Tensor, output: Tensor) -> Tensor:
    """The importance weights with the axes of the output's mask, if it has one.

    Keras multiplies the two for metrics without aligning them, and would pair
    the examples with the time axis.
    """
    mask = mask_of(output)
    if mask is None:
        return importance
    column = keras.ops.reshape(importance, (-1,) + (1,) * (len(mask.shape) - 1))
    # A product, not a broadcast view: Keras multiplies it in place on PyTorch.
    return column * keras.ops.ones_like(mask, dtype=column.dtype)
