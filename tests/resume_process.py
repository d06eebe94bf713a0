"""A training in a process of its own, for the test that kills it.

python resume_process.py KIND DIRECTORY OUTPUT.npz KILL_IN_EPOCH
"""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_swift as ks


class Batches(keras.utils.PyDataset):
    """Digits by the batch, for which a place can be told."""

    def __init__(self, x, y, rows):
        super().__init__()
        self.x, self.y, self.rows = x, y, rows

    @property
    def num_batches(self):
        return 300 // self.rows

    def __getitem__(self, index):
        rows = slice(self.rows * index, self.rows * (index + 1))
        return self.x[rows], self.y[rows]


class Kill(keras.callbacks.Callback):
    """Kills the process in the middle of an epoch, as a lost machine would."""

    def __init__(self, epoch):
        super().__init__()
        self.in_epoch, self.epoch = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.in_epoch and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def train(kind, directory, kill_in=None):
    """Five epochs, uniform at first and then not; the weights and the history."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            # Its random state has to be restored too.
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    callbacks = [keras.callbacks.BackupAndRestore(directory)]
    if kill_in is not None:
        callbacks.append(Kill(kill_in))
    settings = {"epochs": 5, "verbose": 0, "callbacks": callbacks}
    if kind == "swift":
        sampler = ks.SwiftSampler([0.5, 0.5], [1, 1, 0.2, 0.2], [1.0], ["order"], "cdf")
        training = ks.SwiftTraining(model, sampler, features={"order": np.arange(300.0)}, seed=0)
    elif kind.startswith("remembered"):
        # Draws by importance to the end from batches, so what was read last has to come back.
        training = ks.ImportanceTraining(model, seed=0, ease_off=kind == "remembered")
    else:
        training = ks.ImportanceTraining(model, tau_threshold=0.8, seed=0)
    if kind.endswith("batches"):
        # Pools of so many batches have earlier ones besides what was just read.
        rows = 5 if kind == "remembered batches" else 20
        history = training.fit(Batches(x, y, rows), **settings)
    else:
        history = training.fit(x[:300], y[:300], batch_size=20, **settings)
    return model.get_weights(), history.history


if __name__ == "__main__":
    kind, directory, output, kill_in = sys.argv[1:]
    weights, history = train(kind, directory, int(kill_in) if kill_in != "never" else None)
    np.savez(output, *weights, share=history.get("importance", []))
