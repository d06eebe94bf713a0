"""Forty kills of trainings, and every damage to a backup's files; prints what it counted.

pytest -m product -n0 -s tests/test_kills.py

`tests/killed_runs.py` says how to count in pieces.
"""

import collections
import contextlib
import errno
import os
import shutil
import warnings

import keras
import numpy as np
import pytest
from backup_cases import EndAt, Ended, assert_goes_on, build, ended, fit, train
from killed_runs import KILLS, Runs, count_kills

import keras_swift as ks
from keras_swift.src.fitting import backup, backup_file
from keras_swift.src.fitting.backup_file import CURRENT, PREVIOUS

# Windows has neither this nor forks.
resource = pytest.importorskip("resource")
pytestmark = pytest.mark.product

BACKEND = keras.backend.backend()
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


def load(path):
    """What a training has found: its weights and its history."""
    with np.load(path) as content:
        parts = dict(content)
    history = {k[8:]: parts.pop(k).tolist() for k in list(parts) if k.startswith("history ")}
    return list(parts.values()), history


def same(found, whole):
    assert found is not None
    assert_goes_on(found, whole)


def test_forty_kills_leave_the_same_bits(tmp_path, capsys):
    with contextlib.closing(Runs(tmp_path, load)) as runs:
        counted = count_kills(runs, tmp_path, "training", CASES, WRITES, same)
        with capsys.disabled():
            print(f"\n{BACKEND}, kills of trainings ({len(CASES)} cases): {dict(counted)}")
    assert counted["same"] == counted["kills"] == KILLS


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


@contextlib.contextmanager
def files_of_at_most(size):
    """A context in which the system writes no more bytes into a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("double", [False, True])
def test_every_damage_is_named_or_changes_nothing(tmp_path, capsys, monkeypatch, double):
    settings = {"save_freq": 4, "double_checkpoint": double}
    whole = train(tmp_path / "whole", **settings)
    kept = tmp_path / "kept"
    ended(kept, 1, 8, **settings)
    names = [CURRENT, PREVIOUS] if double else [CURRENT]
    assert sorted(os.listdir(kept)) == sorted(names)
    generator, counted, surprises = np.random.default_rng(0), collections.Counter(), []

    def judge(prepare, expected, start=lambda folder: train(folder, **settings)):
        folder = tmp_path / f"damaged {sum(counted.values())}"
        shutil.copytree(kept, folder)
        path = prepare(folder)
        found = judged(path, whole, lambda: start(folder))
        counted[found] += 1
        if found != expected:
            surprises.append((prepare.__name__, path, found))

    for name in names:
        for _, content in damages((kept / name).read_bytes(), generator):

            def damage(folder, name=name, content=content):
                (folder / name).unlink()
                if content is not None:
                    (folder / name).write_bytes(content)
                return folder / name

            # Without a file it begins again, and with another one it goes on from that.
            judge(damage, "same bits" if double or content is None else "named")
    for others in ({"seed": 5}, {"kind": "fresh"}, {"kind": "plain"}, {"source": "batches"}):

        def other(folder, others=others):
            shutil.rmtree(folder)
            callback = ks.BackupAndRestore(folder, 4, double)
            with contextlib.suppress(Ended):
                run = fit(build(), **others)
                run(epochs=3, verbose=0, callbacks=[callback, EndAt(1, 8)])
            return folder / CURRENT

        judge(other, "named")

    def version(folder):
        # Where it is written; it is read in `backup_file`.
        monkeypatch.setattr(backup, "VERSION", 0)
        shutil.rmtree(folder)
        ended(folder, 1, 8, **settings)
        monkeypatch.undo()
        return folder / CURRENT

    judge(version, "named")
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

        judge(fill, "same bits")
    for share in (0.0, 0.3, 0.6, 0.9):
        size = int(share * os.path.getsize(kept / CURRENT))

        def cut_off(folder, size=size):
            with files_of_at_most(size), pytest.raises(OSError, match="Make room"):
                train(folder, **settings)
            return folder / CURRENT

        judge(cut_off, "same bits")

    def refused(path, mode):
        if mode == "rb":
            return open(path, mode)
        raise OSError(errno.EROFS, "Read-only file system", path)

    def start_read_only(folder):
        with monkeypatch.context() as patched:
            patched.setattr(backup_file, "open", refused, raising=False)
            return train(folder, **settings)

    judge(lambda folder: folder / CURRENT, "named", start_read_only)
    with capsys.disabled():
        print(f"\n{BACKEND}, damaged files (seed 0), two kept: {double}: {dict(counted)}")
    assert not surprises
