"""Trainings that are killed, each in a process of its own, forked from one that has imported all.

python kills_process.py, with a JSON object in each line of its input:
    {"folder": str, "output": str, "settings": dict, "after": seconds,
     "call": [name, number, moment]}
It starts `backup_cases.train(folder, **settings)`, kills it after so many seconds, or before or
after a call of a function, and answers in a line. A run that ends writes its weights and history.
"""

import builtins
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

# What a backup is written, made current and deleted with.
CALLS = {
    "weights": (keras.Model, "save_weights"),
    "state": (h5py.Group, "create_dataset"),
    "checksum": (hashlib, "file_digest"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
    "delete": (os, "unlink"),
    "delete folder": (os, "rmdir"),
    "open": (builtins, "open"),
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


def child(request):
    """Trains; returns only the exit status."""
    try:
        if request.get("call"):
            kill_at(*request["call"])
        weights, history = train(request["folder"], **request["settings"])
        history = {name: np.asarray(values) for name, values in history.items()}
        with open(request["output"], "wb") as file:
            np.savez(file, *weights, **{f"history {k}": v for k, v in history.items()})
        return 0
    except BaseException:
        traceback.print_exc()
        return 1


def run(request):
    """Starts a training and kills it; what happened."""
    begun = time.monotonic()
    process = os.fork()
    if not process:
        os._exit(child(request))
    if request.get("after"):
        time.sleep(request["after"])
        # Until it has been waited for, the number is its own.
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return {
        "killed": os.WIFSIGNALED(status),
        "failed": os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0,
        "seconds": time.monotonic() - begun,
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
