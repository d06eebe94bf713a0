"""Processes that share a search: their roles, and a lock that they take in turn.

Roles are those of KerasTuner's environment variables. The operating system releases the lock when
its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _unlock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

    _TAKEN: tuple[type[OSError], ...] = (PermissionError,)
else:
    import fcntl

    def _try_lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

    _TAKEN = (BlockingIOError,)

# Seconds between two attempts.
INTERVAL = 0.2


def is_distributed() -> bool:
    return "KERASTUNER_ORACLE_IP" in os.environ


def is_chief() -> bool:
    return "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") and is_distributed()


def is_worker() -> bool:
    return is_distributed() and not is_chief()


@contextlib.contextmanager
def locked(file: BinaryIO, wait_begins: Callable[[], None]) -> Iterator[None]:
    """A context that holds the lock of an open file; waits while another process has it.

    Where the file system has no locks, the context is entered without one.

    Args:
        file: open for writing.
        wait_begins: called once if the lock is taken.
    """
    told = held = False
    while not held:
        try:
            _try_lock(file)
            held = True
        except _TAKEN:
            if not told:
                wait_begins()
            told = True
            # Waits here and not in a blocking system call, so that Ctrl-C works everywhere.
            time.sleep(INTERVAL)
        except OSError:
            # Some network file systems have no locks.
            break
    try:
        yield
    finally:
        if held:
            _unlock(file)
