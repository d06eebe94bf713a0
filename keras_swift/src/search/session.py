"""One call of `search` on a folder: what is there is read, the rest is run.

This file decides the order of the stages, which process runs them, and when a folder holds the same
search.
"""

from __future__ import annotations

import contextlib
import time

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src.data import fingerprint
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.outputs import classes_of, is_one_class
from keras_swift.src.search.cube import SamplerCube
from keras_swift.src.search.processes import is_chief, is_worker
from keras_swift.src.search.report import time_to_come
from keras_swift.src.search.result import SearchResult
from keras_swift.src.search.stages import (
    Task,
    confirm,
    pretrain,
    read_trials,
    run_trials,
    to_confirm,
    trials_left,
)
from keras_swift.src.search.start import Start, read_start, write_start
from keras_swift.src.search.store import START, Store, UnreadableFile
from keras_swift.src.search.trial import SearchTrial


def run_search(task: Task, store: Store, note: str, overwrite: bool) -> SearchResult:
    """Runs what is left of a search and reads the result.

    Args:
        task: `Task`.
        store: `Store` of the folder.
        note: str, the `note` of the result.
        overwrite: bool, whether to delete what is there.
    """
    data_fingerprint = fingerprint.of_arrays((task.source.x, task.source.y))
    described = _described(task, data_fingerprint)
    if store.has(START) and not overwrite:
        # A finished search is read without the lock, which needs a writable folder.
        found = _finished(task, store, described)
        if found is not None:
            return _result(task, *found, data_fingerprint, note)
    with contextlib.nullcontext() if is_worker() else store.alone():
        if overwrite:
            store.clear()
        start = _start(task, store, described)
        own = store.of_search(start.search)
        cube = _cube(task, start)
        left = trials_left(own, cube, task.settings.max_trials)
        if left:
            _say_what_is_left(task, start, left)
            run_trials(task, start, own, cube)
        try:
            trials = read_trials(own, cube)
        except UnreadableFile as error:
            raise ValueError(f"{error} Repeat the call: that trial is then run again.") from error
        # If processes share a search, the chief confirms.
        confirmed = confirm(task, start, own, trials, train=not is_worker())
    return _result(task, start, trials, confirmed, data_fingerprint, note)


def _finished(
    task: Task, store: Store, described: dict[str, str]
) -> tuple[Start, tuple[SearchTrial, ...], tuple[SearchTrial, ...]] | None:
    """Start, trials and confirmed trials of a finished search; `None` if it is not finished."""
    settings = task.settings
    start = read_start(store, described, settings.seed)
    own, cube = store.of_search(start.search), _cube(task, start)
    if trials_left(own, cube, settings.max_trials):
        return None
    trials = read_trials(own, cube)
    confirmed = confirm(task, start, own, trials, train=False)
    missing = len(to_confirm(task, start, trials)) - len(confirmed[1:])
    return (start, trials, confirmed) if is_worker() or not missing else None


def _result(
    task: Task,
    start: Start,
    trials: tuple[SearchTrial, ...],
    confirmed: tuple[SearchTrial, ...],
    data_fingerprint: str,
    note: str,
) -> SearchResult:
    return SearchResult(
        features=start.features,
        trials=trials,
        confirmed=confirmed,
        objective=task.objective.name,
        direction=task.objective.direction,
        record=FinishedRecord(**start.record),
        classes=classes_of(task.source.y) if is_one_class(task.model) else None,
        pretrained_weights=start.pretrained_weights,
        pretrain_epochs=task.settings.pretrain_epochs,
        finetune_epochs=task.settings.finetune_epochs,
        pretrain_seconds=start.seconds,
        record_epochs=start.record_cost,
        data_fingerprint=data_fingerprint,
        note=note,
    )


def _cube(task: Task, start: Start) -> SamplerCube:
    space = task.space
    return SamplerCube(
        tuple(task.named), space.segments, space.transform, start.features, start.seed
    )


def _say_what_is_left(task: Task, start: Start, left: int) -> None:
    settings = task.settings
    if settings.verbose and settings.pretrain_epochs and not is_worker():
        print(time_to_come(start.seconds, left, settings), flush=True)


def _start(task: Task, store: Store, described: dict[str, str]) -> Start:
    """The shared start: read from disk, or made now."""
    if is_chief():
        # The chief does not pretrain: the first worker that is ready makes the start.
        while not store.has(START):
            time.sleep(0.2)
    if not store.has(START):
        if store.has("oracle.json"):
            raise ValueError(
                f"`directory` must be empty or hold this search. Received: {store.folder}, a "
                "KerasTuner project of another kind. Choose another `directory` or "
                "`project_name`, or pass overwrite=True to delete it. "
                + read_on("guides/resuming.md#a-search")
            )
        write_start(store, pretrain(task, described))
    return read_start(store, described, task.settings.seed)


def _described(task: Task, data_fingerprint: str) -> dict[str, str]:
    """Hashes that identify this search, keyed by the name used in errors."""
    settings, source = task.settings, task.source
    held_out = list(task.judge.data)
    with contextlib.suppress(TypeError):
        held_out = keras.tree.map_structure(np.asarray, held_out)
    features = {
        name: feature
        if isinstance(feature, str)
        else "callable"
        if callable(feature)
        else fingerprint.of_arrays(np.asarray(feature))
        for name, feature in task.named.items()
    }
    # Weights are compared only without pretraining: a model to pretrain starts at random ones.
    weights = settings.pretrain_epochs == 0
    return {
        "data": data_fingerprint + fingerprint.of_arrays(source.sample_weight),
        "validation data": fingerprint.of_arrays(held_out),
        "model": fingerprint.of_model(task.model, weights=weights),
        "settings": fingerprint.of_settings(
            {
                "features": features,
                "order": list(features),
                "finetune_epochs": settings.finetune_epochs,
                "pretrain_epochs": settings.pretrain_epochs,
                "batch_size": settings.batch_size,
                "segments": int(task.space.segments),
                "transform": task.space.transform,
                "method": settings.method,
                "objective": str(task.objective),
            }
        ),
    }
