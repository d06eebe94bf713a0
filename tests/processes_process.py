"""One of several processes that train a model together on JAX.

python processes_process.py WHAT PORT COUNT PROCESS FOLDER
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import jax
import keras
import numpy as np

import keras_swift as ks
from keras_swift.src import backends
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.swift import trainer as swift_training

jax.config.update("jax_cpu_collectives_implementation", "gloo")
SIZE, BATCH = 64, 16


def build(dropout=0.0):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def part(process, size=SIZE):
    """The data of a process; a few hard examples make drawing by importance pay."""
    generator = np.random.default_rng(process)
    x = generator.normal(size=(size, 8)).astype("float32")
    y = (x @ np.random.default_rng(9).normal(size=(8, 3))).argmax(1)
    y[: size // 8] = (y[: size // 8] + 1) % 3
    return x, y


def probabilities(model, x):
    """What the model puts out; `model.predict` cannot fetch it over processes."""
    kernel, bias, last, last_bias = model.get_weights()
    outputs = np.exp(np.maximum(x @ kernel + bias, 0) @ last + last_bias)
    return outputs / outputs.sum(1, keepdims=True)


class Draws(keras.callbacks.Callback):
    """Notes what is drawn, and of the last batch by importance all that its draw came from."""

    def __init__(self):
        super().__init__()
        self.indices, self.importance, self.rates = [], [], []

    def on_batch_drawn(self, batch):
        self.indices.append(batch.indices.tolist())
        self.importance.append(batch.importance.tolist())
        self.rates.append(batch.rate_scale)


def numbers(model, history, draws):
    return {
        "weights": [weight.ravel().tolist() for weight in model.get_weights()],
        "history": history.history,
        "drawn": draws.indices,
        "importance": draws.importance,
        "rates": draws.rates,
    }


def step(process):
    """One step by fresh scores of the whole part, and what it was made of."""
    x, y = part(process)
    model, draws = build(), Draws()
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    before = model.get_weights()
    scores = Scorer(model)(x, y)["gradient_norm"]
    trainer = ks.ImportanceTraining(model, SIZE / BATCH, tau_threshold=0, seed=5)
    trainer.fit(x, y, BATCH, steps_per_epoch=1, verbose=0, callbacks=[draws])
    after = model.get_weights()
    # What an epoch of steps that change nothing leaves in the memory.
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    trainer = ks.ImportanceTraining(model, seed=5)
    trainer.fit(x, y, BATCH, verbose=0)
    return {
        "remembered": trainer.memory.probability.tolist(),
        "predicted": probabilities(model, x)[np.arange(SIZE), y].tolist(),
        "before": [weight.tolist() for weight in before],
        "after": [weight.tolist() for weight in after],
        "scores": scores.tolist(),
        "indices": draws.indices[0],
        "importance": draws.importance[0],
    }


def resume(process, folder):
    """Six epochs; six that end after the third and begin again: in folders of each process."""
    x, y = part(process)
    found = {}
    for name, ends in {"whole": None, "resumed": 3, "ours": 4}.items():
        for end in (ends, None):
            model, draws = build(dropout=0.1), Draws()
            own = os.path.join(folder, f"{name}{process}")
            backup = keras.callbacks.BackupAndRestore(own, delete_checkpoint=False)
            if name == "ours":
                backup = ks.BackupAndRestore(own, save_freq=3, delete_checkpoint=False)
            trainer = ks.ImportanceTraining(model, seed=3)
            callbacks = [draws, backup, Ends(end)]
            try:
                history = trainer.fit(x, y, BATCH, epochs=6, verbose=0, callbacks=callbacks)
            except KeyboardInterrupt:
                continue
            found[name] = numbers(model, history, draws)
            found[f"{name}_files"] = sorted(os.listdir(backup.backup_dir))
            break
    return found


class Ends(keras.callbacks.Callback):
    """Ends a run in the epoch of this number, like a machine that goes away."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def refuse(process, folder):
    """Errors before training starts, on every process."""
    x, y = part(process)
    found = {}

    def error(name, function):
        try:
            function()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    def fit(x, y, batch=BATCH):
        return ks.ImportanceTraining(build(), seed=3).fit(x, y, batch, verbose=0)

    # Parts of two and three batches: nobody ends an epoch while the other waits for it.
    uneven, size = build(), 32 + 16 * process
    trainer = ks.ImportanceTraining(uneven, seed=3)
    trainer.fit(x[:size], y[:size], 16, steps_per_epoch=3, epochs=2, verbose=0)
    found["uneven"] = int(uneven.optimizer.iterations)
    error("multiple", lambda: fit(x[:60], y[:60]))
    error("steps", lambda: fit(x[: 32 + 16 * process], y[: 32 + 16 * process]))
    error(
        "batch_size", lambda: fit(x[: 32 * (1 + process)], y[: 32 * (1 + process)], 16 << process)
    )
    reference = build()
    sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.2], [1.0], features=["loss"])
    size = 40 + 8 * process
    swift = ks.SwiftTraining(build(), sampler, reference=reference, seed=1)
    error("swift", lambda: swift.fit(x[:size], y[:size], BATCH, verbose=0))
    own = keras.distribution.distribution()
    own.auto_shard_dataset = True
    error("shards", lambda: fit(x, y))
    mesh = keras.distribution.DeviceMesh(
        (1, 2), ("batch", "model"), keras.distribution.list_devices()
    )
    layout = keras.distribution.LayoutMap(mesh)
    layout["dense.*kernel"] = (None, "model")
    parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    keras.distribution.set_distribution(parallel)
    error("parallel", lambda: fit(x, y))
    keras.distribution.set_distribution(None)
    error("alone", lambda: fit(x, y))
    return found


