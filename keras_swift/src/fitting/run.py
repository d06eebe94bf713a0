"""Runs `model.fit` on our batches, with our callbacks around the user's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import keras

from keras_swift.src._types import Logs
from keras_swift.src.fitting.backup import BackupAndRestore
from keras_swift.src.fitting.journal import EpochBegins, Resumable, Run
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
    users = listed(callbacks)
    saving, restoring = resuming(users, place)
    reads_on = rest.get("steps_per_epoch") is not None
    run = Run(place, {"trainer": trainer, "seed": seed}, reads_on=reads_on)
    with (
        _backed_up(users, run) as begins,
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
def _backed_up(
    users: list[keras.callbacks.Callback], run: Run
) -> Iterator[list[keras.callbacks.Callback]]:
    """A context in which our `BackupAndRestore` among the user's callbacks backs up this run.

    Yields:
        A list of callbacks to place before all others.
    """
    found = [one for one in users if isinstance(one, BackupAndRestore)]
    if found and run.place is not None:
        run.identity |= run.place.identity()
    with contextlib.ExitStack() as stack:
        for one in found:
            stack.enter_context(one.in_run(run))
        yield [EpochBegins(run)] if found else []


def listed(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The user's callbacks as a list.

    Args:
        callbacks: `None`, a callback, a structure of them or a `CallbackList`.
    """
    given = getattr(callbacks, "callbacks", callbacks)
    found: list[keras.callbacks.Callback] = keras.tree.flatten(given or [])
    return found


@contextlib.contextmanager
def with_callbacks(
    callbacks: Any,
    front: Sequence[keras.callbacks.Callback],
    model: keras.Model,
    behind: Sequence[keras.callbacks.Callback] = (),
) -> Iterator[list[keras.callbacks.Callback] | keras.callbacks.CallbackList]:
    """The user's callbacks with ours around them.

    `front` comes first, so that the user's callbacks see what ours write to the logs. Then come the
    user's, with a `History` if they have none, then `behind`, and last the progress bar, so that
    `behind` can change what the bar shows but not what the history keeps.

    Args:
        callbacks: the user's argument of `fit`: `None`, a callback, a list of
            them or a `CallbackList`, which is restored at the end.
        front: list of `keras.callbacks.Callback`.
        model: `keras.Model`.
        behind: list of `keras.callbacks.Callback`. Defaults to none.
    """
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        users = listed(callbacks)
        if not any(isinstance(callback, keras.callbacks.History) for callback in users):
            users.append(keras.callbacks.History())
        yield _in_order(users, front, behind)
        return
    before = list(callbacks.callbacks)
    for callback in (*front, *behind):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks[:] = _in_order(before, front, behind)
    try:
        yield callbacks
    finally:
        callbacks.callbacks[:] = before


def _in_order(
    users: list[keras.callbacks.Callback],
    front: Iterable[keras.callbacks.Callback],
    behind: Iterable[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    bars = [one for one in users if isinstance(one, keras.callbacks.ProgbarLogger)]
    return [*front, *(one for one in users if one not in bars), *behind, *bars]


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


class ThreeDigits(float):
    """A float that Keras' progress bar shows with three digits."""

    def __truediv__(self, other: float) -> ThreeDigits:
        # The progress bar divides by a count of 1, and the quotient must keep this format.
        return ThreeDigits(float(self) / other)

    def __format__(self, spec: str) -> str:
        return format(float(self), "#.3g")


class HideFromProgressBar(keras.callbacks.Callback):
    """Takes numbers out of the logs before the progress bar shows them, and shortens others.

    Args:
        names: tuple of str, what the bar does not show.
        shortened: tuple of str, what it shows with three digits.
    """

    def __init__(self, names: tuple[str, ...], shortened: tuple[str, ...]) -> None:
        super().__init__()
        self._names, self._shortened = names, shortened

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        for name in self._names:
            logs.pop(name, None)
        for name in self._shortened:
            if name in logs:
                logs[name] = ThreeDigits(logs[name])
