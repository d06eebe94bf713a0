"""Writes files so that a kill leaves the old or the new one, never a truncated one.

A file is written under a random name beside its own, and renamed. The name is opened exclusively,
so two threads never share one, and a link that somebody has put there is not followed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO


def write_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file, replacing an existing one, whose permissions it gets.

    Args:
        path: str, the file; its folder exists. A link there is replaced, not followed.
        write: function that writes the content to a binary file.

    Raises:
        OSError: naming `path`, if it cannot be written; nothing is left behind.
    """
    with written(path, write) as temporary:
        os.replace(temporary, path)
        sync_folder(path)


def create_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file unless it exists: of several processes, the first one wins.

    Args:
        path: str, the file; its folder exists.
        write: function that writes the content to a binary file.

    Raises:
        OSError: naming `path`, if it cannot be written; nothing is left behind.
    """
    with written(path, write) as temporary, contextlib.suppress(FileExistsError):
        # A link, unlike a rename, fails if the file exists.
        os.link(temporary, path)
        sync_folder(path)


@contextlib.contextmanager
def written(path: str, write: Callable[[BinaryIO], Any]) -> Iterator[str]:
    """A context with the name of a new file beside `path`, complete and flushed to disk.

    At the end of the context the file is deleted, if it is still there.

    Args:
        path: str, the file that the new one is to become.
        write: function that writes the content to a binary file.
    """
    folder, name = os.path.split(path)
    # File systems allow names of 255 bytes.
    temporary = os.path.join(folder, f"{name[:50]}.{secrets.token_hex(8)}.part")
    kept = permissions(path)
    try:
        descriptor = opened_exclusively(temporary, kept)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if kept is not None:
                os.chmod(temporary, kept)
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        if error.filename not in (temporary, None):
            raise
        # The temporary name would mean nothing to the user.
        raise OSError(error.errno, error.strerror, path) from error


def sync_folder(path: str) -> None:
    """Flushes to disk that `path` is now the name of another file."""
    if os.name == "nt":
        # Windows cannot open a folder.
        return
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened_exclusively(path: str, kept: int | None) -> int:
    """The descriptor of a new file, open for writing.

    Args:
        path: str, a name that does not exist yet, not even as a link.
        kept: int, the permissions of the file it is to replace; `None` if there is none.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    # What replaces a private file is private from its first byte on.
    return os.open(path, flags, 0o666 if kept is None else 0o600)


def permissions(path: str) -> int | None:
    """The permissions of a file, or `None` if there is none, or a link."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None
