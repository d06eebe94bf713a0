"""The file of a backup: Keras' weights file, with our state in it and a checksum at its end.

One file, so that weights, optimizer, position, draws and random states always belong together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import hashlib
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._types import State
from keras_swift.src.fitting.atomic import opened_exclusively, permissions, sync_folder
from keras_swift.src.fitting.states import from_bytes, to_bytes

# The version of the content: files of another one are refused.
VERSION = 5
# `Model.save_weights` accepts no other ending for a single file.
ENDING = ".weights.h5"
CURRENT = f"backup{ENDING}"
PREVIOUS = f"backup-before{ENDING}"
# What Keras' own callback writes.
OF_KERAS = ("latest.weights.h5", "training_metadata.json")
_MARK = b"keras_swift-backup-sha256:"
_KEY = "keras_swift_state"
_PART = ".part"


class DamagedBackup(OSError):
    """A backup that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """A backup that was read.

    Attributes:
        path: str, its file, which `Model.load_weights` reads too.
        state: what `BackupFolder.write` got.
    """

    path: str
    state: State


class BackupFolder:
    """Writes and reads the backups of a run.

    Args:
        path: str, the folder.
        keeps_two: bool, whether the backup before the last one is kept too.
    """

    def __init__(self, path: str, keeps_two: bool) -> None:
        self.path = path
        self._keeps_two = keeps_two
        # Whether the current backup may replace the previous one: a damaged one must not.
        self._is_good = True
        self._current, self._previous = (os.path.join(path, name) for name in (CURRENT, PREVIOUS))

    def write(self, model: keras.Model, state: State) -> None:
        """Writes a backup, and only then makes it the current one, by one rename.

        Raises:
            OSError: naming the file, with the cure, if it cannot be written; the backup before it
                is kept.
        """
        with self._explaining("write the backup"):
            os.makedirs(self.path, exist_ok=True)
            temporary = os.path.join(self.path, f"{secrets.token_hex(8)}{_PART}{ENDING}")
            kept, content = permissions(self._current), to_bytes(state)
            try:
                # Keras writes into an existing file, which keeps its permissions.
                with os.fdopen(opened_exclusively(temporary, kept), "wb") as file:
                    self._check_room(file.fileno(), model, len(content))
                model.save_weights(temporary)
                _complete(temporary, content)
                if kept is not None:
                    os.chmod(temporary, kept)
                if self._keeps_two and self._is_good and os.path.exists(self._current):
                    self._keep()
                os.replace(temporary, self._current)
                self._is_good = True
                sync_folder(self._current)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def read(self) -> Unit | None:
        """The current backup; if it is missing or damaged, the one before; `None` without either.

        Raises:
            DamagedBackup: if there is no readable one, naming the file, with the cure.
            ValueError: for a backup of another version.
        """
        try:
            return _read(self._current)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.exists(self._previous):
                return None
            reason = f"{self._current} is missing."
        except DamagedBackup as error:
            if not os.path.exists(self._previous):
                raise
            reason = str(error)
        found, self._is_good = _read(self._previous), False
        warnings.warn(
            f"{reason} The run goes on from the backup before it, {self._previous}.", stacklevel=2
        )
        return found

    def prepare(self) -> None:
        """Raises now if no backup could be written later; removes a killed run's temporary files.

        Raises:
            OSError: naming the folder, with the cure.
        """
        with self._explaining("write a backup"):
            os.makedirs(self.path, exist_ok=True)
            for left in glob.glob(os.path.join(glob.escape(self.path), f"*{_PART}{ENDING}")):
                os.unlink(left)
            probe = os.path.join(self.path, f"{secrets.token_hex(8)}{_PART}{ENDING}")
            with open(probe, "xb"):
                pass
            os.unlink(probe)

    def holds_keras_own(self) -> bool:
        """Whether there is a backup of Keras' own callback."""
        return any(os.path.exists(os.path.join(self.path, name)) for name in OF_KERAS)

    def delete(self) -> None:
        """Deletes the backups, and the folder if nothing else is in it.

        A kill meanwhile leaves a whole backup or none.

        Raises:
            OSError: naming the folder, with the cure.
        """
        with self._explaining("delete the backup"):
            # The current one goes last, by a single call.
            for path in (self._previous, self._current):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            for left in glob.glob(os.path.join(glob.escape(self.path), f"*{_PART}{ENDING}")):
                os.unlink(left)
            # Other files in the folder are not ours.
            with contextlib.suppress(OSError):
                os.rmdir(self.path)

    def _check_room(self, descriptor: int, model: keras.Model, count: int) -> None:
        """Raises if there is no room for weights and `count` bytes in an empty file.

        Without this check HDF5 may abort the process in a later write when the disk is full.
        """
        if not hasattr(os, "posix_fallocate"):
            return
        optimizer = getattr(model, "optimizer", None)
        count += sum(map(_bytes_of, [*model.variables, *getattr(optimizer, "variables", [])]))
        with contextlib.suppress(FileNotFoundError):
            # The size of the last backup includes what HDF5 needs for itself.
            count = max(count, os.path.getsize(self._current))
        try:
            os.posix_fallocate(descriptor, 0, count)
        except OSError as error:
            # Some file systems cannot reserve room.
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise

    def _keep(self) -> None:
        """Makes the current backup the previous one too; at no moment is either name missing."""
        beside = os.path.join(self.path, f"{secrets.token_hex(8)}{_PART}{ENDING}")
        try:
            os.link(self._current, beside)
        except OSError:
            # Not every file system has links.
            shutil.copy(self._current, beside)
        os.replace(beside, self._previous)

    @contextlib.contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            # h5py raises a `RuntimeError` if it cannot close a file because the disk is full.
            raise OSError(
                f"`BackupAndRestore` cannot {what} {self._current}. Received: {error}. Make room, "
                "or make the folder writable, and start the same script again: the backup before, "
                "if there is one, is as it was."
            ) from error


