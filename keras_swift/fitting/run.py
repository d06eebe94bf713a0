"""`model.fit` on batches of ours, with our callbacks around the user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import keras

from keras_swift.fitting.callbacks import with_callbacks
from keras_swift.fitting.resume import Resumable, resuming


class Feed(Protocol):
    """What hands out batches.

    Attributes:
        error: what it raised last, or `None`: TensorFlow wraps that in an error of its own.
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
        data: what Keras is to read: the feed, or a pipeline made of it.
        feed: what raises where a batch cannot be made.
        place: what `BackupAndRestore` saves and restores beside the model.
        ours: our callbacks; they come before the user's, which see what ours write to the logs.
        callbacks: the user's, as `fit` takes them; put back as they were.
        rest: the other arguments of `model.fit`.
        behind: our callbacks that come after the user's. Defaults to none.

    Raises:
        Exception: what the feed raised, as it was.
    """
    saving, restoring = resuming(callbacks, place)
    with with_callbacks(callbacks, [*ours, *saving], model, [*restoring, *behind]) as callbacks:
        try:
            # Batches come in the order they are drawn in, and to shuffle them Keras would ask the
            # global generator.
            return model.fit(data, callbacks=callbacks, shuffle=False, **rest)
        except Exception:
            if feed.error is not None:
                raise feed.error from None
            raise
