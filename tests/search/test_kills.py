"""Searches killed at random moments and at writes, and every file damaged in every way.

    pytest -m product -n0 -s tests/search/test_kills.py

prints the figures of docs/guides/resuming.md; `tests/killed_runs.py` says how to count in pieces.
"""

import contextlib
import json
import os
import shutil
import warnings

import keras
import numpy as np
import pytest
from killed_runs import KILLS, Runs, count_kills
from search_process import describe, run_search

from keras_swift.src.search.store import CONFIRMED, START, TRIAL, VALUES

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
    version = whole.replace(b'"keras_swift": 3', b'"keras_swift": 2')
    return [
        ("gone", None),
        ("empty", b""),
        ("half", whole[: len(whole) // 2]),
        *flips,
        ("of another search", other),
        ("of another version", version),
    ]


def test_damaged_files_are_named_or_made_again(tmp_path):
    settings = {"max_trials": TRIALS}
    unbroken = describe(run_search(tmp_path / "whole", **settings))
    run_search(tmp_path / "other", **settings, seed=1)
    whole, others = tmp_path / "whole" / "swift_search", tmp_path / "other" / "swift_search"
    files = [*FILES, *(path.name for path in whole.glob(CONFIRMED.format("*")))]
    counts = {"same result": 0, "error that names the file": 0}
    for name in files:
        path = others / name if (others / name).exists() else others / VALUES.format(0)
        for kind, content in damages((whole / name).read_bytes(), path.read_bytes()):
            copied = tmp_path / "copied"
            shutil.copytree(tmp_path / "whole", copied)
            target = copied / "swift_search" / name
            target.unlink() if content is None else target.write_bytes(content)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    assert describe(run_search(copied, **settings)) == unbroken, (name, kind)
                    counts["same result"] += 1
                except ValueError as error:
                    named = name in str(error) or "belongs to another one" in str(error)
                    assert named and "overwrite=True" in str(error), (name, kind, error)
                    counts["error that names the file"] += 1
            if content is not None and name != START:
                assert any(name in str(warning.message) for warning in said), (name, kind)
            shutil.rmtree(copied)
    print(f"\n{sum(counts.values())} damaged files: {counts}")
    assert os.path.exists(whole / START)