def is_backup(path: str) -> bool:
    """Whether the folder has a backup of ours, readable or not."""
    return any(os.path.exists(os.path.join(path, name)) for name in (CURRENT, PREVIOUS))


def _bytes_of(variable: keras.Variable) -> int:
    bits = re.search(r"\d+", variable.dtype)
    count: int = math.prod(variable.shape) * (int(bits[0]) // 8 if bits else 1)
    return count


def _complete(path: str, content: bytes) -> None:
    """Adds the state and the checksum to a weights file, and flushes it to disk."""
    import h5py

    with h5py.File(path, "a") as file:
        file.create_dataset(_KEY, data=np.frombuffer(content, np.uint8))
    with open(path, "r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        # HDF5 ignores what follows its own end.
        file.write(_MARK + digest)
        file.flush()
        os.fsync(file.fileno())


def _read(path: str) -> Unit:
    try:
        if not _is_whole(path):
            raise DamagedBackup(
                "its checksum is not that of its content: it was cut off or changed"
            )
        state = _state_of(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise DamagedBackup(
            f"The backup must be readable. Received: {path}: {error}. Delete the file to train "
            "from the beginning, or put back a copy of it; `double_checkpoint=True` keeps the "
            "backup before as well. " + read_on("guides/resuming.md#a-training-run")
        ) from error
    if state.get("version") != VERSION:
        raise ValueError(
            f"The backup must be of version {VERSION}. Received: {path} of version "
            f"{state.get('version')!r}, written by another release of keras_swift. Continue with "
            "that release, or delete the file and begin again."
        )
    return Unit(path, state)


def _is_whole(path: str) -> bool:
    """Whether a file ends with the checksum of its content."""
    end = len(_MARK) + hashlib.sha256().digest_size
    left = os.path.getsize(path) - end
    if left < 0:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0:
            part = file.read(min(left, 2**20))
            digest.update(part)
            left -= len(part)
        return file.read() == _MARK + digest.digest()


def _state_of(path: str) -> State:
    import h5py

    with h5py.File(path, "r") as file:
        state: Any = from_bytes(bytes(file[_KEY][:]))
    return dict(state)
