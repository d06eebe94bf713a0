"""Searches killed at random moments and at writes, and every file damaged in every way.

    pytest -m product -n0 -s tests/search/test_kills.py

prints the figures of docs/guides/resuming.md; `tests/killed_runs.py` says how to count in pieces.
"""

import collections
import contextlib
import errno
import functools
import itertools
import json
import os
import shutil
import warnings

import keras
import numpy as np
import pytest
from killed_runs import KILLS, Runs, count_kills
from search_process import describe, run_search

from keras_swift.src.search.store import CONFIRMED, START, TRIAL, VALUES, VERSION

BACKEND = keras.backend.backend()
TRIALS = 3
FILES = [
    START,
    *(name.format(number) for name in (TRIAL, VALUES) for number in range(TRIALS)),
]
# The start is linked; then trials, twice each, and values are written, at last what confirms.
WRITES = [
    ["link", 1, "before"],
    ["link", 1, "after"],
    *[
        [name, number, moment]
        for number in (2, 4, 6, 9)
        for name in ("flush", "rename")
        for moment in ("before", "after")
    ],
]
pytestmark = pytest.mark.product


def load(path):
    return json.loads(path.read_text())


def same(found, whole):
    assert found == whole


@pytest.mark.parametrize("count", [1, 2])
def test_forty_kills_of_searches_leave_the_same_result(tmp_path, capsys, count):
    """With two processes in one folder, one is killed while the other waits for it."""
    settings = {"max_trials": TRIALS}
    with contextlib.closing(Runs(tmp_path, load)) as runs:
        counted = count_kills(runs, tmp_path, "search", [settings], WRITES, same, beside=count == 2)
        with capsys.disabled():
            print(f"\n{BACKEND}, kills of searches, processes {count}: {dict(counted)}")
    assert counted["same"] == counted["kills"] == KILLS


def damages(whole, other):
    """What may become of a file: its name, and its content, `None` if it is gone."""
    generator = np.random.default_rng(len(whole))
    flips = []
    for place in generator.integers(len(whole), size=3):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        flips.append(("a flipped bit", bytes(changed)))
    version = whole.replace(b'"keras_swift": %d' % VERSION, b'"keras_swift": 0')
    return [
        ("gone", None),
        ("empty", b""),
        ("half", whole[: len(whole) // 2]),
        *flips,
        ("of another search", other),
        ("of another version", version),
    ]


def judged(found, unbroken, name, *, begins=False):
    """How a start from damaged files ends: the same result, or an error that names the file."""
    try:
        assert describe(found()) == unbroken
    except ValueError as error:
        named = name in str(error) or begins and "belongs to another one" in str(error)
        assert named and "overwrite=True" in str(error), error
        return "error that names the file"
    except OSError as error:
        assert name in str(error.filename) and "folder writable" in str(error), error
        return "error that names the file"
    return "same result"


def test_damaged_files_are_named_or_made_again(tmp_path, capsys):
    settings = {"max_trials": TRIALS}
    unbroken = describe(run_search(tmp_path / "whole", **settings))
    run_search(tmp_path / "other", **settings, seed=1)
    whole, others = tmp_path / "whole" / "swift_search", tmp_path / "other" / "swift_search"
    files = [*FILES, *(path.name for path in whole.glob(CONFIRMED.format("*")))]
    counts = collections.Counter()
    for name in files:
        path = others / name if (others / name).exists() else others / VALUES.format(0)
        for kind, content in damages((whole / name).read_bytes(), path.read_bytes()):
            copied = tmp_path / "copied"
            shutil.copytree(tmp_path / "whole", copied)
            target = copied / "swift_search" / name
            target.unlink() if content is None else target.write_bytes(content)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = functools.partial(run_search, copied, **settings)
                counts[judged(found, unbroken, name, begins=name == START)] += 1
            if content is not None and name != START:
                assert any(name in str(warning.message) for warning in said), (name, kind)
            shutil.rmtree(copied)
    with capsys.disabled():
        print(f"\n{BACKEND}, {sum(counts.values())} damaged files of a search: {dict(counts)}")
    # Without a start a search begins again; one that is not whole may be of another search.
    assert counts == {"error that names the file": 7, "same result": 8 * len(files) - 7}


def refuse(patched, code, writes):
    """Every write after so many is refused, as on a full disk or a read-only one."""
    own, count = os.open, []

    def opened(path, flags, *rest, **named):
        if flags & os.O_CREAT:
            count.append(path)
            if len(count) > writes:
                raise OSError(code, os.strerror(code), path)
        return own(path, flags, *rest, **named)

    patched.setattr(os, "open", opened)
    return count


def test_disks_that_refuse_a_write_are_named_and_lose_nothing(tmp_path, capsys, monkeypatch):
    settings, counts = {"max_trials": TRIALS}, collections.Counter()
    unbroken = describe(run_search(tmp_path / "whole", **settings))
    for code in (errno.ENOSPC, errno.EROFS):
        for writes in itertools.count():
            folder = tmp_path / f"{code} {writes}"
            with monkeypatch.context() as patched:
                count = refuse(patched, code, writes)
                found = functools.partial(run_search, folder, **settings)
                counts[judged(found, unbroken, str(folder))] += 1
            # Until no write is refused; what is finished is kept when there is room again.
            assert describe(run_search(folder, **settings)) == unbroken
            if len(count) <= writes:
                break
    with capsys.disabled():
        print(f"\n{BACKEND}, {sum(counts.values())} starts on a disk that refuses: {dict(counts)}")
    # One of each kind of disk refused nothing.
    assert counts["same result"] == 2 and counts["error that names the file"] > 16
