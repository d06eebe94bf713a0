"""Runs `model.fit` on a feed, or on the user's data where batches cannot be drawn."""

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
from keras_swift.src.fitting.arguments import FitArguments
from keras_swift.src.fitting.run import HideFromProgressBar, StepBarrier, listed, run_fit
from keras_swift.src.importance.batch import Batch
from keras_swift.src.importance.callback import NOT_SHOWN, SamplingCallback
from keras_swift.src.importance.feed import Feed
from keras_swift.src.importance.weighted_step import WeightedStep
from keras_swift.src.scoring.compiled import uniform_warning

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
