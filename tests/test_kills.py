"""Forty kills of trainings, and every damage to a backup's files; prints what it counted.

pytest -m product -n0 -s tests/test_kills.py
"""

import collections
import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from backup_cases import EndAt, Ended, assert_goes_on, build, ended, fit, train

import keras_swift as ks
from keras_swift.src.fitting import backup_file
from keras_swift.src.fitting.backup_file import CURRENT, PREVIOUS

pytestmark = pytest.mark.product

BACKEND = keras.backend.backend()
SCRIPT = pathlib.Path(__file__).with_name("kills_process.py")
KILLS = 40
# PyTorch runs one step at a time.
EXECUTIONS = (1,) if BACKEND == "torch" else (1, 2)
CASES = [
    {"kind": kind, "source": source, "spe": spe, "save_freq": save_freq}
    for kind, source in (
        ("remembered", "arrays"),
        ("remembered", "batches"),
        ("fresh", "arrays"),
        ("fresh", "batches"),
        ("own record", "arrays"),
        ("swift", "arrays"),
        ("plain", "arrays"),
        ("plain", "batches"),
    )
    for spe in EXECUTIONS
    for save_freq in ("epoch", 3)
]
# The second call of each, where there is a backup before; what is deleted is deleted once.
WRITES = [
    *[
        [name, 2, moment]
        for name in ("weights", "state", "checksum", "flush", "rename")
        for moment in ("before", "after")
    ],
    ["delete", 6, "before"],
    ["delete", 6, "after"],
    ["delete folder", 1, "before"],
    ["delete folder", 1, "after"],
]


class Runs:
    """Trainings in processes of their own."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.whole = {}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, folder, settings, **kill):
        """One start: what happened, and the run's weights and history if it ended."""
        self.count += 1
        output = self.folder / f"{self.count}.npz"
        request = {"folder": str(folder), "output": str(output), "settings": settings, **kill}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        happened = json.loads(self.process.stdout.readline())
        if not output.exists():
            return happened, None
        with np.load(output) as content:
            parts = dict(content)
        history = {k[8:]: parts.pop(k).tolist() for k in list(parts) if k.startswith("history ")}
        return happened, (list(parts.values()), history)

    def unbroken(self, settings):
        """The seconds that a run takes that is not killed, and its result."""
        key = json.dumps(settings)
        if key not in self.whole:
            happened, found = self.start(self.folder / f"whole {self.count}", settings)
            assert found is not None, happened
            self.whole[key] = happened["seconds"], found
        return self.whole[key]


@pytest.fixture
def runs(tmp_path):
    found = Runs(tmp_path)
    yield found
    found.process.stdin.close()
    assert found.process.wait(60) == 0
    found.process.stdout.close()


def test_forty_kills_leave_the_same_bits(runs, tmp_path, capsys):
    generator = np.random.default_rng(0)
    counted, moments = collections.Counter(), collections.Counter()
    number = 0
    while counted["kills"] < KILLS:
        settings = CASES[number % len(CASES)]
        seconds, whole = runs.unbroken(settings)
        folder = tmp_path / f"killed {number}"
        # Every third one at a chosen write, the others at a random moment.
        kill = {"after": seconds * generator.uniform(0.05, 0.95)}
        if number % 3 == 2:
            kill = {"call": WRITES[number // 3 % len(WRITES)]}
        number += 1
        happened, found = runs.start(folder, settings, **kill)
        assert not happened["failed"]
        if not happened["killed"]:
            # It was quicker than the one before, or never called the function.
            continue
        counted["kills"] += 1
        moments["at a write" if "call" in kill else "at a random moment"] += 1
        counted["with a backup"] += (folder / CURRENT).exists()
        happened, found = runs.start(folder, settings)
        try:
            assert found is not None
            assert_goes_on(found, whole)
            counted["same bits"] += 1
        except AssertionError:
            counted[f"other bits: {settings}, {kill}"] += 1
    with capsys.disabled():
        print(f"\n{BACKEND}, kills (seed 0, {len(CASES)} cases): {dict(counted)}, {dict(moments)}")
    assert counted["same bits"] == KILLS


def damages(content, generator):
    """Each damage by name: the content of a file after it, or `None` for no file."""
    yield "emptied", b""
    yield "halved", content[: len(content) // 2]
    yield "cut by a byte", content[:-1]
    yield "longer by a byte", content + b"\0"
    yield "gone", None
    for place in generator.integers(0, len(content), 8).tolist():
        flipped = content[place] ^ (1 << int(generator.integers(8)))
        yield f"bit flipped at {place}", content[:place] + bytes([flipped]) + content[place + 1 :]


def judged(path, whole, start):
    """How a start from damaged files ends: the same result, an error that names, or neither."""
    try:
        with warnings.catch_warnings():
            # That it goes on from the backup before.
            warnings.simplefilter("ignore")
            found = start()
    except (OSError, ValueError) as error:
        cure = any(word in str(error) for word in ("Delete", "delete", "Make room", "other folder"))
        return "named" if str(path) in str(error) and cure else f"unnamed: {error}"
    try:
        assert_goes_on(found, whole)
    except AssertionError:
        return "other bits"
    return "same bits"


@pytest.mark.parametrize("double", [False, True])
def test_every_damage_is_named_or_changes_nothing(tmp_path, capsys, monkeypatch, double):
    settings = {"save_freq": 4, "double_checkpoint": double}
    whole = train(tmp_path / "whole", **settings)
    kept = tmp_path / "kept"
    ended(kept, 1, 8, **settings)
    names = [CURRENT, PREVIOUS] if double else [CURRENT]
    assert sorted(os.listdir(kept)) == sorted(names)
    generator, counted = np.random.default_rng(0), collections.Counter()

    def judge(prepare, start=lambda folder: train(folder, **settings)):
        folder = tmp_path / f"damaged {sum(counted.values())}"
        shutil.copytree(kept, folder)
        path = prepare(folder)
        counted[judged(path, whole, lambda: start(folder))] += 1

    for name in names:
        for _, content in damages((kept / name).read_bytes(), generator):

            def damage(folder, name=name, content=content):
                (folder / name).unlink()
                if content is not None:
                    (folder / name).write_bytes(content)
                return folder / name

            judge(damage)
    for others in ({"seed": 5}, {"kind": "fresh"}, {"kind": "plain"}, {"source": "batches"}):

        def other(folder, others=others):
            shutil.rmtree(folder)
            backup = ks.BackupAndRestore(folder, 4, double)
            with contextlib.suppress(Ended):
                run = fit(build(), **others)
                run(epochs=3, verbose=0, callbacks=[backup, EndAt(1, 8)])
            return folder / CURRENT

        judge(other)

    def version(folder):
        monkeypatch.setattr(backup_file, "VERSION", 0)
        shutil.rmtree(folder)
        ended(folder, 1, 8, **settings)
        monkeypatch.undo()
        return folder / CURRENT

    judge(version)
    for number in range(1, 5):
        own, count = os.fsync, []

        def full(descriptor, number=number, own=own, count=count):
            count.append(0)
            if len(count) >= number:
                raise OSError(errno.ENOSPC, "No space left on device")
            own(descriptor)

        def fill(folder):
            # A start that fails, and one when there is room again.
            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="Make room"):
                train(folder, **settings)
            monkeypatch.undo()
            return folder / CURRENT

        judge(fill)
    with capsys.disabled():
        print(f"\n{BACKEND}, damaged files (seed 0), two kept: {double}: {dict(counted)}")
    assert set(counted) <= {"same bits", "named"}
