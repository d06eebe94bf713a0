"""Runs `model.fit` on a feed, or on the user's data where batches cannot be drawn.

A callback keeps the feed in step with `model.fit` and writes to the logs.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import Logs
from keras_swift.src.fitting.arguments import FitArguments
from keras_swift.src.fitting.run import HideFromProgressBar, StepBarrier, listed, run_fit
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.feed import Feed
from keras_swift.src.importance.weighted_step import WeightedStep
from keras_swift.src.scoring.compiled import uniform_warning

# In the history, but not in the progress bar.
NOT_SHOWN = ("tau", "importance", "presample")
# What the history holds for each epoch of uniform batches.
UNIFORM = {"tau": 0.0, "importance": 0.0, "presample": 1.0, "gain": 1.0}
# The models in training: a model's own `fit` may call ours.
_IN_TRAINING: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def is_in_training(model: keras.Model) -> bool:
    """Whether a `fit` of ours is training the model."""
    return model in _IN_TRAINING


def plain_fit(model: keras.Model, given: FitArguments) -> keras.callbacks.History:
    """Calls Keras' own `fit`, even if the model overrides it."""
    return given.passed_to(functools.partial(keras.Model.fit, model))


def uniform_fit(model: keras.Model, reason: str, given: FitArguments) -> keras.callbacks.History:
    """Warns of the reason, calls `model.fit`, and adds what the history says of uniform batches."""
    warnings.warn(uniform_warning(reason), stacklevel=3)
    with _in_training(model):
        history = given.passed_to(model.fit)
    for name, value in UNIFORM.items():
        history.history[name] = [value] * len(history.epoch)
    return history


def fit_on(
    feed: Feed,
    weighted_step: WeightedStep,
    callbacks: Any,
    rest: dict[str, Any],
    seed: int | None,
) -> keras.callbacks.History:
    """Trains the model of a feed on its batches, and closes the feed's reader.

    Args:
        feed: `Feed`.
        weighted_step: `WeightedStep` that takes the feed's items.
        callbacks: the user's.
        rest: the other arguments of `model.fit`.
        seed: int, the user's, or `None`.
    """
    model = feed.model
    if backends.active().has_replicas(model):
        # The pipeline of a distributed data set always fetches ahead.
        feed.barrier = StepBarrier()
    sampling = SamplingCallback(feed)
    ours = [sampling, *([feed.barrier] if feed.barrier else [])]
    hidden = HideFromProgressBar(NOT_SHOWN, shortened=("gain",))
    with _in_training(model), weighted_step.entered():
        try:
            return run_fit(
                model,
                backends.active().feed(feed, model),
                feed,
                feed,
                ours,
                callbacks,
                rest,
                [hidden],
                trainer="ImportanceTraining",
                seed=seed,
            )
        finally:
            if feed.barrier is not None:
                feed.barrier.end()
            sampling.restore_lost()
            feed.end_epoch()
            feed.reader.close()


def hook_of(callbacks: Any) -> Callable[[Batch], None] | None:
    """A function that passes a batch to each callback with `on_batch_drawn`; `None` without one."""
    hooks = [one.on_batch_drawn for one in listed(callbacks) if hasattr(one, "on_batch_drawn")]

    def on_draw(batch: Batch) -> None:
        for hook in hooks:
            hook(batch)

    return on_draw if hooks else None


@contextlib.contextmanager
def _in_training(model: keras.Model) -> Iterator[None]:
    _IN_TRAINING.add(model)
    try:
        yield
    finally:
        _IN_TRAINING.discard(model)


def keras_seed() -> int:
    """A seed drawn as Keras' layers draw theirs, so that `keras.utils.set_random_seed` fixes it."""
    state = keras.ops.convert_to_numpy(keras.random.SeedGenerator().state)
    return int(np.asarray(state).flat[0])


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
