"""What a dataset needs to hear from `model.fit`, and what it writes to the logs."""

import math

import keras

from keras_swift import backends


class SamplingCallback(keras.callbacks.Callback):
    """Marks the epochs, keeps JAX' values, writes what was measured to the logs.

    It leaves `on_train_batch_end` alone: a callback that implements it makes
    Keras wait for every step.
    """

    def __init__(self, dataset):
        super().__init__()
        self._dataset = dataset
        self._kept = []
        self._reads_rate = False

    def on_epoch_begin(self, epoch, logs=None):
        self._dataset.on_epoch_end()
        # A `CallbackList` of the user's may not know.
        epochs = (self.params or {}).get("epochs")
        self._dataset.expect(math.inf if epochs is None else epochs - epoch)
        self._dataset.on_epoch_begin()
        # Asked here and not before every step: on TensorFlow it takes a while to answer.
        backend = backends.active()
        self._reads_rate = backend.MADE_IN_STEP and not backend.fetches_ahead(self._dataset.model)

    def on_train_batch_begin(self, batch, logs=None):
        if self._reads_rate:
            self._dataset.follow_rate()
        self._dataset.on_step_begin()
        # Not `self.model`, which would make Keras put JAX' state back into the
        # model before every step.
        backend, model = backends.active(), self._dataset.model
        self._dataset.score_by(backend.capture_values(model))
        kept = backend.keep(model)
        self._kept = self._kept if kept is None else kept

    def give_back(self):
        """Gives the model back what a step that failed has taken from it."""
        backends.active().give_back(self._kept)
        self._kept = []

    def on_epoch_end(self, epoch, logs=None):
        self._dataset.on_epoch_end()
        self._dataset.score_by(None)
        if logs is not None:
            logs.update(self._dataset.epoch_summary())

    def on_train_end(self, logs=None):
        # Of a further `model.fit` without this callback nothing is known.
        self._dataset.expect(math.inf)
        if logs is not None:
            logs.update(self._dataset.epoch_summary())
