"""Follows the user's learning rate, to tell the gate how far a step may exceed it."""

import math

import keras

from keras_swift import backends


def current_rate(model):
    """The learning rate of the next step, a float; `None` where it is out of reach or unknown."""
    if not backends.active().is_in_sync(model):
        return None
    rate = getattr(model.optimizer, "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


class RateLimit(keras.callbacks.Callback):
    """Says, between two steps, the largest factor of the learning rate.

    Call it for the factor; as a callback it only helps on JAX, which keeps
    the rate out of reach during an epoch: there it is read at the first step.

    Args:
        model: `keras.Model`.
        capped: bool, whether a scaled rate may not exceed the highest rate
            seen since the training began.
    """

    def __init__(self, model, capped):
        super().__init__()
        # `self.model` would put JAX' state back into the model at every look.
        self._trained = model
        self._capped = capped
        self._highest = 0.0
        self._limit = 1.0 if capped else math.inf

    def on_train_batch_begin(self, batch, logs=None):
        self()

    def __call__(self):
        rate = current_rate(self._trained) if self._capped else None
        if rate is not None:
            self._highest = max(self._highest, rate)
            self._limit = self._highest / rate if rate > 0 else 1.0
        return self._limit
