"""Short trainings with a backup, for tests that end them at any moment."""

import contextlib

import keras
import numpy as np

import keras_swift as ks

SIZE, BATCH, EPOCHS = 120, 12, 3
CUT = ks.SwiftSampler([0.5, 0.5], [1, 1, 0.2, 0.2], [1.0], ["order"], "cdf")
OWN = ks.SwiftSampler([0.5, 0.5], [1, 1, 0.2, 0.2], [1.0], ["mean_loss"], "cdf")


def examples():
    x = np.random.default_rng(0).normal(size=(SIZE, 8)).astype("float32")
    return x, x[:, :4].argmax(axis=1)


class Batches(keras.utils.PyDataset):
    """The same examples, by the batch."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    @property
    def num_batches(self):
        return SIZE // BATCH

    def __getitem__(self, index):
        rows = slice(BATCH * index, BATCH * index + BATCH)
        return self.x[rows], self.y[rows]


def build(seed=1, width=16, steps_per_execution=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.02),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    return model


def fit(model, kind="remembered", source="arrays", seed=0):
    """The function `fit` of a kind of training, with its data."""
    x, y = examples()
    if kind == "remembered":
        trainer = ks.ImportanceTraining(model, seed=seed)
    elif kind == "fresh":
        trainer = ks.ImportanceTraining(model, tau_threshold=0.0, seed=seed)
    elif kind == "own record":
        trainer = ks.SwiftTraining(model, OWN, seed=seed, warmup=1)
    elif kind == "swift":
        features = {"order": np.arange(float(SIZE))}
        trainer = ks.SwiftTraining(model, CUT, features=features, seed=seed)
    else:
        trainer = model
    data = {"x": x, "y": y, "batch_size": BATCH} if source == "arrays" else {"x": Batches(x, y)}
    if kind == "plain" and keras.backend.backend() == "tensorflow":
        # There the order of the data is that of a generator that nobody can read.
        data["shuffle"] = False
    return lambda **rest: trainer.fit(**data, **rest)


class Ended(BaseException):
    """Ends a run as a kill would: nothing of ours catches it."""


class EndAt(keras.callbacks.Callback):
    """Ends a run after a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) >= self.at:
            raise Ended


def train(folder, *others, kind="remembered", source="arrays", epochs=EPOCHS, spe=1, **backup):
    """A run, ended by one of the other callbacks or not: its weights and history, if not."""
    model = build(steps_per_execution=spe)
    callbacks = [ks.BackupAndRestore(folder, **backup), *others]
    history = fit(model, kind, source)(epochs=epochs, verbose=0, callbacks=callbacks)
    return [np.array(weight) for weight in model.get_weights()], history.history


def ended(folder, epoch, batch, **settings):
    """A run that ends after a batch of an epoch."""
    with contextlib.suppress(Ended):
        train(folder, EndAt(epoch, batch), **settings)
        raise AssertionError("the run was not ended")


def assert_goes_on(found, whole):
    """Weights and the end of the history are the same, to the last bit."""
    for ours, theirs in zip(found[0], whole[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, values in found[1].items():
        assert values == whole[1][name][len(whole[1][name]) - len(values) :], name
