"""Makes a run that Keras' `BackupAndRestore` resumes draw as if it had never stopped.

Keras saves weights and optimizer; this file saves, beside them, the state of the permutations, the
random generators and the gate, and the random states of layers such as dropout, which Keras leaves
out. There is one file for each epoch that a run could resume from.
"""

from __future__ import annotations

import glob
import json
import os
import warnings
from typing import Any, Protocol

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import resumed_epoch, seed_variables
from keras_swift.src._types import Array, Logs, State
from keras_swift.src.fitting.atomic import write_atomically

# The version of the files saved beside a backup.
VERSION = 1
_NAME = "keras_swift_sampling_{}.npz"


class Resumable(Protocol):
    """An object whose state is saved and restored with a run."""

    def state(self) -> State:
        """State for `restore`, between two epochs."""

    def restore(self, state: State) -> None:
        """Restores what `state` returned."""


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
        epoch = resumed_epoch(self.model)
        if not epoch:
            return
        for directory in self._directories:
            if not os.path.exists(os.path.join(directory, "training_metadata.json")):
                continue
            path = os.path.join(directory, _name(epoch))
            if os.path.exists(path):
                state = read_state(path)
                if state.get("version") != VERSION:
                    raise ValueError(
                        f"The backup in {directory!r} must be of version {VERSION}. Received: "
                        f"{path} of version {state.get('version')!r}, written by another release "
                        "of keras_swift. Continue with that release, or delete the folder and "
                        "begin again."
                    )
                if not _alike(state["sampling"], self._dataset.state()):
                    warnings.warn(
                        f"The backup in {directory!r} is of a run with other settings: the draws "
                        "and the gate start afresh. Weights and optimizer are those of the backup.",
                        stacklevel=2,
                    )
                    return
                self._dataset.restore(state["sampling"])
                for variable, value in zip(
                    seed_variables(self.model), state["layers"], strict=True
                ):
                    variable.assign(value)
                if state["framework"]:
                    backends.active().restore_random_state(state["framework"])
                return
            warnings.warn(
                f"The backup in {directory!r} was not written by keras_swift: the draws and the "
                "gate start afresh. Weights and optimizer are those of the backup.",
                stacklevel=2,
            )


def _alike(saved: Any, present: Any) -> bool:
    """Whether two states have the same names, regardless of their values."""
    if not (isinstance(saved, dict) and isinstance(present, dict)):
        return isinstance(saved, dict) == isinstance(present, dict)
    return saved.keys() == present.keys() and all(
        _alike(saved[name], present[name]) for name in saved
    )


def layer_seeds(model: keras.Model) -> list[Array]:
    """The random states of a model's layers, a list of arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(state)) for state in seed_variables(model)]


def resuming(
    callbacks: Any, dataset: Resumable
) -> tuple[list[keras.callbacks.Callback], list[keras.callbacks.Callback]]:
    """Callbacks that save and restore a dataset's state beside the user's backups.

    Args:
        callbacks: the user's: `None`, a callback, a structure of them or a
            `CallbackList`.
        dataset: has `state()` and `restore(state)`.

    Returns:
        Two lists of callbacks, to place before the user's and after them;
        both empty without a `BackupAndRestore`.
    """
    directories = _directories(callbacks)
    if not directories:
        return [], []
    return [SaveSampling(dataset, directories)], [RestoreSampling(dataset, directories)]


def _directories(callbacks: Any) -> list[str]:
    """The local folders of the `BackupAndRestore` callbacks among these."""
    listed = getattr(callbacks, "callbacks", callbacks)
    found = []
    for callback in keras.tree.flatten(listed or []):
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            continue
        directory = os.fspath(callback.backup_dir)
        if "://" in directory:
            warnings.warn(
                f"`BackupAndRestore({directory!r})` backs up weights and optimizer there, but the "
                "state of the draws is only kept in local folders: a resumed run draws afresh.",
                stacklevel=5,
            )
        else:
            found.append(directory)
    return found


def write_state(path: str, state: Any) -> None:
    """Writes nested dicts and lists of numbers, strings and arrays, atomically."""
    arrays: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[f"array_{len(arrays)}"] = value
            return {"__array__": f"array_{len(arrays) - 1}"}
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value.item() if isinstance(value, np.generic) else value

    text = json.dumps(plain(state))
    write_atomically(path, lambda file: np.savez(file, state=np.array(text), **arrays))


def read_state(path: str) -> Any:
    """Reads what `write_state` wrote; tuples become lists."""
    with np.load(path) as file:

        def full(value: Any) -> Any:
            if isinstance(value, dict) and set(value) == {"__array__"}:
                return file[value["__array__"]]
            if isinstance(value, dict):
                return {key: full(part) for key, part in value.items()}
            return [full(part) for part in value] if isinstance(value, list) else value

        return full(json.loads(str(file["state"])))


def _name(epoch: int | str) -> str:
    """The file name of an epoch; with several processes each has its own."""
    process, count = backends.active().process()
    return _NAME.format(epoch if count == 1 else f"{process}of{count}_{epoch}")


def _epoch_of(name: str) -> int:
    return int(name.rsplit("_", 1)[1].removesuffix(".npz"))
