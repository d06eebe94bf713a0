"""What a dataset needs to hear from `model.fit`, and what it writes to the logs."""

import contextlib

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

    def on_epoch_begin(self, epoch, logs=None):
        self._dataset.on_epoch_end()
        self._dataset.on_epoch_begin()

    def on_train_batch_begin(self, batch, logs=None):
        self._dataset._values = backends.active().capture_values(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self._dataset.on_epoch_end()
        self._dataset._values = None
        if logs is not None:
            logs.update(self._dataset.epoch_summary())

    def on_train_end(self, logs=None):
        if logs is not None:
            logs.update(self._dataset.epoch_summary())


@contextlib.contextmanager
def with_callbacks(callbacks, front, model, behind=()):
    """The user's callbacks with ours around them.

    In front, so that what ours write to the logs is there for the user's.

    Args:
        callbacks: what the user gave `fit`: `None`, a callback, a list of them
            or a `CallbackList`, which is put back as it was.
        front: list of `keras.callbacks.Callback`.
        model: `keras.Model`.
        behind: list of `keras.callbacks.Callback`. Defaults to none.
    """
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        yield [*front, *keras.tree.flatten(callbacks or []), *behind]
        return
    before = list(callbacks.callbacks)
    for callback in (*front, *behind):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks[:] = [*front, *before, *behind]
    try:
        yield callbacks
    finally:
        callbacks.callbacks[:] = before
