"""A search in a process of its own, for tests that kill it or run several at once.

python search_process.py DIRECTORY RESULT.json KILL_IN_TRIAL
"""

import json
import os
import pathlib
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_swift as ks

SCRIPT = pathlib.Path(__file__)


def environment(**changes):
    """For a process of its own."""
    # Deterministic across processes, and two cores are shared by several of them. The package may
    # be imported from a checkout that is not installed.
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "PYTHONPATH": str(pathlib.Path(ks.__file__).parents[1]),
        **changes,
    }


def network():
    """With random numbers of its own, where a framework keeps them."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def run_search(directory, **arguments):
    """The search all of these tests make."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    settings = {
        "max_trials": 8,
        "finetune_epochs": 1,
        # Tells the pretraining from a trial.
        "pretrain_epochs": 2,
        "seed": 0,
        "batch_size": 100,
        "space": ks.SamplerSpace(("loss",), segments=2),
        "confirm": 1,
        "verbose": 0,
    }
    return ks.search(
        network(),
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
    fit, trials = keras.Model.fit, []

    def fit_or_die(self, *arguments, **keywords):
        history = fit(self, *arguments, **keywords)
        trials.append(keywords["epochs"] == 1)
        if sum(trials) == kill_in + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return history

    keras.Model.fit = fit_or_die
    # The chief looks every twenty seconds whether the workers are done.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.2))
    result = run_search(directory)
    with open(output, "w") as file:
        json.dump(describe(result), file)
