"""Runs that are killed, each in a process of its own, forked from one that has imported all.

python kills_process.py, with a JSON object in each line of its input:
    {"what": "training" or "search", "folder": str, "output": str, "settings": dict,
     "after": seconds, "since": "begin" or "file", "call": [name, number, moment], "beside": str}
It starts `backup_cases.train(folder, **settings)` or `search_process.run_search`, kills it so many
seconds after its beginning or its first file, or before or after a call of a function, and answers
in a line. A run that ends writes its weights and history, or its result, to `output`. With
`beside`, a second one runs in the same folder at the same time, is not killed, and writes there.
"""

import functools
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import keras
import numpy as np
from backup_cases import train
from search_process import describe, run_search

from keras_swift.src.fitting.backup_file import CURRENT
from keras_swift.src.search.store import START

# The first file to go on from.
FIRST = {"training": CURRENT, "search": os.path.join("swift_search", START)}
# What a backup and a search are written, made current and deleted with.
CALLS = {
    "weights": (keras.Model, "save_weights"),
    "state": (h5py.Group, "create_dataset"),
    "checksum": (hashlib, "file_digest"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
    "link": (os, "link"),
    "delete": (os, "unlink"),
    "delete folder": (os, "rmdir"),
}


def kill_at(name, number, moment):
    """Kills this process before or after a call, the `number`-th, of a function in `CALLS`."""
    owner, attribute = CALLS[name]
    own, count = getattr(owner, attribute), []

    @functools.wraps(own)
    def called(*arguments, **named):
        count.append(0)
        if len(count) == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = own(*arguments, **named)
        if len(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, called)


def find(request):
    """Trains or searches, and writes what it found."""
    if request["what"] == "search":
        found = describe(run_search(request["folder"], **request["settings"]))
        with open(request["output"], "w") as file:
            json.dump(found, file)
        return
    weights, history = train(request["folder"], **request["settings"])
    history = {name: np.asarray(values) for name, values in history.items()}
    with open(request["output"], "wb") as file:
        np.savez(file, *weights, **{f"history {k}": v for k, v in history.items()})


def forked(request):
    """The number of a process that trains or searches."""
    process = os.fork()
    if not process:
        status = 1
        try:
            if request.get("call"):
                kill_at(*request["call"])
            find(request)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return process


def wait_for_file(process, path):
    """Returns when there is the file, or the process has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not os.path.exists(path) and os.waitid(os.P_PID, process, ended) is None:
        time.sleep(0.001)


def run(request):
    """Starts a run, and another one beside it, and kills the first; what happened."""
    begun = time.monotonic()
    process, other = forked(request), None
    if request.get("beside"):
        other = forked({**request, "call": None, "output": request["beside"]})
    file = os.path.join(request["folder"], FIRST[request["what"]])
    if request.get("since") != "begin":
        wait_for_file(process, file)
    to_file = time.monotonic() - begun
    if request.get("after"):
        time.sleep(request["after"])
        # Until it has been waited for, the number is its own.
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    seconds, resumable = time.monotonic() - begun, os.path.exists(file)
    statuses = [status] if other is None else [status, os.waitpid(other, 0)[1]]
    return {
        "killed": os.WIFSIGNALED(status),
        "failed": any(os.WIFEXITED(one) and os.WEXITSTATUS(one) != 0 for one in statuses),
        "seconds": seconds,
        "to_file": to_file,
        "resumable": resumable,
    }


def warm_up():
    """Imports what PyTorch imports in a first training; others must not be forked after one."""
    if keras.backend.backend() == "torch":
        with tempfile.TemporaryDirectory() as folder:
            train(folder, epochs=1)


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
    # A framework takes its time to end in order, and has nothing left to do.
    os._exit(0)
