"""A search in a process of its own, for tests that kill it or run several at once.

python search_process.py DIRECTORY RESULT.json KILL_IN_TRIAL
"""

import json
import os
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_digits
from small_models import classifier

import keras_swift as ks
from keras_swift.src.search.run import SearchRun


def run_search(directory, **arguments):
    """The search all of these tests make."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    settings = {
        "max_trials": 8,
        "finetune_epochs": 1,
        "pretrain_epochs": 1,
        "seed": 0,
        "batch_size": 100,
        "features": ("loss",),
        "segments": 2,
        "confirm": 1,
        "verbose": 0,
    }
    return ks.search(
        classifier(),
        x[:300],
        y[:300],
        validation_data=(x[300:500], y[300:500]),
        directory=directory,
        **{**settings, **arguments},
    )


def describe(result):
    return {
        "trials": [[*trial.parameters.tolist(), trial.objective] for trial in result.trials],
        "loss": result.record.loss.tolist(),
        "confirmed": [[trial.number, trial.objective] for trial in result.confirmed],
        "best": result.best.number,
        "weights": [float(np.sum(weight)) for weight in result.pretrained_weights],
    }


if __name__ == "__main__":
    directory, output, kill_in = sys.argv[1], sys.argv[2], int(sys.argv[3])
    train, judged = SearchRun._train, []

    def train_or_die(self, *arguments, **keywords):
        found = train(self, *arguments, **keywords)
        # Pretraining and confirmation average over a whole epoch, a trial over half of its own.
        judged.append(keywords["averaged"] < 1)
        if sum(judged) == kill_in + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    SearchRun._train = train_or_die
    # The chief looks every twenty seconds whether the workers are done.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.2))
    result = run_search(directory)
    with open(output, "w") as file:
        json.dump(describe(result), file)
