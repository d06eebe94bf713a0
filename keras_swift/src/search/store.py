"""The files of a search: their names, and how each of them shows that it is whole.

This file decides what a search keeps on disk, when a file counts as readable, and which process
may write. Every file ends with a seal: a line of JSON with the version of the format, the search
and the name that the file belongs to, and a checksum of all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import numpy as np

from keras_swift.src._types import Array, FloatArray
from keras_swift.src.fitting.atomic import create_atomically, write_atomically
from keras_swift.src.search.processes import locked

T = TypeVar("T")

# The version of a search's files: a search of another version must begin again.
VERSION = 3
START = "start.npz"
TRIAL = "trial_{}/trial.json"
# The objective's value on each validation example, in a trial.
VALUES = "values_{}.npy"
# A trial trained from scratch.
CONFIRMED = "confirmed_{}.npz"
LOCK = "search.lock"
# More bytes than a seal has.
_SEAL_BYTES = 1024


class UnreadableFile(ValueError):
    """A file of a search that is missing, damaged or not of this search.

    Args:
        path: str.
        reason: str, what is wrong with it, to follow the path in a sentence.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}.")


class Store:
    """The folder of a search.

    Args:
        folder: str; made when the first file is written.
        search: str, identifies the search whose trials are in the folder. Defaults to `""`, for its
            start.
    """

    def __init__(self, folder: str, search: str = "") -> None:
        self.folder = folder
        self._search = search

    def of_search(self, search: str) -> Store:
        """The same folder, for the files of trials that belong to this search."""
        return Store(self.folder, search)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, *name.split("/"))

    def has(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    def write(self, name: str, write: Callable[[BinaryIO], Any], *, once: bool = False) -> None:
        """Writes a file whole or not at all, and seals it.

        Args:
            name: str, one of the names that this module defines.
            write: function that writes the contents to a binary file.
            once: bool, whether to keep a file that is there: of several processes, the first one
                wins. Defaults to `False`.

        Raises:
            OSError: naming the file, with what to do.
        """
        path = self.path(name)

        def sealed(file: BinaryIO) -> None:
            hashing = _Hashing(file)
            # NumPy and `zipfile` only append to the file, so `_Hashing` is enough.
            write(hashing)  # type: ignore[arg-type]
            file.write(self._seal(name, hashing.digest))

        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            (create_atomically if once else write_atomically)(path, sealed)
        except OSError as error:
            # Of these three arguments Python makes the subclass that belongs to the number.
            raise OSError(
                error.errno,
                f"The search cannot write its file ({error.strerror or error}). Free disk space, "
                "make the folder writable or copy it to one that is, and repeat the call: what is "
                "finished is kept",
                path,
            ) from error

    def read(self, name: str, parse: Callable[[BinaryIO], T]) -> T:
        """What `parse` makes of a file that is whole and of this search.

        Raises:
            UnreadableFile: if it is missing, damaged or of another search.
        """
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                self._check(name, file)
                file.seek(0)
                return parse(file)
        except FileNotFoundError as error:
            raise UnreadableFile(path, "is missing") from error
        except OSError as error:
            raise UnreadableFile(path, f"cannot be read ({error.strerror or error})") from error

    def _seal(self, name: str, digest: hashlib.blake2b) -> bytes:
        seal = {"keras_swift": VERSION, "search": self._search, "file": name}
        digest = digest.copy()
        digest.update(json.dumps(seal).encode())
        return b"\n" + json.dumps({**seal, "blake2b": digest.hexdigest()}).encode() + b"\n"

    def _check(self, name: str, file: BinaryIO) -> None:
        """Raises unless the file ends with the seal of its contents."""
        path = self.path(name)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES))
        found = file.read()
        try:
            seal = found[found.rstrip(b"\n").rindex(b"\n") :]
            read = json.loads(seal)
            version, search, of_file = (read[key] for key in ("keras_swift", "search", "file"))
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableFile(
                path, "has no checksum: it is cut off, changed or by another release"
            ) from error
        if version != VERSION:
            raise UnreadableFile(path, f"is of version {version!r}, this release reads {VERSION}")
        if (search, of_file) != (self._search, name):
            raise UnreadableFile(path, "belongs to another search or trial")
        digest, left = hashlib.blake2b(digest_size=16), size - len(seal)
        file.seek(0)
        while left > 0:
            part = file.read(min(left, 1 << 22))
            digest.update(part)
            left -= len(part)
        if self._seal(name, digest) != seal:
            raise UnreadableFile(path, "is damaged: its checksum differs from its contents")

    def trial_numbers(self) -> list[int]:
        """The numbers of the trials that have a file, whole or not."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                match = re.fullmatch(r"trial_(\d+)", name)
                if match and self.has(TRIAL.format(match[1])):
                    found.append(int(match[1]))
        return sorted(found)

    def write_trial(self, number: int, state: dict[str, Any]) -> None:
        """Writes a trial as KerasTuner describes it."""
        text = json.dumps(state)
        self.write(TRIAL.format(number), lambda file: file.write(text.encode()))

    def read_trial(self, number: int) -> dict[str, Any]:
        """A trial as KerasTuner describes it."""
        state: dict[str, Any] = self.read(
            TRIAL.format(number), lambda file: json.loads(file.readline())
        )
        return state

    def write_values(self, number: int, values: FloatArray | None) -> None:
        """Writes a trial's values; `None` if its objective has none."""
        content = np.empty(0) if values is None else values
        self.write(VALUES.format(number), lambda file: np.save(file, content))

    def read_values(self, number: int) -> FloatArray | None:
        """What `write_values` wrote."""
        values: FloatArray = self.read(VALUES.format(number), np.load)
        return values if len(values) else None

    def write_arrays(
        self, name: str, header: dict[str, Any], columns: dict[str, Any], *, once: bool = False
    ) -> None:
        """Writes plain JSON values and named arrays; see `write`."""
        text = np.array(json.dumps(header))
        self.write(name, lambda file: np.savez(file, header=text, **columns), once=once)

    def read_arrays(self, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
        """What `write_arrays` wrote."""

        def parse(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
            with np.load(file) as loaded:
                columns = {key: loaded[key] for key in loaded.files}
            return json.loads(str(columns.pop("header"))), columns

        return self.read(name, parse)

    def clear(self) -> None:
        """Deletes the search."""
        # The start goes first: files that a kill leaves then belong to no search.
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path(START))
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            path = os.path.join(self.folder, name)
            if name != LOCK:
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A context that one process at a time enters; the others wait, and say so."""

        def told() -> None:
            warnings.warn(
                f"Another process searches in {self.folder}. This one waits until that one ends, "
                "and then takes up its result.",
                stacklevel=2,
            )

        path = self.path(LOCK)
        try:
            os.makedirs(self.folder, exist_ok=True)
            file = open(path, "ab")
        except OSError as error:
            raise OSError(
                error.errno,
                f"The search is not finished and cannot write in its folder ({error.strerror}). "
                "Make the folder writable, or copy it to one that is",
                path,
            ) from error
        with file, locked(file, told):
            yield


class _Hashing:
    """A file to write on that hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def read(self, size: int = -1) -> bytes:
        """Never called: NumPy takes an object for a file only if it has a `read`."""
        raise OSError("This file is written.")
