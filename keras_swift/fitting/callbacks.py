"""Puts our callbacks around the user's, and makes drawing wait for training."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_swift._types import Logs


class StepBarrier(keras.callbacks.Callback):
    """Makes the draw of a batch wait until the step before it is done.

    For pipelines that always fetch ahead. The price is that drawing and
    training no longer overlap.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._allowed = 0
        self._over = False

    def wait(self, index: int) -> None:
        """Blocks until batch `index` of the epoch may be drawn, or training is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or index < self._allowed)

    def end(self) -> None:
        """Releases all waiting batches."""
        self._allow(0, over=True)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._allow(self.model.steps_per_execution)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._allow(batch + 1 + self.model.steps_per_execution)

    def _allow(self, count: int, over: bool = False) -> None:
        with self._changed:
            self._allowed, self._over = count, over
            self._changed.notify_all()


@contextlib.contextmanager
def with_callbacks(
    callbacks: Any,
    front: Sequence[keras.callbacks.Callback],
    model: keras.Model,
    behind: Sequence[keras.callbacks.Callback] = (),
) -> Iterator[list[keras.callbacks.Callback] | keras.callbacks.CallbackList]:
    """The user's callbacks with ours around them.

    Ours come first, so that the user's see what ours write to the logs.

    Args:
        callbacks: the user's argument of `fit`: `None`, a callback, a list of
            them or a `CallbackList`, which is restored at the end.
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
