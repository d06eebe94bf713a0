"""What a training step costs: plain `model.fit`, ours by default, the paper's rule.

    python benchmarks/step_cost.py [--batch-size 128] [--rounds 7]
    python benchmarks/step_cost.py --batch-size 32 --pipelines tf.data loader iterable slow
    python benchmarks/step_cost.py --batch-size 1024 --sizes 10000 100000 1000000 10000000
    python benchmarks/step_cost.py --batch-size 1024 --sizes 1000000 10000000 --pipelines loader

The backend is KERAS_BACKEND's. In every round each side trains two epochs in turn, of which the
second is timed, so that a machine that speeds up or slows down does so for all; the first round
compiles and is not counted. Printed are medians over rounds of the ratios within a round, of CPU
seconds or (`--clock wall`, for a GPU) of wall-clock seconds.

`with weights` is `fit` with a `sample_weight` of ones, which every batch of importance training
carries. `ours` draws by remembered scores, recorded in every step. `shut` is the paper's rule with
its gate shut, `open` with its gate open; `f` is the cost of scoring an example over training on it.

With `--pipelines`, a step of ours from a pipeline that shuffles anew in each epoch, over one of
`fit` from the same pipeline: `tf.data`, a `DataLoader`, any iterable, and "slow", an iterable that
takes as long for a batch as `fit` for a step (in wall-clock seconds; it sleeps).

With `--sizes`, a step of ours on data mapped from the disk, for each number of examples, drawn by
remembered scores: what it costs over one of `fit`, and how much memory the process gained by it;
with `--pipelines loader` too, the same files through a `DataLoader` that shuffles.
"""

import argparse
import os
import resource
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_swift as ks
from keras_swift.src.scoring.scorer import Scorer


def mlp(*widths):
    hidden = [keras.layers.Dense(width, activation="relu") for width in widths]
    output = keras.layers.Dense(10, activation="softmax")
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), *hidden, output])


def cnn():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def lstm():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Reshape((28, 28)),
            keras.layers.LSTM(64),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


MODELS = {
    "MLP 784-32-10": lambda: mlp(32),
    "MLP 784-512-512-10": lambda: mlp(512, 512),
    "small CNN": cnn,
    "LSTM, 28 steps of time": lstm,
}
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class LastEpoch(keras.callbacks.Callback):
    """Seconds a step of the last epoch."""

    def __init__(self, now):
        super().__init__()
        self.now = now

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.now()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = (self.now() - self.start) / self.params["steps"]


def timed(fit, x, y, batch_size, now, **settings):
    clock = LastEpoch(now)
    fit(x, y, batch_size=batch_size, epochs=2, verbose=0, callbacks=[clock], **settings)
    return clock.seconds


def measure(build, batch_size, presample, steps, rounds, now):
    """A row for each round: milliseconds a step of each side, and of scoring a presample."""
    generator = np.random.default_rng(0)
    size = batch_size * steps
    x = generator.random((size, 28, 28, 1), dtype=np.float32)
    # Labels that can be learned, so that scores differ and are drawn by.
    y = (10 * x[:, :14].mean(axis=(1, 2, 3)) * 5).astype(int) % 10
    model = build()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    ones = np.ones(size, np.float32)
    ours = ks.ImportanceTraining(model, seed=0)
    paper = {"presample": presample, "seed": 0}
    shut = ks.ImportanceTraining(model, tau_threshold=1e9, **paper)
    opened = ks.ImportanceTraining(model, tau_threshold=0, **paper)
    rows = int(batch_size * presample)
    scorer = Scorer(model)
    scorer(x[:rows], y[:rows])
    table = []
    for _ in range(rounds + 1):
        plain = timed(model.fit, x, y, batch_size, now)
        with_weights = timed(model.fit, x, y, batch_size, now, sample_weight=ones)
        remembered = timed(ours.fit, x, y, batch_size, now)
        closed = timed(shut.fit, x, y, batch_size, now)
        importance = timed(opened.fit, x, y, batch_size, now)
        start = now()
        for step in range(steps):
            first = step * batch_size % (size - rows + 1)
            scorer(x[first : first + rows], y[first : first + rows])
        scoring = (now() - start) / steps
        table.append((plain, with_weights, remembered, closed, importance, scoring))
    return np.array(table[1:])