def die(process, folder):
    """The last process goes away in the third epoch."""
    x, y = part(process)

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2 and process == 1:
                os._exit(9)

    try:
        ks.ImportanceTraining(build(), seed=3).fit(
            x, y, BATCH, epochs=10**6, verbose=0, callbacks=[Dies()]
        )
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        # Else Python waits until JAX' heartbeat gives the other one up.
        os._exit(3)


def train(process, folder):
    x, y = part(process)
    found = {"step": step(process)}
    for name, arguments in {
        "fresh": {"tau_threshold": 0},
        "remembered": {},
        # A gate that opens on its way.
        "mixed": {"tau_threshold": 0.5},
    }.items():
        model, draws = build(), Draws()
        trainer = ks.ImportanceTraining(model, seed=3, **arguments)
        history = trainer.fit(x, y, BATCH, epochs=6, verbose=0, callbacks=[draws])
        found[name] = numbers(model, history, draws)
    # The model as it is, on batches that its user's own loop hands over.
    model = build()
    dataset = ks.ImportanceDataset(model, x, y, batch_size=BATCH, tau_threshold=0, seed=1)
    history = model.fit(dataset, epochs=2, verbose=0, callbacks=[dataset.callback()])
    found["dataset"] = numbers(model, history, Draws())
    # A sampler's features are computed by each process for its own examples.
    model, reference = build(), build()
    sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.2], [1.0], features=["loss"])
    trainer = ks.SwiftTraining(model, sampler, reference=reference, seed=1)
    history = trainer.fit(x, y, BATCH, epochs=2, verbose=0)
    found["swift"] = numbers(model, history, Draws())
    return found


class Noted(swift_training.DrawnDataset):
    """Notes the probabilities that it draws by."""

    def __init__(self, source, probability, *args, **kwargs):
        Noted.probability = probability.tolist()
        super().__init__(source, probability, *args, **kwargs)


def features(process, folder):
    """Features, suspects and a sampler's ranks, each process for its own part."""
    x, y = part(process)
    model = build()
    weights = model.get_weights()
    columns = ks.compute_features(model, x, y, ("loss",), batch_size=24, verbose=0)
    found = {"loss": columns["loss"].tolist(), "predicted": probabilities(model, x).tolist()}
    # Parts of different sizes, and numbers that float32 cannot tell apart.
    values = process + np.arange(5 + process) * 1e-12
    gathered = backends.active().gather_rows({"a": values, "b": -values})
    found["gathered"] = [gathered.columns["a"].tolist(), gathered.columns["b"].tolist()]
    found["own"] = [gathered.own.start, gathered.own.stop, len(gathered.parts)]
    suspects = ks.find_suspects(model, x, y, epochs=6, batch_size=BATCH, seed=1, verbose=0)
    found["as it was"] = all(map(np.array_equal, weights, model.get_weights()))
    found["suspects"] = {
        "indices": suspects.indices.tolist(),
        "scores": suspects.scores.tolist(),
        "instead": suspects.instead.tolist(),
        "share": [suspects.wrong_share.estimate, suspects.wrong_share.high],
        "record": {name: column.tolist() for name, column in suspects.record.columns().items()},
    }
    swift_training.DrawnDataset = Noted
    sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], ["order"], "cdf")
    for name, numbers in {
        "overlapping": np.arange(SIZE) + process * SIZE / 2,
        "apart": np.arange(SIZE) + process * 10 * SIZE,
    }.items():
        trainer = ks.SwiftTraining(model, sampler, features={"order": numbers}, seed=1)
        trainer.fit(x, y, BATCH, verbose=0)
        found[name] = Noted.probability
    none_above = ks.SwiftSampler([0.5], [1.0, 0.0, 0.0], [1.0], ["order"], "cdf")
    try:
        numbers = np.arange(SIZE) + process * 10.0 * SIZE
        trainer = ks.SwiftTraining(model, none_above, features={"order": numbers}, seed=1)
        trainer.fit(x, y, BATCH, verbose=0)
    except ValueError as error:
        found["nothing"] = str(error)
    return found


if __name__ == "__main__":
    what, port, count, process, folder = sys.argv[1:]
    count, process = int(count), int(process)
    keras.distribution.initialize(f"127.0.0.1:{port}", count, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    found = globals()[what](process, folder)
    with open(os.path.join(folder, f"{what}{process}.json"), "w") as file:
        json.dump(found, file)
