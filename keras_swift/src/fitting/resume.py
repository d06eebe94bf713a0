"""Makes a run that Keras' own `BackupAndRestore` resumes draw as if it had never stopped.

Keras saves weights and optimizer; this file saves, beside them, the state of the permutations, the
random generators and the gate, and the random states of layers such as dropout, which Keras leaves
out. There is one file for each epoch that a run could resume from. A kill between two files leaves
parts that do not belong together, which is an error here; our own callback, in `backup`, writes one
file.
"""

from __future__ import annotations

import glob
import json
import os
import warnings
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import rate_and_iterations, resumed_epoch, seed_variables
from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, Logs, State
from keras_swift.src.fitting.backup import BackupAndRestore
from keras_swift.src.fitting.backup_file import OF_KERAS, is_backup
from keras_swift.src.fitting.journal import Resumable
from keras_swift.src.fitting.states import alike, read_state, write_state

# The version of the files saved beside a backup.
VERSION = 6
_NAME = "keras_swift_sampling_{}.npz"
_CURE = (
    "Delete the folder and begin again, with `keras_swift.BackupAndRestore`, which never leaves "
    "such a state. " + read_on("guides/resuming.md#a-training-run")
)


class SaveSampling(keras.callbacks.Callback):
    """Saves a dataset's state at each epoch's end; placed before `BackupAndRestore`.

    Before it, so that the state is written before the weights: a run killed
    between the two resumes from the previous epoch, whose state is kept.

    Args:
        dataset: has `state()`.
        directories: list of str, the folders of the backups.
    """

    def __init__(self, dataset: Resumable, directories: list[str]) -> None:
        super().__init__()
        self._dataset = dataset
        self._directories = directories

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        for directory in self._directories:
            os.makedirs(directory, exist_ok=True)
            state = {
                "version": VERSION,
                "sampling": self._dataset.state(),
                "layers": layer_seeds(self.model),
                "framework": backends.active().random_state(),
                "iterations": _iterations(self.model),
            }
            write_state(os.path.join(directory, _name(epoch + 1)), state)
            for name in glob.glob(os.path.join(glob.escape(directory), _name("*"))):
                # Keep the last two before this one: the weights of this epoch are not written
                # yet, and Keras keeps a copy of the backup before that.
                if _epoch_of(name) < epoch - 1:
                    os.remove(name)


class RestoreSampling(keras.callbacks.Callback):
    """Restores the state that belongs to the weights; placed after `BackupAndRestore`."""

    def __init__(self, dataset: Resumable, directories: list[str]) -> None:
        super().__init__()
        self._dataset = dataset
        self._directories = directories

    def on_train_begin(self, logs: Logs = None) -> None:
        for directory in self._directories:
            if os.path.exists(os.path.join(directory, OF_KERAS[1])):
                self._restore(directory, resumed_epoch(self.model) or 0)
                return

    def _restore(self, directory: str, epoch: int) -> None:
        path = os.path.join(directory, _name(epoch))
        if not epoch:
            raise ValueError(
                f"The backup in {directory!r} must be of the end of an epoch. Received: one of the "
                f"middle of the first, which would begin again from those weights. {_CURE}"
            )
        if not os.path.exists(path):
            warnings.warn(
                f"The backup in {directory!r} was not written by keras_swift: the draws and the "
                "gate start afresh. Weights and optimizer are those of the backup.",
                stacklevel=2,
            )
            return
        state = self._read(path)
        iterations = _iterations(self.model)
        if state["iterations"] != iterations:
            raise ValueError(
                f"The files in {directory!r} must be of one backup. Received: weights after "
                f"{iterations} steps, and a position, epoch {epoch}, which is after "
                f"{state['iterations']}: the run was killed between two files, or `save_freq` is "
                f"a number. {_CURE}"
            )
        if not alike(state["sampling"], self._dataset.state()):
            warnings.warn(
                f"The backup in {directory!r} is of a run with other settings: the draws "
                "and the gate start afresh. Weights and optimizer are those of the backup.",
                stacklevel=2,
            )
            return
        self._dataset.restore(state["sampling"])
        for variable, value in zip(seed_variables(self.model), state["layers"], strict=True):
            variable.assign(value)
        if state["framework"]:
            backends.active().restore_random_state(state["framework"])

    def _read(self, path: str) -> State:
        try:
            state: State = read_state(path)
        except Exception as error:
            raise ValueError(
                f"The state of the draws must be readable. Received: {path}: {error}. {_CURE}"
            ) from error
        if state.get("version") != VERSION:
            raise ValueError(
                f"The backup must be of version {VERSION}. Received: "
                f"{path} of version {state.get('version')!r}, written by another release "
                "of keras_swift. Continue with that release, or delete the folder and "
                "begin again."
            )
        return state


