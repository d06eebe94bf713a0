"""Whether a model's training step uses the weights of the examples.

Importance sampling is unbiased because the loss of each drawn example is weighted. A model that
computes its loss or its whole step itself may leave the weights out, and would silently train
another objective. This file finds out before training, by one step on a few examples whose
weights are NaN: a result that is still a number has not used them.
"""

from __future__ import annotations

import contextlib
import dis
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import own_methods
from keras_swift.src._keras_losses import loss_of, metrics_of_keras
from keras_swift.src._pages import read_on
from keras_swift.src._types import ArrayTree
from keras_swift.src.data.leaves import present_leaves, with_leaves
from keras_swift.src.scoring.forward import accepts_training

_CURE = (
    "Unpack a batch with `x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)` and "
    "pass the weights on, `self.compute_loss(x, y, y_pred, sample_weight)`; in a `compute_loss` of "
    "your own, `super().compute_loss(x, y, y_pred, sample_weight)`, or multiply the loss of each "
    "example by its weight before the mean is taken."
)


def check_weights_arrive(
    model: keras.Model, x: ArrayTree, y: ArrayTree, weights: ArrayTree
) -> None:
    """Raises if the model's step ignores the weights, and warns of metrics that do.

    A model with Keras' own methods is not checked, nor one whose step cannot
    run outside `fit`. For others two steps are computed on the examples and
    undone, one of them with weights that are NaN.

    Args:
        model: a compiled, built `keras.Model`.
        x, y: NumPy structures, a few examples.
        weights: NumPy structure, their weights as training will get them.

    Raises:
        ValueError: if the loss is the same whatever the weights are, or the
            model's `train_step` takes batches of two parts.
    """
    own = own_methods(model)
    if not own or backends.active().has_replicas(model):
        return
    try:
        plain = _Effect.of(model, own, x, y, weights)
        nans = keras.tree.map_structure(lambda leaf: np.full_like(leaf, np.nan), weights)
        found = _Effect.of(model, own, x, y, nans)
    except Exception as error:
        if not unpacks_pairs(error):
            # A step that cannot run outside `fit`. `fit` will give the reason.
            return
        raise takes_no_weights() from error
    if plain.loss_is_a_number and found.loss_is_a_number:
        names = " and ".join(f"`{type(model).__name__}.{name}`" for name in own)
        raise ValueError(
            "The model must weight the loss of each example by its `sample_weight`: without the "
            "weights, drawing by importance trains another objective. Received: "
            f"{names}, with a loss that is the same whatever the weights are. {_CURE}"
        )
    unweighted = sorted(set(found.metrics) & set(plain.metrics))
    if unweighted:
        warnings.warn(
            f"The model updates the metrics {unweighted} by itself, without weights. While batches "
            "are drawn by importance they describe the harder examples that were drawn. Pass "
            "`sample_weight` to their `update_state`. "
            + read_on("compatibility.md#losses-weights-metrics"),
            stacklevel=3,
        )


