"""Searches killed at random moments, and every file of a search damaged in every way.

    pytest -m product -n0 -s tests/search/test_kills.py

prints the figures of docs/guides/resuming.md.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from search_process import SCRIPT, describe, environment, run_search

from keras_swift.src.search.store import CONFIRMED, START, TRIAL, VALUES

KILLS = 10
TRIALS = 3
FILES = [
    START,
    *(name.format(number) for name in (TRIAL, VALUES) for number in range(TRIALS)),
]
pytestmark = pytest.mark.product


def start(directory, output):
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, output, "-5"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process, output):
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    return json.loads(output.read_text())


@pytest.mark.parametrize("count", [1, 2])
def test_searches_killed_at_random_moments_end_alike(tmp_path, count):
    """With two processes in one folder, one is killed while the other waits for it."""
    generator = np.random.default_rng(0)
    begin = time.perf_counter()
    unbroken = finished(start(tmp_path / "whole", tmp_path / "w.json"), tmp_path / "w.json")
    duration = time.perf_counter() - begin
    alike = killed = 0
    for number in range(KILLS // 2):
        folder, output = tmp_path / f"{count}_{number}", tmp_path / f"{count}_{number}.json"
        # Most of the time goes into imports, in which nothing can be lost.
        for moment in generator.uniform(0.3 * duration, duration, size=2):
            processes = [start(folder, output) for _ in range(count)]
            time.sleep(moment)
            processes[0].send_signal(signal.SIGKILL)
            killed += processes[0].wait() == -signal.SIGKILL
            for process in processes[1:]:
                assert finished(process, output) == unbroken
            processes[0].communicate()
        alike += finished(start(folder, output), output) == unbroken
    print(f"\nprocesses {count}: {killed} kills, {alike} of {KILLS // 2} searches end alike")
    assert alike == KILLS // 2


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
