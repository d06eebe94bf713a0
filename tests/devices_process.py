"""A training on several devices of one machine, in a process of its own.

python devices_process.py DEVICES OUTPUT.json
"""

import contextlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_swift as ks
from keras_swift.src.importance import prepare

rows, drawn, devices = set(), [], set()
place = keras.distribution.distribute_tensor


def scope(count):
    """Where a model is to be built to train on that many devices."""
    if count == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel().scope()
    import tensorflow as tf

    (host,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(host, logical)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)]).scope()


class Look(keras.layers.Layer):
    """Notes how many rows each device is given to score."""

    def call(self, x):
        rows.add(x.shape[0])
        return x


class Draws(keras.callbacks.Callback):
    def on_batch_drawn(self, batch):
        drawn.append(batch.indices.tolist())


def placed(tensor, layout):
    tensor = place(tensor, layout)
    devices.add((tensor.shape[0], len(tensor.sharding.device_set)))
    return tensor


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            Look(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    # An optimizer with variables for each weight.
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def of_threes(y_true, y_pred):
    return keras.ops.cast(keras.ops.equal(y_true, 3), "float32") + 0.1


def train(model):
    """Two epochs with the gate shut, two with it open, and some by default."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")[:320]
    histories = []
    for tau in (1e9, 0):
        rows.clear()
        # A presample of 94, which neither 4 nor 32 divide.
        trainer = ks.ImportanceTraining(model, presample=2.91, tau_threshold=tau, seed=0)
        history = trainer.fit(x, y[:320], epochs=2, verbose=0, callbacks=[Draws()])
        histories.append(history.history)
    weights = [float(np.abs(weight).sum()) for weight in model.get_weights()]
    # By default, with a gate that opens at once.
    prepare.COST_RATIO = 0.01
    trainer = ks.ImportanceTraining(model, score=of_threes, seed=0)
    default = trainer.fit(x, y[:320], epochs=3, verbose=0).history
    return {"histories": histories, "weights": weights, "default": default}


if __name__ == "__main__":
    keras.distribution.distribute_tensor = placed
    with scope(int(sys.argv[1])):
        model = build()
        # `tf.distribute` has to be entered for building alone.
        if keras.backend.backend() == "jax":
            measured = train(model)
    if keras.backend.backend() != "jax":
        measured = train(model)
    found = {
        **measured,
        "drawn": drawn,
        "rows": sorted(size for size in rows if size is not None),
        "devices": sorted(devices),
    }
    with open(sys.argv[2], "w") as file:
        json.dump(found, file)