class Shuffled:
    """Batches in another order in each pass, `wait` seconds apart."""

    def __init__(self, x, y, batch_size, wait=0.0):
        self.x, self.y, self.batch_size, self.wait = x, y, batch_size, wait
        self.generator = np.random.default_rng(1)

    def __len__(self):
        return len(self.x) // self.batch_size

    def __iter__(self):
        order = self.generator.permutation(len(self.x))
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[first : first + self.batch_size]
            if self.wait:
                time.sleep(self.wait)
            yield self.x[rows], self.y[rows]

    def forever(self):
        while True:
            yield from self


def pipeline(name, x, y, batch_size, wait):
    """What `fit` is given; made anew for each call."""
    if name == "tf.data":
        import tensorflow as tf

        pairs = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))
        return pairs.batch(batch_size, drop_remainder=True)
    if name == "loader":
        import torch

        data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)
    return Shuffled(x, y, batch_size, wait)


def by_pipeline(names, build, batch_size, steps, rounds):
    print("| pipeline | fit, ms a step | ours / fit, CPU | ours / fit, wall |\n|---|---|---|---|")
    generator = np.random.default_rng(0)
    x = generator.random((batch_size * steps, 28, 28, 1), dtype=np.float32)
    y = (10 * x[:, :14].mean(axis=(1, 2, 3)) * 5).astype(int) % 10
    wait = 0.0
    for name in names:
        sides = []
        for ours in (False, True):
            model = build()
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy"
            )
            source = pipeline(name, x, y, batch_size, wait if name == "slow" else 0.0)
            trainer = ks.ImportanceTraining(model, seed=0, ease_off=False)
            sides.append((trainer.fit if ours else model.fit, source))
        found = []
        for _ in range(rounds + 1):
            found.append([])
            for fit, source in sides:
                clocks = [LastEpoch(now) for now in CLOCKS.values()]
                given = source
                if isinstance(source, Shuffled):
                    # Keras takes generators, not any iterable.
                    given = source.forever()
                fit(given, epochs=2, verbose=0, callbacks=clocks, steps_per_epoch=steps)
                found[-1].append([clock.seconds for clock in clocks])
        # Axes: round, side, clock.
        found = np.array(found[1:])
        plain = np.median(found[:, 0, 1])
        wait = wait or plain
        ratios = np.median(found[:, 1] / found[:, 0], axis=0)
        print(f"| {name} | {plain * 1e3:.2f} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


class MappedRows:
    """A PyTorch data set whose rows are read a batch at a time."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitems__(self, rows):
        return self.x[rows], self.y[rows]


class ShuffledRows:
    """Arrays of indices, in another order in each pass; PyTorch's own are lists of integers."""

    def __init__(self, size, batch_size):
        self.size, self.batch_size = size, batch_size
        self.generator = np.random.default_rng(1)

    def __len__(self):
        return self.size // self.batch_size

    def __iter__(self):
        order = self.generator.permutation(self.size).astype(np.int32)
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[first : first + self.batch_size]


def mapped_loader(x, y, batch_size):
    import torch

    return torch.utils.data.DataLoader(
        MappedRows(x, y),
        batch_sampler=ShuffledRows(len(x), batch_size),
        collate_fn=lambda part: tuple(map(torch.from_numpy, part)),
    )


class Epochs(keras.callbacks.Callback):
    """Seconds a step of each epoch, and the process' own memory at its end."""

    def __init__(self, now):
        super().__init__()
        self.now, self.seconds, self.memory = now, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = self.now()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append((self.now() - self.start) / self.params["steps"])
        self.memory.append(anonymous_memory())


def by_size(sizes, batch_size, steps, now, by_loader):
    """Milliseconds of a step and memory gained by ours, for data of each size on the disk."""
    heads = ("examples", "file, MB", "fit, ms a step", "ours / fit", "memory of fit, MB")
    print(f"| {' | '.join(heads)} | of ours, MB | bytes an example |\n|{'---|' * 7}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            shapes = {"x": ((size, 16), "float32"), "y": ((size,), "int64")}
            x, y = (
                np.memmap(os.path.join(folder, name), dtype, "w+", shape=shape)
                for name, (shape, dtype) in shapes.items()
            )
            generator = np.random.default_rng(0)
            for first in range(0, size, 100_000):
                part = x[first : first + 100_000]
                part[:] = generator.standard_normal(part.shape, dtype=np.float32)
                # Labels that can be learned but for some, so that scores differ.
                y[first : first + 100_000] = part[:, 0] + part[:, 1] + part[:, 2] ** 2 > 1
            x.flush()
            y.flush()
            x, y = (
                np.memmap(os.path.join(folder, name), dtype, "r", shape=shape)
                for name, (shape, dtype) in shapes.items()
            )
            # The first epoch sees every example once; of the later ones the last is timed.
            epochs = 2 + steps * batch_size // size
            found = []
            for name in ("fit", "ours"):
                layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(2)]
                model = keras.Sequential([keras.Input((16,)), *layers])
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                model.compile(keras.optimizers.SGD(0.05), loss)
                fit = model.fit if name == "fit" else ks.ImportanceTraining(model, seed=0).fit
                before, clock = anonymous_memory(), Epochs(now)
                given = {"x": x, "y": y, "batch_size": batch_size}
                if by_loader:
                    given = {"x": mapped_loader(x, y, batch_size)}
                history = fit(**given, epochs=epochs, verbose=0, callbacks=[clock])
                found.append((np.median(clock.seconds[1:]), max(clock.memory) - before))
            if not history.history["importance"][-1]:
                raise RuntimeError("The last epoch was to be drawn by importance, and was uniform.")
            (plain, of_fit), (seconds, gained) = found
            print(
                f"| {size:,} | {size * 72 / 1e6:,.0f} | {plain * 1e3:.2f} "
                f"| {seconds / plain:.3f} | {of_fit / 1e6:.1f} | {gained / 1e6:.1f} "
                f"| {gained / size:.1f} |",
                flush=True,
            )


def anonymous_memory():
    """Bytes of the process that are its own, not pages of a mapped file."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--presample", type=float, default=3.0)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--steps", type=int, default=200, help="steps an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pipelines", nargs="+", choices=("tf.data", "loader", "iterable", "slow"))
    parser.add_argument("--sizes", type=int, nargs="+", help="examples on the disk")
    arguments = parser.parse_args()
    if arguments.sizes:
        by_loader = arguments.pipelines == ["loader"]
        print(
            f"backend {keras.backend.backend()}, batch {arguments.batch_size}, remembered scores, "
            f"{arguments.clock} time{', through a DataLoader' if by_loader else ''}\n"
        )
        now = CLOCKS[arguments.clock]
        by_size(arguments.sizes, arguments.batch_size, arguments.steps, now, by_loader)
        return
    if arguments.pipelines:
        print(f"backend {keras.backend.backend()}, batch {arguments.batch_size}\n")
        for name in arguments.models:
            print(f"{name}\n")
            by_pipeline(
                arguments.pipelines,
                MODELS[name],
                arguments.batch_size,
                arguments.steps,
                arguments.rounds,
            )
        return
    print(
        f"backend {keras.backend.backend()}, batch {arguments.batch_size}, "
        f"presample {arguments.presample:g}, {arguments.rounds} rounds, "
        f"medians of {arguments.clock} time\n"
    )
    head = ("model", "fit, ms", "with weights / fit", "ours / fit", "shut / fit", "open / fit", "f")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in arguments.models:
        table = measure(
            MODELS[name],
            arguments.batch_size,
            arguments.presample,
            arguments.steps,
            arguments.rounds,
            CLOCKS[arguments.clock],
        )
        plain, *others, scoring = table.T
        ratios = " | ".join(f"{np.median(other / plain):.3f}" for other in others)
        print(
            f"| {name} | {np.median(plain) * 1e3:.2f} | {ratios} "
            f"| {np.median(scoring / plain) / arguments.presample:.2f} |",
            flush=True,
        )
    print("\n`f`: scoring one example over training one.")


if __name__ == "__main__":
    main()
