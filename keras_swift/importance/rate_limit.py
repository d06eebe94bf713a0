"""Follows the user's learning rate, to tell the gate how far a step may exceed it."""

import math

import keras

from keras_swift import backends


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
        # At every step, so only where it costs no waiting for the step before.
        if self._capped and backends.active().is_in_sync(self._trained):
            rate = backends.active().learning_rate(self._trained)
            self._highest = max(self._highest, rate)
            self._limit = self._highest / rate if rate > 0 else 1.0
        return self._limit

    def state(self):
        return {"highest": self._highest, "limit": self._limit}

    def restore(self, state):
        self._highest, self._limit = state["highest"], state["limit"]