def _iterations(model: keras.Model) -> int:
    """How many steps the optimizer has made, which Keras keeps with the weights."""
    if model.optimizer is None:
        return 0
    return int(keras.ops.convert_to_numpy(rate_and_iterations(model.optimizer)[1]))


def layer_seeds(model: keras.Model) -> list[Array]:
    """The random states of a model's layers, a list of arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(state)) for state in seed_variables(model)]


def resuming(
    callbacks: list[keras.callbacks.Callback], dataset: Resumable
) -> tuple[list[keras.callbacks.Callback], list[keras.callbacks.Callback]]:
    """Callbacks that save and restore a dataset's state beside the user's backups.

    Args:
        callbacks: list of the user's.
        dataset: has `state()` and `restore(state)`.

    Returns:
        Two lists of callbacks, to place before the user's and after them;
        both empty without a `BackupAndRestore` of Keras with a local folder.
    """
    directories = _directories(callbacks)
    if not directories:
        return [], []
    for directory in directories:
        _check(directory)
    return [SaveSampling(dataset, directories)], [RestoreSampling(dataset, directories)]


def _check(directory: str) -> None:
    """Raises for a folder from which Keras would silently begin again, or fail without advice."""
    weights, position = (os.path.join(directory, name) for name in OF_KERAS)
    if is_backup(directory):
        raise ValueError(
            "`keras.callbacks.BackupAndRestore` must have a folder of its own. Received: "
            f"{directory!r} with a backup of `keras_swift.BackupAndRestore`. Go on with that, or "
            "delete the folder and begin again."
        )
    there = [path for path in (weights, position) if os.path.exists(path)]
    if len(there) == 1:
        raise ValueError(
            f"A backup of Keras must have weights and a position. Received: {there[0]} alone: the "
            f"run was killed between two files, or while they were deleted. {_CURE}"
        )
    if there and not os.path.exists(f"{weights}.bkp"):
        import h5py

        for path, read in ((weights, lambda path: h5py.File(path).close()), (position, _json)):
            try:
                read(path)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"A backup must be readable. Received: {path}: {error}: the run was killed "
                    f"while Keras wrote the file in place. {_CURE}"
                ) from error


def _json(path: str) -> Any:
    with open(path) as file:
        return json.load(file)


def _directories(callbacks: list[keras.callbacks.Callback]) -> list[str]:
    """The local folders of Keras' own `BackupAndRestore` callbacks among these."""
    found = []
    for callback in callbacks:
        of_keras = isinstance(callback, keras.callbacks.BackupAndRestore)
        if not of_keras or isinstance(callback, BackupAndRestore):
            continue
        directory = os.fspath(callback.backup_dir)
        if "://" in directory:
            warnings.warn(
                f"`BackupAndRestore({directory!r})` backs up weights and optimizer there, but the "
                "state of the draws is only kept in local folders: a resumed run draws afresh. "
                + read_on("guides/resuming.md#a-training-run"),
                stacklevel=5,
            )
        else:
            found.append(directory)
    return found


def _name(epoch: int | str) -> str:
    """The file name of an epoch; with several processes each has its own."""
    process, count = backends.active().process()
    return _NAME.format(epoch if count == 1 else f"{process}of{count}_{epoch}")


def _epoch_of(name: str) -> int:
    return int(name.rsplit("_", 1)[1].removesuffix(".npz"))
