"""Writes files so that a kill leaves the old or the new one, never a truncated one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO


def write_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file, replacing an existing one.

    Args:
        path: str, the file; its folder exists.
        write: function that writes the content to a binary file.
    """
    temporary = _written(path, write)
    os.replace(temporary, path)


def create_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file unless it exists: of several processes, the first one wins.

    Args:
        path: str, the file; its folder exists.
        write: function that writes the content to a binary file.
    """
    temporary = _written(path, write)
    try:
        # A link, unlike a rename, fails if the file exists.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def write_json(path: str, content: Any) -> None:
    """Writes plain values as JSON, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(json.dumps(content).encode()))


def _written(path: str, write: Callable[[BinaryIO], Any]) -> str:
    """The name of a file beside `path` with the content, flushed to disk."""
    temporary = f"{path}.{os.getpid()}.part"
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    return temporary
