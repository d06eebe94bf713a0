"""What a dataset needs to hear from `model.fit`, and what it writes to the logs."""

import contextlib
import math
import threading

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


class TakingTurns(keras.callbacks.Callback):
    """Lets a batch be drawn only when the step before it is done.

    For pipelines that fetch ahead and cannot be told not to. Costs what it
    prevents: drawing and training no longer overlap.
    """

    def __init__(self):
        super().__init__()
        self._changed = threading.Condition()
        self._allowed = 0
        self._over = False

    def wait(self, index):
        """Returns when batch `index` of the epoch may be drawn, or training is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or index < self._allowed)

    def end(self):
        """Lets everybody go."""
        self._allow(0, over=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._allow(self.model.steps_per_execution)

    def on_train_batch_end(self, batch, logs=None):
        self._allow(batch + 1 + self.model.steps_per_execution)

    def _allow(self, count, over=False):
        with self._changed:
            self._allowed, self._over = count, over
            self._changed.notify_all()


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
