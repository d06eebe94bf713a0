"""The callback that keeps a dataset in step with `model.fit` and writes to the logs."""

from __future__ import annotations

from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._types import Logs
from keras_swift.src.importance.feed import Feed

# In the history, but not in the progress bar.
NOT_SHOWN = ("tau", "importance", "presample")


class SamplingCallback(keras.callbacks.Callback):
    """Begins and ends the feed's epochs, decides whether to ease off, and adds to the logs.

    Before each step it also lets the sampler capture the model's values (JAX).
    It does not implement `on_train_batch_end`, because then Keras waits for
    every step.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed
        self._snapshot: list[tuple[Any, Any]] = []
        self._checked = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self._checked = False

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self._checked:
            # Not in `on_train_begin`: `BackupAndRestore` may begin with a later epoch.
            self._checked = True
            self._check_processes(epoch)
        self._feed.end_epoch()
        self._feed.begin_epoch()
        # Not in `on_epoch_end`, where it would break the progress bar's line.
        news = self._feed.easing.news()
        if news and (self.params or {}).get("verbose") and backends.active().process()[0] == 0:
            print(f"From epoch {epoch + 1} on: {news}")

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._feed.steps.begin_step()
        # Not `self.model`: accessing it makes Keras put JAX's state back into
        # the model before every step.
        model = self._feed.model
        self._feed.sampler.begin_step(model)
        snapshot = backends.active().snapshot(model)
        self._snapshot = self._snapshot if snapshot is None else snapshot

    def restore_lost(self) -> None:
        """Gives the model back the values that a failed step took from it."""
        backends.active().restore_lost(self._snapshot)
        self._snapshot = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._feed.end_epoch()
        self._judge(logs or {})
        if logs is not None:
            logs.update(self._feed.epoch_summary())

    def on_train_end(self, logs: Logs = None) -> None:
        if logs is not None:
            logs.update(self._feed.epoch_summary())

    def _check_processes(self, epoch: int) -> None:
        """Raises if processes differ in a number that would make them wait for one another."""
        feed = self._feed
        numbers = {
            "The first epoch": epoch,
            "The step to go on from": feed.journal.steps,
            "The number of steps in an epoch": feed.steps.in_epoch,
            "`batch_size`": feed.reader.batch_size,
        }
        backends.active().check_agreement(numbers)

    def _judge(self, logs: dict[str, float]) -> None:
        """Decides after an epoch and its validation whether the next one is uniform."""
        easing = self._feed.easing
        losses = {"loss": float(logs["val_loss"])} if "val_loss" in logs else {}
        if not losses and any(name.startswith("val_") for name in logs):
            # A `test_step` of the model's own that reports no loss.
            easing.validates = False
        # Averaged, so that every process decides the same.
        own = {"score": self._feed.sampler.mean_score, **losses}
        found = backends.active().mean_over_processes(own)
        easing.hear(found.get("loss"), found["score"])


class OwnFitCallback(SamplingCallback):
    """The callback for a `fit` that users call, whose progress bar shows every log."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_end(epoch, logs)
        history = getattr(self._feed.model, "history", None)
        if logs is not None and history is not None:
            # Of ours, the bar shows only `gain`.
            for name in NOT_SHOWN:
                history.history.setdefault(name, []).append(logs.pop(name))

    def on_train_end(self, logs: Logs = None) -> None:
        super().on_train_end(logs)
        if logs is not None:
            for name in NOT_SHOWN:
                logs.pop(name)
