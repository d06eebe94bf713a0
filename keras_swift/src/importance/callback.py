"""The callback that keeps a dataset in step with `model.fit` and writes to the logs."""

from __future__ import annotations

from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._types import Logs
from keras_swift.src.importance.batches import Batches

# What the history has and the progress bar does not show.
NOT_SHOWN = ("tau", "importance", "presample")


class SamplingCallback(keras.callbacks.Callback):
    """Marks the epochs and has them judged, captures JAX's values, writes to the logs.

    It does not implement `on_train_batch_end`, because then Keras waits for
    every step.
    """

    def __init__(self, dataset: Batches) -> None:
        super().__init__()
        self._dataset = dataset
        self._snapshot: list[tuple[Any, Any]] = []
        self._checked = False

    def on_train_begin(self, logs: Logs = None) -> None:
        self._checked = False

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self._checked:
            # Not before: `BackupAndRestore` may begin with a later epoch.
            self._checked = True
            self._dataset.check_processes(epoch)
        self._dataset.on_epoch_end()
        self._dataset.on_epoch_begin()
        # Not at the end of the epoch before, where it would break the progress bar's line.
        news = self._dataset.easing.news()
        if news and (self.params or {}).get("verbose") and backends.active().process()[0] == 0:
            print(f"From epoch {epoch + 1} on: {news}")

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._dataset.on_step_begin()
        # Not `self.model`: accessing it makes Keras put JAX's state back into
        # the model before every step.
        backend, model = backends.active(), self._dataset.model
        self._dataset.score_by(backend.capture_values(model))
        snapshot = backend.snapshot(model)
        self._snapshot = self._snapshot if snapshot is None else snapshot

    def restore_lost(self) -> None:
        """Gives the model back the values that a failed step took from it."""
        backends.active().restore_lost(self._snapshot)
        self._snapshot = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._dataset.on_epoch_end()
        self._dataset.score_by(None)
        self._dataset.judge(logs or {})
        if logs is not None:
            logs.update(self._dataset.epoch_summary())

    def on_train_end(self, logs: Logs = None) -> None:
        if logs is not None:
            logs.update(self._dataset.epoch_summary())


class OwnFitCallback(SamplingCallback):
    """The same in a `fit` of the user's, where nothing stands between the logs and the bar."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_end(epoch, logs)
        history = getattr(self._dataset.model, "history", None)
        if logs is not None and history is not None:
            # The bar shows all logs, and one number of ours is enough.
            for name in NOT_SHOWN:
                history.history.setdefault(name, []).append(logs.pop(name))

    def on_train_end(self, logs: Logs = None) -> None:
        super().on_train_end(logs)
        if logs is not None:
            for name in NOT_SHOWN:
                logs.pop(name)
