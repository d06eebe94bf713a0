"""Files that a kill leaves either old or new, never cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO


def write_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file in place of the one that is there, if any.

    Args:
        path: str, the file; its folder exists.
        write: function that writes the content to a binary file.
    """
    temporary = _written(path, write)
    os.replace(temporary, path)


def create_atomically(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file unless there is one: of several processes, the first counts.

    Args:
        path: str, the file; its folder exists.
        write: function that writes the content to a binary file.
    """
    temporary = _written(path, write)
    try:
        # A link, unlike a renaming, fails where the file exists.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def write_json(path: str, content: Any) -> None:
    """Writes plain values as JSON, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(json.dumps(content).encode()))


def _written(path: str, write: Callable[[BinaryIO], Any]) -> str:
    """The name of a file beside `path` that holds the content, on the disk."""
    temporary = f"{path}.{os.getpid()}.part"
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    return temporary
