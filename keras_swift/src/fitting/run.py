"""Runs `model.fit` on our batches, with our callbacks around the user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import keras

from keras_swift.src.fitting.callbacks import with_callbacks
from keras_swift.src.fitting.resume import Resumable, resuming


class Feed(Protocol):
    """An object that makes batches.

    Attributes:
        error: its last exception, or `None`: TensorFlow wraps that in an error of its own.
    """

    error: Exception | None


def run_fit(
    model: keras.Model,
    data: Any,
    feed: Feed,
    place: Resumable,
    ours: list[keras.callbacks.Callback],
    callbacks: Any,
    rest: dict[str, Any],
    behind: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.History:
    """Trains the model.

    Args:
        model: `keras.Model`.
        data: what Keras reads: the feed, or a pipeline made of it.
        feed: the `Feed`, which holds the error if a batch cannot be made.
        place: what `BackupAndRestore` saves and restores beside the model.
        ours: our callbacks; they precede the user's, which see what ours write to the logs.
        callbacks: the user's, as `fit` takes them; restored at the end.
        rest: the other arguments of `model.fit`.
        behind: our callbacks that come after the user's. Defaults to none.

    Raises:
        Exception: what the feed raised, unwrapped.
    """
    saving, restoring = resuming(callbacks, place)
    with with_callbacks(callbacks, [*ours, *saving], model, [*restoring, *behind]) as callbacks:
        try:
            # Batches stay in the order they are drawn in; to shuffle them Keras would use the
            # global generator.
            return model.fit(data, callbacks=callbacks, shuffle=False, **rest)
        except Exception:
            if feed.error is not None:
                raise feed.error from None
            raise
