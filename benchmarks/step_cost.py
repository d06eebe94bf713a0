"""What a training step costs: plain `model.fit`, gate shut, importance on.

    python benchmarks/step_cost.py [--batch-size 128] [--rounds 7]

The backend is KERAS_BACKEND's. In every round each side trains one epoch in
turn, after a first epoch that compiles and is not counted, so that a machine
that speeds up or slows down does so for all. Printed are medians over rounds
of the ratios within a round, of CPU seconds or (`--clock wall`, for a GPU) of
wall-clock seconds.

`parts` is the sum of what an importance step cannot do without: a plain step
and one call of the scoring function on the presample.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_swift as ks
from keras_swift.scoring import Scorer


def mlp():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


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


def timed(fit, x, y, batch_size, now):
    clock = LastEpoch(now)
    fit(x, y, batch_size=batch_size, epochs=2, verbose=0, callbacks=[clock])
    return clock.seconds


def measure(build, batch_size, presample, steps, rounds, now):
    generator = np.random.default_rng(0)
    size = batch_size * steps
    x = generator.random((size, 28, 28, 1), dtype=np.float32)
    y = generator.integers(0, 10, size)
    model = build()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    shut = ks.ImportanceTraining(model, presample=presample, tau_threshold=1e9, seed=0)
    opened = ks.ImportanceTraining(model, presample=presample, tau_threshold=0, seed=0)
    scorer = Scorer(model)
    rows = int(batch_size * presample)
    table = []
    for _ in range(rounds + 1):
        plain = timed(model.fit, x, y, batch_size, now)
        closed = timed(shut.fit, x, y, batch_size, now)
        importance = timed(opened.fit, x, y, batch_size, now)
        scorer(x[:rows], y[:rows])
        start = now()
        for step in range(steps):
            first = step * batch_size % (size - rows + 1)
            scorer(x[first : first + rows], y[first : first + rows])
        table.append((plain, closed, importance, (now() - start) / steps))
    # The first round warms caches up.
    return np.array(table[1:])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--presample", type=float, default=3.0)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--steps", type=int, default=200, help="steps an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(
        f"backend {keras.backend.backend()}, batch {arguments.batch_size}, "
        f"presample {arguments.presample:g}, {arguments.rounds} rounds, "
        f"medians of {arguments.clock} time\n"
    )
    print("| model | fit, ms | shut / fit | importance / fit | importance / parts | f |")
    print("|---|---|---|---|---|---|")
    for name, build in (("MLP 784-512-512-10", mlp), ("small CNN", cnn)):
        table = measure(
            build,
            arguments.batch_size,
            arguments.presample,
            arguments.steps,
            arguments.rounds,
            CLOCKS[arguments.clock],
        )
        plain, closed, importance, scoring = table.T
        print(
            f"| {name} | {np.median(plain) * 1e3:.1f} | {np.median(closed / plain):.3f} "
            f"| {np.median(importance / plain):.2f} "
            f"| {np.median(importance / (plain + scoring)):.3f} "
            f"| {np.median(scoring / plain) / arguments.presample:.2f} |"
        )
    print("\n`f`: scoring one example over training one.")


if __name__ == "__main__":
    main()