def unpacks_pairs(error: Exception) -> bool:
    """Whether an error is that of a step that takes a batch of three parts for a pair.

    Python raises a plain ValueError there, so this looks at the bytecode instruction that raised
    it.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if not isinstance(error, ValueError) or last is None:
        return False
    frame = last.tb_frame
    instructions = {found.offset: found for found in dis.get_instructions(frame.f_code)}
    failed = instructions.get(last.tb_lasti)
    if failed is None or (failed.opname, failed.argval) != ("UNPACK_SEQUENCE", 2):
        return False
    # Candidates for the batch: any tuple, or the last item of one, as in the step's arguments.
    found = [value for value in frame.f_locals.values() if isinstance(value, tuple)]
    found += [value[-1] for value in found if value and isinstance(value[-1], tuple)]
    return any(len(value) == 3 for value in found)


def takes_no_weights() -> ValueError:
    """The error for a `train_step` that takes its batches for pairs."""
    return ValueError(
        "The model's `train_step` must take batches `(x, y, sample_weight)` and pass the "
        f"weights on to its loss. Received: one that takes `(x, y)`. {_CURE}"
    )


class _Effect:
    """The effect of a step: whether its loss is a number, and which of its own metrics are."""

    def __init__(self, losses: list[Any], metrics: list[str]) -> None:
        leaves = [keras.ops.convert_to_numpy(leaf) for leaf in present_leaves(losses)]
        self.loss_is_a_number = bool(leaves) and all(np.isfinite(leaf).all() for leaf in leaves)
        self.metrics = metrics

    @classmethod
    def of(
        cls, model: keras.Model, own: list[str], x: ArrayTree, y: ArrayTree, weights: ArrayTree
    ) -> _Effect:
        state = backends.active().random_state()
        data = with_leaves(
            (x, y, weights), map(keras.ops.convert_to_tensor, present_leaves((x, y, weights)))
        )
        before = [variable.value for variable in model.metrics_variables]
        gradients: list[Any] = []
        local = backends.active().local_state(model)
        try:
            # The scope keeps assignments away from Keras' variables.
            with _recorded(model, gradients), keras.StatelessScope(local) as scope:
                if {"train_step", "compute_loss_and_updates"} & set(own):
                    logs, after = backends.active().step(model, data)
                    losses = gradients if _tell(gradients) else _named_loss(logs)
                else:
                    arguments = {"training": True} if accepts_training(model) else {}
                    inputs, targets, sample_weight = data
                    y_pred = model(inputs, **arguments)
                    losses = [loss_of(model, inputs, targets, y_pred, sample_weight)]
                    if "compute_metrics" in own:
                        model.compute_metrics(inputs, targets, y_pred, sample_weight)
                    after = None
                if after is None:
                    after = [scope.get_current_value(v) for v in model.metrics_variables]
        finally:
            backends.active().restore_random_state(state)
        return cls(losses, _own_metrics(model, before, after))


def _tell(gradients: list[Any]) -> bool:
    """Whether any gradient is not 0: behind ReLUs that are off, all are 0 for any weights."""
    leaves = [keras.ops.convert_to_numpy(leaf) for leaf in present_leaves(gradients)]
    return any(np.any(leaf) for leaf in leaves)


def _named_loss(logs: Any) -> list[Any]:
    """The losses among the logs of a step, or all logs."""
    if not isinstance(logs, dict):
        return [logs]
    return [value for name, value in logs.items() if "loss" in name] or list(logs.values())


def _own_metrics(model: keras.Model, before: list[Any], after: list[Any]) -> list[str]:
    """The names of the model's own metrics that the step has updated, to finite values."""
    known = {id(metric) for metric in metrics_of_keras(model)}
    changed = {
        id(variable): new
        for variable, old, new in zip(model.metrics_variables, before, after, strict=True)
        if new is not None
        and not np.array_equal(
            keras.ops.convert_to_numpy(old), keras.ops.convert_to_numpy(new), equal_nan=True
        )
    }
    names = []
    for metric in model.metrics:
        values = [changed[id(v)] for v in metric.variables if id(v) in changed]
        numbers = all(np.isfinite(keras.ops.convert_to_numpy(value)).all() for value in values)
        if id(metric) not in known and values and numbers:
            names.append(metric.name)
    return names


@contextlib.contextmanager
def _recorded(model: keras.Model, gradients: list[Any]) -> Iterator[None]:
    """A context in which the model's optimizers record the gradients and do nothing else."""
    optimizers = [
        value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)
    ]
    found = {id(optimizer): optimizer for optimizer in (*optimizers, model.optimizer)}

    def apply(grads: Any, trainable_variables: Any = None) -> None:
        gradients.extend(grads)

    changed = [optimizer for optimizer in found.values() if optimizer is not None]
    for optimizer in changed:
        optimizer.apply = apply
    try:
        yield
    finally:
        for optimizer in changed:
            del optimizer.apply
