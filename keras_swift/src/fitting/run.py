"""Runs `model.fit` on our batches, with our callbacks around the user's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import keras

from keras_swift.src.fitting.backup import BackupAndRestore
from keras_swift.src.fitting.callbacks import with_callbacks
from keras_swift.src.fitting.resumable import EpochBegins, Resumable, Run, listed
from keras_swift.src.fitting.resume import resuming


class Feed(Protocol):
    """An object that makes batches.

    Attributes:
        error: its last exception, or `None`. Kept here because TensorFlow raises an error of its
            own in its place.
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
    *,
    trainer: str,
    seed: int | None,
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
        trainer: str, the name of the trainer. A run is resumed only by the same one.
        seed: int, the user's, or `None`; likewise.

    Raises:
        Exception: what the feed raised, unwrapped.
    """
    saving, restoring = resuming(callbacks, place)
    reads_on = rest.get("steps_per_epoch") is not None
    run = Run(place, {"trainer": trainer, "seed": seed}, reads_on=reads_on)
    with (
        _backed_up(callbacks, run) as begins,
        with_callbacks(
            callbacks, [*begins, *ours, *saving], model, [*restoring, *behind]
        ) as callbacks,
    ):
        try:
            # Batches stay in the order in which they are drawn: Keras would shuffle them by the
            # global generator.
            return model.fit(data, callbacks=callbacks, shuffle=False, **rest)
        except Exception:
            if feed.error is not None:
                raise feed.error from None
            raise


@contextlib.contextmanager
def _backed_up(callbacks: Any, run: Run) -> Iterator[list[keras.callbacks.Callback]]:
    """A context in which our `BackupAndRestore` among the user's callbacks backs up this run.

    Yields:
        A list of callbacks to place before all others.
    """
    found = [one for one in listed(callbacks) if isinstance(one, BackupAndRestore)]
    if found and run.place is not None:
        run.identity |= run.place.identity()
    with contextlib.ExitStack() as stack:
        for one in found:
            stack.enter_context(one.in_run(run))
        yield [EpochBegins(run)] if found else []
