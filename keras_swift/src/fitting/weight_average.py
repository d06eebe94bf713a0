"""The mean of a model's weights over the last steps of a training run.

This file decides what a trial is judged by: not the weights after the last few batches, whose
accuracy is mostly noise, but their mean over the end of the trial.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import FloatArray, Logs

# Reading the weights makes an accelerator wait; more readings hardly reduce the mean's noise.
READINGS = 32


class WeightAverage(keras.callbacks.Callback):
    """Averages the weights over the last steps of one call of `fit`.

    Variables without a mean (the counters of random layers) keep their last
    values.

    Args:
        epochs: int, epochs of the run.
        steps_per_epoch: int.
        steps: int, how many of the last steps are averaged over.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, steps: int) -> None:
        super().__init__()
        self._steps_per_epoch = steps_per_epoch
        self._every = max(1, -(-steps // READINGS))
        # The weights before a step are those after the step before it.
        self._next = epochs * steps_per_epoch - steps + 1
        self._epoch = 0
        self._count = 0
        self._sums: list[FloatArray] = []

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    # At the beginning of a step, not at its end: Keras waits for every step if a callback
    # implements `on_train_batch_end`.
    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        step = self._epoch * self._steps_per_epoch + batch
        if step >= self._next:
            self._add()
            self._next = step + self._every

    def put(self) -> None:
        """Writes the mean into the model, once `fit` has returned."""
        self._add()
        for variable, total in zip(_averaged(self.model), self._sums, strict=True):
            variable.assign(total / self._count)

    def _add(self) -> None:
        """Adds the weights as they are now."""
        variables = _averaged(self.model)
        captured = backends.active().capture_values(self.model)
        if captured is None:
            values = [variable.value for variable in variables]
        else:
            order = [*self.model.trainable_variables, *self.model.non_trainable_variables]
            places = {id(variable): k for k, variable in enumerate(order)}
            flat = [*captured[0], *captured[1]]
            values = [flat[places[id(variable)]] for variable in variables]
        arrays: list[FloatArray] = [
            np.asarray(keras.ops.convert_to_numpy(value), np.float64) for value in values
        ]
        if self._count:
            arrays = [a + b for a, b in zip(self._sums, arrays, strict=True)]
        self._sums = arrays
        self._count += 1


def _averaged(model: keras.Model) -> list[keras.Variable]:
    """The variables that have a mean."""
    return [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
