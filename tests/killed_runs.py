"""Starts trainings and searches in processes of their own, and kills them.

The number of kills is 40. `KILLS=10` makes it 10, and `KILLS_FROM=12` begins with the kill of that
number, so that forty can be counted in pieces: each test prints the number to go on from.
"""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).with_name("kills_process.py")
KILLS = int(os.environ.get("KILLS", "40"))
FROM = int(os.environ.get("KILLS_FROM", "0"))


@dataclasses.dataclass(frozen=True)
class Happened:
    """How a start ended.

    Attributes:
        killed: bool.
        seconds: float, until it was killed or ended.
        to_file: float, seconds until there was a file to go on from, if that was waited for.
        resumable: bool, whether it left one.
        found: what the run resulted in, or `None` if it did not end.
        beside: the same of the run that was started beside it.
    """

    killed: bool
    seconds: float
    to_file: float
    resumable: bool
    found: object
    beside: object = None


class Runs:
    """Runs in processes that are forked from one that has imported all.

    Args:
        folder: path, for what they find.
        load: function from the path of what a run has found to it.
    """

    def __init__(self, folder, load):
        self._folder, self._load, self._count, self._whole = folder, load, 0, {}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, folder, what, settings, *, beside=False, **kill):
        """One start, killed or not, and one of the same beside it."""
        self._count += 1
        outputs = [self._folder / f"{self._count} {name}" for name in ("found", "beside")]
        request = {"what": what, "folder": str(folder), "output": str(outputs[0])}
        request |= {"settings": settings, "beside": str(outputs[1]) if beside else None, **kill}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        happened = json.loads(self._process.stdout.readline())
        assert not happened["failed"], f"{request} failed, see above"
        found = [self._load(path) if path.exists() else None for path in outputs]
        del happened["failed"]
        return Happened(**happened, found=found[0], beside=found[1])

    def unbroken(self, what, settings):
        """The start of a run that is not killed, made once."""
        key = what, json.dumps(settings)
        if key not in self._whole:
            self._whole[key] = self.start(self._folder / f"whole {self._count}", what, settings)
            assert self._whole[key].found is not None
        return self._whole[key]

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(300) == 0
        self._process.stdout.close()


def count_kills(runs, folder, what, cases, writes, same, *, beside=False):
    """Kills runs, starts each of them again and counts those that end as if never killed.

    Of three, one is killed at any moment, one after its first file, which a run that compiles for
    long reaches late, and one at a chosen write.

    Args:
        runs: `Runs`.
        folder: path, for the folders of the runs.
        what, beside: as for `Runs.start`.
        cases: list of settings, which take turns.
        writes: list of `[name, number, moment]`, which take turns.
        same: function of what a run found and what an unbroken one did, that asserts.

    Returns:
        A `collections.Counter`, whose key `"same"` counts the runs that ended alike.
    """
    counted, number = collections.Counter(), FROM
    while counted["kills"] < KILLS:
        settings, generator = cases[number % len(cases)], np.random.default_rng([0, number])
        whole = runs.unbroken(what, settings)
        share = generator.uniform(0.05, 0.95)
        kill = [
            {"after": whole.seconds * share, "since": "begin"},
            {"after": (whole.seconds - whole.to_file) * share, "since": "file"},
            {"call": writes[number // 3 % len(writes)]},
        ][number % 3]
        here = folder / f"killed {number}"
        number += 1
        happened = runs.start(here, what, settings, beside=beside, **kill)
        if not happened.killed:
            # It was quicker than the one before, or never called the function.
            continue
        counted["kills"] += 1
        counted["at a write" if "call" in kill else "at a random moment"] += 1
        counted["with a file to go on from"] += happened.resumable
        again = runs.start(here, what, settings)
        try:
            same(again.found, whole.found)
            if beside:
                same(happened.beside, whole.found)
            counted["same"] += 1
        except AssertionError as error:
            counted[f"other: {settings}, {kill}, {str(error)[:200]}"] += 1
    counted["next number"] = number
    return counted
